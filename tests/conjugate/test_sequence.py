"""The fast twin ``write_sequence``, against its readable twin ``write_in_blocks`` and the rule in plain torch."""

import gc
import math
import weakref
from typing import NamedTuple

import pyro
import pytest
import torch
from helpers import random_factor, random_memory
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_kanerva import MatrixNormal, OnlineWriter, conjugate
from pyro_kanerva.conjugate import sequence, write_sequence
from pyro_kanerva.writers import write_in_blocks


class Written(NamedTuple):
    """Addresses (..., T, K), the mean and row covariance of q(M), and the addresses' covariance, zero for points."""

    addresses: Tensor
    loc: Tensor
    covariance: Tensor
    spread: Tensor


def eye(like):
    return torch.eye(like.shape[-2], dtype=like.dtype)


def plain(loc, factor, codes, sigma, block_size, sweeps=0):
    """The rule in plain torch: for each block its addresses, then q(M); then the sweeps."""
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


def written(posterior, addresses, scale_tril):
    covariance = posterior.row_covariance
    spread = torch.zeros_like(covariance) if scale_tril is None else scale_tril @ scale_tril.mT
    return Written(addresses, posterior.loc, covariance, spread)


def fast(loc, factor, codes, sigma, block_size, sweeps=0):
    """By the fast twin."""
    return written(*write_sequence(MatrixNormal(loc, factor, validate_args=False), codes, sigma, block_size, sweeps))


def readable(loc, factor, codes, sigma, block_size, sweeps=0):
    """By the readable twin."""
    return written(*write_in_blocks(MatrixNormal(loc, factor, validate_args=False), codes, sigma, block_size, sweeps))


def by_the_writer(loc, factor, codes, sigma, block_size, sweeps=0):
    """By the public writer, which chooses one of the two."""
    result = OnlineWriter(block_size, sweeps)(codes, MatrixNormal(loc, factor, validate_args=False), sigma)
    return written(*result[:3])


