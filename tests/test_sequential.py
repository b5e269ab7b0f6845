"""Writing in blocks without the codes, against the plain rule: solve, then Bayes' rule for covariances, in float64."""

from typing import NamedTuple

import torch
from conftest import random_memory
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyro_kanerva import MatrixNormal, OnlineWriter, conjugate
from pyro_kanerva.sequential import write_sequence


class Written(NamedTuple):
    """Addresses (..., T, K), the mean and row covariance of q(M), and the addresses' covariance, zero for points."""

    addresses: Tensor
    loc: Tensor
    covariance: Tensor
    spread: Tensor


def eye(like):
    return torch.eye(like.shape[-2], dtype=like.dtype)


def plain(loc, factor, codes, sigma, block_size, sweeps=0):
    """The rule as it is written down: for each block its addresses, then q(M); then the sweeps."""
    start = mean, covariance = loc, factor @ factor.mT
    written = []
    for block in codes.split(block_size, -2):
        precision = mean @ mean.mT + sigma**2 * eye(mean)
        address = torch.linalg.solve(precision, mean @ block.mT).mT
        innovation = address @ covariance @ address.mT + sigma**2 * eye(address)
        gain = torch.linalg.solve(innovation, address @ covariance).mT
        mean = mean + gain @ (block - address @ mean)
        covariance = covariance - gain @ address @ covariance
        written.append(address)
    addresses, spread = torch.cat(written, -2), torch.zeros_like(covariance)
    for _ in range(sweeps):
        moment = mean @ mean.mT + codes.shape[-1] * covariance
        spread = torch.linalg.inv(eye(moment) + moment / sigma**2)
        addresses = codes @ mean.mT @ spread / sigma**2
        second = addresses.mT @ addresses + codes.shape[-2] * spread
        start_precision = torch.linalg.inv(start[1])
        covariance = torch.linalg.inv(start_precision + second / sigma**2)
        mean = covariance @ (start_precision @ start[0] + addresses.mT @ codes / sigma**2)
    return Written(addresses, mean, covariance, spread)


def fast(loc, factor, codes, sigma, block_size, sweeps=0):
    """The same by the library."""
    prior = MatrixNormal(loc, factor, validate_args=False)
    memory, addresses, scale_tril, part = write_sequence(prior, codes, sigma, block_size, sweeps)
    covariance = memory.row_covariance
    spread = torch.zeros_like(covariance) if scale_tril is None else scale_tril @ scale_tril.mT
    if part is not None:
        expected = conjugate.evidence(addresses, codes, sigma, scale_tril)
        torch.testing.assert_close(part.precision, expected.precision)
        torch.testing.assert_close(part.precision_loc, expected.precision_loc)
    return Written(addresses, memory.loc, covariance, spread)


def by_the_writer(loc, factor, codes, sigma, block_size, sweeps=0):
    """The same by the public writer."""
    result = OnlineWriter(block_size, sweeps)(codes, MatrixNormal(loc, factor, validate_args=False), sigma)
    covariance = result.memory.row_covariance
    scale_tril = result.address_scale_tril
    spread = torch.zeros_like(covariance) if scale_tril is None else scale_tril @ scale_tril.mT
    return Written(result.addresses, result.memory.loc, covariance, spread)


def assert_near(found, expected, tolerance):
    """Relative to the largest entry of each."""
    for name, one, other in zip(
        found._fields if hasattr(found, "_fields") else range(9), found, expected, strict=False
    ):
        one, other = torch.broadcast_tensors(one, other)
        error, scale = (one - other).abs().max().item(), other.abs().max().item()
        assert error <= tolerance * max(scale, 1e-6), f"{name}: {error / max(scale, 1e-6):.1e}"


def relative(one, other):
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


def problem(slots, size, length, prior_batch=(), code_batch=(), sigma=0.7, seed=0):
    """Leaves: prior mean and factor, codes, sigma."""
    torch.manual_seed(seed)
    memory = random_memory(*prior_batch, slots=slots, size=size)
    codes = torch.randn(*code_batch, length, size, dtype=torch.float64)
    leaves = memory.loc.clone(), memory.scale_tril_row.clone(), codes, torch.tensor(sigma, dtype=torch.float64)
    return [leaf.requires_grad_() for leaf in leaves]


def gradients(written, leaves):
    """Of a fixed weighted sum of all results."""
    generator = torch.Generator().manual_seed(9)
    weights = [torch.randn(part.shape, generator=generator, dtype=torch.float64).to(part.dtype) for part in written]
    total = sum((part * weight).sum() for part, weight in zip(written, weights, strict=True))
    return torch.autograd.grad(total, leaves)


BATCHES = [
    ((), ()),
    ((), (2,)),
    ((2,), (2,)),
    ((1,), (2,)),
    ((), (3, 2)),
    ((2,), (3, 2)),
    ((3, 2), (3, 2)),
    ((3, 1), (3, 2)),
]

shapes = {
    "slots": st.integers(1, 9),
    "size": st.integers(1, 7),
    "length": st.integers(1, 20),
    "block_size": st.integers(1, 12),
    "sweeps": st.integers(0, 2),
    "batches": st.sampled_from(BATCHES),
    "sigma": st.floats(0.3, 3),
    "seed": st.integers(0, 999),
}


@settings(max_examples=200)
@given(**shapes)
@example(slots=3, size=5, length=6, block_size=8, sweeps=0, batches=((), (2,)), sigma=1.0, seed=0)  # T < block
@example(slots=3, size=5, length=13, block_size=4, sweeps=1, batches=((), (2,)), sigma=1.0, seed=0)  # not a multiple
@example(slots=9, size=2, length=12, block_size=3, sweeps=0, batches=((), (2,)), sigma=1.0, seed=0)  # K > C
@example(slots=2, size=7, length=20, block_size=20, sweeps=0, batches=((2,), (2,)), sigma=1.0, seed=0)  # one long block
@example(slots=4, size=1, length=9, block_size=2, sweeps=1, batches=((), (2,)), sigma=1.0, seed=0)  # C = 1
@example(slots=1, size=4, length=9, block_size=1, sweeps=1, batches=((2,), (2,)), sigma=1.0, seed=0)  # K = 1
@example(slots=4, size=3, length=1, block_size=1, sweeps=2, batches=((), ()), sigma=1.0, seed=0)  # T = 1
def test_the_plain_rule(slots, size, length, block_size, sweeps, batches, sigma, seed):
    """Addresses, R, U and their gradients by codes, prior and sigma."""
    leaves = problem(slots, size, length, *batches, sigma, seed)
    expected = plain(*leaves, block_size, sweeps)
    expected_gradients = gradients(expected, leaves)
    for write in (fast, by_the_writer):
        found = write(*leaves, block_size, sweeps)
        assert [part.shape for part in found] == [part.shape for part in expected]
        assert_near(found, expected, 1e-10)
        assert_near(gradients(found, leaves), expected_gradients, 1e-8)