def assert_near(found, expected, tolerance):
    """Errors are relative to the largest entry of each result."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        error, scale = (one - other).abs().max().item(), max(other.abs().max().item(), 1e-6)
        assert error <= tolerance * scale, f"number {number} is off by {error / scale:.1e}"


def relative(one, other):
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


def problem(slots, size, length, prior_batch=(), code_batch=(), sigma=0.7, seed=0):
    """Leaves: prior mean and factor, codes, sigma."""
    torch.manual_seed(seed)
    prior = random_memory(*prior_batch, slots=slots, size=size)
    codes = torch.randn(*code_batch, length, size, dtype=torch.float64)
    leaves = prior.loc.clone(), prior.scale_tril_row.clone(), codes, torch.tensor(sigma, dtype=torch.float64)
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
@example(slots=3, size=4, length=7, block_size=2, sweeps=4, batches=((), (2,)), sigma=1.0, seed=0)  # more sweeps
@example(slots=9, size=2, length=12, block_size=3, sweeps=0, batches=((), (2,)), sigma=1.0, seed=0)  # K > C
@example(slots=2, size=7, length=20, block_size=20, sweeps=0, batches=((2,), (2,)), sigma=1.0, seed=0)  # one long block
@example(slots=4, size=1, length=9, block_size=2, sweeps=1, batches=((), (2,)), sigma=1.0, seed=0)  # C = 1
@example(slots=1, size=4, length=9, block_size=1, sweeps=1, batches=((2,), (2,)), sigma=1.0, seed=0)  # K = 1
@example(slots=4, size=3, length=1, block_size=1, sweeps=2, batches=((), ()), sigma=1.0, seed=0)  # T = 1
def test_twins(slots, size, length, block_size, sweeps, batches, sigma, seed):
    """The same addresses, R and U, and the same gradients with respect to codes, prior and sigma."""
    leaves = problem(slots, size, length, *batches, sigma, seed)
    expected = plain(*leaves, block_size, sweeps)
    expected_gradients = gradients(expected, leaves)
    for write in (fast, readable, by_the_writer):
        found = write(*leaves, block_size, sweeps)
        assert [part.shape for part in found] == [part.shape for part in expected]
        assert_near(found, expected, 1e-10)
        assert_near(gradients(found, leaves), expected_gradients, 1e-8)


@given(**{name: shapes[name] for name in ("slots", "size", "length", "block_size", "sweeps", "seed")})
def test_episodes_do_not_touch_each_other(slots, size, length, block_size, sweeps, seed):
    leaves = [leaf.detach() for leaf in problem(slots, size, length, (2,), (2,), seed=seed)]
    together = fast(*leaves, block_size, sweeps)
    for number in range(2):
        alone = fast(*(leaf[number] for leaf in leaves[:3]), leaves[3], block_size, sweeps)
        assert_near([part[number] for part in together], alone, 1e-10)


@pytest.mark.parametrize("block_size", [1, 3])
def test_the_same_codes_into_several_memories(block_size):
    leaves = problem(4, 3, 8, (2,))
    assert_near(fast(*leaves, block_size), readable(*leaves, block_size), 1e-10)


# ---------------------------------------------------------------------- chunks of a long episode


@pytest.mark.parametrize("length", [7, 8, 9, 16, 17, 25])
@pytest.mark.parametrize("block_size", [1, 3, 8, 10])
@pytest.mark.parametrize("sweeps", [0, 2])
def test_chunks(monkeypatch, length, block_size, sweeps):
    """Chunks of 8 patterns, or as many blocks as fit. The twins agree wherever a chunk ends."""
    leaves = problem(4, 5, length, (), (2,), seed=length)
    expected = readable(*leaves, block_size, sweeps)
    monkeypatch.setattr(sequence, "_CHUNK", 8)
    found = fast(*leaves, block_size, sweeps)
    assert_near(found, expected, 1e-10)
    assert_near(gradients(found, leaves), gradients(expected, leaves), 1e-8)


@pytest.mark.parametrize(("block_size", "sweeps"), [(1, 0), (8, 1), (7, 0), (290, 1)])
def test_an_episode_longer_than_a_chunk(block_size, sweeps):
    leaves = problem(5, 6, 300, (), (2,))
    found, expected = fast(*leaves, block_size, sweeps), readable(*leaves, block_size, sweeps)
    assert_near(found, expected, 1e-10)
    assert_near(gradients(found, leaves), gradients(expected, leaves), 1e-8)


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize(("slots", "size", "prior_batch"), [(3, 4, ()), (4, 2, (2,))])
@pytest.mark.parametrize("block_size", [1, 2, 8])
@pytest.mark.parametrize("sweeps", [0, 2])
def test_gradients_of_the_writer(slots, size, prior_batch, block_size, sweeps):
    """By finite differences, of addresses, their covariance, R and the factor of U."""
    leaves = problem(slots, size, 4, prior_batch, (2,))
    writer = OnlineWriter(block_size, sweeps)

    def write(loc, factor, codes, sigma):
        result = writer(codes, MatrixNormal(loc, factor.tril(), validate_args=False), sigma)
        parts = result.memory.loc, result.memory.scale_tril_row, result.addresses, result.address_scale_tril
        return tuple(part for part in parts if part is not None)

    assert gradcheck(write, leaves)


def test_gradients_by_one_input_alone():
    """An input has the same gradient, whichever of the others need one."""
    leaves = problem(4, 5, 9, (), (2,))
    expected = gradients(fast(*leaves, 2, 1), leaves)
    for number, gradient in enumerate(expected):
        some = [leaf if number == i else leaf.detach() for i, leaf in enumerate(leaves)]
        assert_near(gradients(fast(*some, 2, 1), [leaves[number]]), [gradient], 1e-12)


@pytest.mark.parametrize("block_size", [1, 3])
def test_two_backward_passes(block_size):
    """The first one leaves what the second needs."""
    leaves = problem(4, 5, 9, (), (2,))
    total = sum(part.square().sum() for part in fast(*leaves, block_size))
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    second = torch.autograd.grad(total, leaves)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_results_are_freed_without_the_garbage_collector(dtype, backward, sweeps):
    """There is no circle of references between the results and what the backward pass needs."""
    loc, factor, codes, sigma = (leaf.detach().to(dtype).requires_grad_() for leaf in problem(4, 5, 9, (), (2,)))
    reference = weakref.ref(codes)
    gc.collect()
    gc.disable()
    try:
        results = fast(loc, factor, codes, sigma, 2, sweeps)
        if backward:
            torch.autograd.grad(results.addresses.sum(), loc)
        del results, codes
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_without_gradients(block_size, sweeps):
    leaves = problem(4, 5, 9, (), (2,))
    expected = fast(*leaves, block_size, sweeps)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            found = fast(*leaves, block_size, sweeps)
        for one, other in zip(found, expected, strict=True):
            assert not one.requires_grad
            assert torch.equal(one, other)


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_second_derivatives_of_a_sequence(block_size, sweeps):
    """There are none, and torch says so."""
    leaves = problem(3, 4, 8)
    total = sum(part.sum() for part in fast(*leaves, block_size, sweeps))
    (gradient,) = torch.autograd.grad(total, leaves[2], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice a function that was marked with @once_differentiable"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("sweeps", [0, 1])
@pytest.mark.parametrize("length", [2, 4, 20])  # n < K, n >= K, and n >= 4 K
def test_second_derivatives_of_a_single_block(sweeps, length):
    """The writer takes the readable twin, which has them."""
    leaves = problem(3, 2, length)

    def write(loc, factor, codes, sigma):
        return by_the_writer(loc, factor.tril(), codes, sigma, 20, sweeps)[:3]

    assert gradcheck(write, leaves)
    assert gradgradcheck(write, leaves)


# ---------------------------------------------------------------------- float32


SIGMAS = torch.tensor([0.1, 0.3, 1.0, 3.0])


def in_units_of_sigma(slots, size, length, seed=0):
    """Codes drawn from the model, (4, T, C), one episode for each of SIGMAS, all divided by it; the noise is then 1."""
    torch.manual_seed(seed)
    scale, sigma = slots**-0.5, SIGMAS[:, None, None]
    loc = scale * torch.randn(slots, size)
    codes = torch.randn(length, slots) @ (loc + scale * torch.randn(slots, size))
    codes = codes + sigma * torch.randn(4, length, size)
    return [part.requires_grad_() for part in (loc / sigma, scale * torch.eye(slots) / sigma, codes / sigma)]


def in_double(leaves):
    return [leaf.detach().double().requires_grad_() for leaf in leaves]


@pytest.mark.parametrize("block_size", [1, 8])
def test_addresses_in_float32_are_those_of_float64(block_size):
    """Within a chunk they are computed in float64 and rounded once."""
    leaves = in_units_of_sigma(32, 48, 256)
    found, expected = fast(*leaves, 1.0, block_size), fast(*in_double(leaves), 1.0, block_size)
    assert found.addresses.dtype == torch.float32
    assert relative(found.addresses, expected.addresses) < 6e-8  # half of the last bit


@pytest.mark.parametrize(("block_size", "sweeps"), [(1, 0), (8, 0), (8, 1), (1, 2)])
def test_twins_in_float32(block_size, sweeps):
    """Results within 1e-4 and gradients within 1e-3; the readable twin computes in float32 and rounds more often."""
    leaves = in_units_of_sigma(32, 48, 128)
    found, expected = fast(*leaves, 1.0, block_size, sweeps), readable(*leaves, 1.0, block_size, sweeps)
    derivatives = gradients(found, leaves), gradients(expected, leaves)
    for number in range(len(SIGMAS)):
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == other.dtype == torch.float32
            assert torch.linalg.norm(one[number] - other[number]) <= 1e-4 * torch.linalg.norm(other[number])
    for one, other in zip(*derivatives, strict=True):
        for number in range(len(SIGMAS)):
            assert relative(one[number], other[number]) < 1e-3


@torch.no_grad()
def test_ten_thousand_writes_in_float32():
    """One at a time, with K <= C: all results within 1.5e-5 of float64, and the covariance positive definite.

    With K > C and a small sigma, the rule itself amplifies rounding: see the next test.
    """
    leaves = in_units_of_sigma(32, 48, 10_000)
    found, expected = fast(*leaves, 1.0, 1), fast(*in_double(leaves), 1.0, 1)
    for one, other in zip(found[:3], expected[:3], strict=True):
        assert one.dtype == torch.float32
        for number in range(len(SIGMAS)):
            assert relative(one[number], other[number]) < 1.5e-5
    assert (torch.linalg.eigvalsh(found.covariance.double()) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize(("block_size", "sweeps"), [(1, 0), (8, 0), (8, 1)])
def test_a_rule_that_amplifies_rounding(block_size, sweeps):
    """K > C, sigma = 0.1: no addresses are reproducible, in float64 neither, but the memory fits the addresses.

    In exact arithmetic the columns of R stay in the C-dimensional space of the columns of R0. Rounding errors outside
    of that space grow from write to write. A change of the prior by 1e-15 is enough.
    """
    torch.manual_seed(0)
    loc, factor, codes = torch.randn(32, 20) / 32**0.5, torch.eye(32) / 32**0.5, torch.randn(1, 1000, 20)
    exact = loc.double(), factor.double(), codes.double(), 0.1
    addresses = plain(*exact, block_size).addresses
    shaken = plain(exact[0] * (1 + 1e-15 * torch.randn_like(exact[0])), *exact[1:], block_size).addresses
    assert relative(shaken, addresses) > 1e-2
    writer = OnlineWriter(block_size, sweeps)
    result = writer(codes, MatrixNormal(loc, factor), torch.tensor(0.1))
    spread = None if result.address_scale_tril is None else result.address_scale_tril.double()
    part = conjugate.statistics(result.addresses.double(), codes.double(), 0.1, spread)
    expected = conjugate.add_statistics(MatrixNormal(loc.double(), factor.double()), part)
    assert relative(result.memory.loc, expected.loc) < 1e-4
    assert relative(result.memory.row_covariance, expected.row_covariance) < 1e-4
    assert (torch.linalg.eigvalsh(result.memory.row_covariance.double()) > 0).all()


def float32_errors(leaves, block_size, sweeps):
    """Errors of the gradients by prior mean, factor and codes, relative to float64, for each of SIGMAS."""
    errors = []
    for some in (leaves, in_double(leaves)):
        errors.append(gradients(by_the_writer(*some, 1.0, block_size, sweeps), some))
    return [[relative(one[i], other[i]) for one, other in zip(*errors, strict=True)] for i in range(len(SIGMAS))]


@pytest.mark.parametrize(("block_size", "sweeps", "bound"), [(1, 0, 1e-4), (8, 0, 1e-4), (8, 1, 1e-4), (128, 1, 1e-3)])
def test_gradients_in_float32(block_size, sweeps, bound):
    """Long single blocks are computed in float32 throughout, and have larger errors."""
    errors = float32_errors(in_units_of_sigma(32, 48, 128), block_size, sweeps)
    assert max(map(max, errors)) < bound


@pytest.mark.parametrize("sweeps", [0, 1])
def test_gradients_in_float32_with_more_slots_than_code_entries(sweeps):
    """After few writes the addresses are those of float64, and so are the gradients."""
    torch.manual_seed(0)
    loc, factor, codes = torch.randn(32, 20) / 32**0.5, torch.eye(32) / 32**0.5, torch.randn(2, 64, 20)
    leaves = [part.requires_grad_() for part in (loc, factor, codes)]
    exact = in_double(leaves)
    results = [fast(*some, 0.1, 8, sweeps) for some in (leaves, exact)]
    assert relative(results[0].addresses, results[1].addresses) < 1e-6
    for one, other in zip(gradients(results[0], leaves), gradients(results[1], exact), strict=True):
        assert relative(one, other) < 1e-4


# ---------------------------------------------------------------------- operations on codes


class Width(TorchDispatchMode):
    """Counts all operations, and those with an argument or result that has a dimension of size ``width``."""

    def __init__(self, width):
        super().__init__()
        self.width, self.all, self.wide = width, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.all += 1
        tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)]
        self.wide += any(self.width in tensor.shape for tensor in tensors)
        return result


@pytest.mark.parametrize("block_size", [1, 8])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_the_loop_never_sees_a_code(block_size, sweeps):
    """There are as many operations on codes for 64 patterns as for 32, forward and backward; others grow in number."""
    width, counts = 77, []
    for length in (32, 64):
        leaves = problem(5, width, length, (), (2,))
        with Width(width) as forward:
            results = fast(*leaves, block_size, sweeps)
        with Width(width) as backward:
            gradients(results, leaves)
        counts.append((forward, backward))
    for one, other in zip(*counts, strict=True):
        assert one.wide == other.wide
        assert one.wide < 60
        assert other.all > 1.3 * one.all


def test_the_readable_loop_sees_codes():
    """The counter-test: there the operations on codes grow with the number of patterns."""
    counts = []
    for length in (32, 64):
        with Width(77) as mode:
            readable(*problem(5, 77, length, (), (2,)), 8)
        counts.append(mode.wide)
    assert counts[1] > 1.5 * counts[0]


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize("write", [write_sequence, write_in_blocks])
@pytest.mark.parametrize("block_size", [1, 3, 20])
def test_errors(write, block_size):
    prior, codes = random_memory(slots=4, size=3), torch.randn(8, 3, dtype=torch.float64)
    with pytest.raises(ValueError, match="memory has a column factor"):
        write(MatrixNormal(prior.loc, prior.scale_tril_row, random_factor(3)), codes, 1.0, block_size)
    for sigma in (-1.0, 0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"noise_scale is {sigma}; expected a positive number"):
            write(prior, codes, sigma, block_size)
    lost = MatrixNormal(prior.loc * math.nan, prior.scale_tril_row, validate_args=False)
    with pytest.raises(ValueError, match=r"prior has NaN or infinite entries.*Check the patterns"):
        write(lost, codes, 1.0, block_size)


def test_an_episode_of_nan_alone():
    """Without validation, the other episodes are as if it was not there."""
    leaves = [leaf.detach() for leaf in problem(4, 3, 9, (), (3,))]
    expected = fast(*leaves, 2, 1)
    leaves[2][1, 4] = torch.nan
    with pyro.validation_enabled(False):
        found = fast(*leaves, 2, 1)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one[[0, 2]], other[[0, 2]])
    assert found.loc[1].isnan().all()
