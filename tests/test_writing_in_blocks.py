"""Writing block after block in K- and T-space against the plain rule, forward and backward."""

import pytest
import torch
from conftest import random_factor
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_kanerva import MatrixNormal, OnlineWriter, sequential
from pyro_kanerva.factorization import inverse_positive, precision_to_scale_tril

SIZES = {
    "slots": st.integers(1, 7),
    "size": st.integers(1, 6),
    "length": st.integers(1, 11),
    "block": st.integers(1, 9),
}


def problem(slots, size, length, batch=(2,), prior_batch=(), sigma=0.6, dtype=torch.float64):
    """Codes, mean and factor of the memory, and sigma, all with gradients."""
    tensors = (
        torch.randn(*batch, length, size, dtype=dtype),
        torch.randn(*prior_batch, slots, size, dtype=dtype),
        random_factor(*prior_batch, slots, dtype=dtype),
        torch.tensor(sigma, dtype=dtype),
    )
    return [tensor.requires_grad_() for tensor in tensors]


def plain(codes, loc, factor, sigma, block, sweeps=0):
    """The paper's rule with solves and covariances, and coordinate ascent as the equations have it."""
    slots, size, variance = loc.shape[-2], codes.shape[-1], sigma**2
    identity = torch.eye(slots, dtype=codes.dtype)
    start = factor @ factor.mT
    mean, covariance, written = loc, start, []
    for z in codes.split(block, -2):
        w = torch.linalg.solve(mean @ mean.mT + variance * identity, mean @ z.mT).mT
        innovation = w @ covariance @ w.mT + variance * torch.eye(z.shape[-2], dtype=z.dtype)
        gain = torch.linalg.solve(innovation, w @ covariance).mT
        mean, covariance = mean + gain @ (z - w @ mean), covariance - gain @ w @ covariance
        written.append(w)
    addresses = torch.cat(written, -2)
    for _ in range(sweeps):
        spread = torch.linalg.inv(identity + (mean @ mean.mT + size * covariance) / variance)
        addresses = codes @ mean.mT / variance @ spread
        second = addresses.mT @ addresses + codes.shape[-2] * spread
        precision = torch.linalg.inv(start) + second / variance
        covariance = torch.linalg.inv(precision)
        mean = covariance @ (torch.linalg.solve(start, loc) + addresses.mT @ codes / variance)
    return addresses, mean, covariance


def fast(codes, loc, factor, sigma, block, sweeps=0):
    result = OnlineWriter(block, sweeps)(codes, MatrixNormal(loc, factor, validate_args=False), sigma)
    return result.addresses, result.memory.loc, result.memory.row_covariance


def compare(inputs, block, sweeps=0, tolerance=1e-10):
    """Values and gradients, relative to the largest entry."""
    results = []
    for write in (plain, fast):
        values = write(*inputs, block, sweeps)
        torch.manual_seed(1)
        total = sum((value * torch.randn(value.shape, dtype=value.dtype)).sum() for value in values)
        results.append((*values, *torch.autograd.grad(total, inputs)))
    for index, (expected, found) in enumerate(zip(*results, strict=True)):
        if inputs[2] is inputs[index - 3] and index >= 3:
            expected, found = expected.tril(), found.tril()  # a factor has nothing above its diagonal
        scale = expected.abs().max() + 1e-3
        assert (found - expected).abs().max() < (tolerance if index < 3 else 100 * tolerance) * scale


@given(
    **SIZES, prior_batch=st.sampled_from([(), (2,)]), sigma=st.sampled_from([0.3, 1.0, 2.0]), sweeps=st.integers(0, 2)
)
def test_equal_to_the_plain_rule(slots, size, length, block, prior_batch, sigma, sweeps):
    compare(problem(slots, size, length, prior_batch=prior_batch, sigma=sigma), block, sweeps)


@pytest.mark.parametrize("block", [1, 2, 3, 64])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_chunks_bring_the_memory_up_to_date(block, sweeps, monkeypatch):
    monkeypatch.setattr(sequential, "_CHUNK", 4)
    compare(problem(4, 3, 11), block, sweeps)


@pytest.mark.parametrize("block", [1, 8])
def test_an_episode_longer_than_a_chunk(block):
    compare(problem(5, 40, 300, batch=(1,)), block, tolerance=1e-9)


@pytest.mark.parametrize("shape", [(), (2,), (3, 2)])
@pytest.mark.parametrize("block", [1, 3])
def test_any_batch(shape, block):
    codes, *prior = problem(4, 3, 7, batch=shape)
    compare([codes, *prior], block)
    addresses, mean, covariance = fast(codes, *prior, block)
    assert addresses.shape == (*shape, 7, 4)
    assert mean.shape == (*shape, 4, 3)
    alone = fast(codes.reshape(-1, 7, 3)[0], *prior, block)
    for found, expected in zip((addresses, mean, covariance), alone, strict=True):
        torch.testing.assert_close(found.reshape(-1, *expected.shape)[0], expected)


@pytest.mark.parametrize("block", [1, 2, 5])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_gradcheck(block, sweeps):
    codes, loc, factor, sigma = problem(3, 2, 5)

    def write(codes, loc, factor, sigma):
        return fast(codes, loc, factor.tril(), sigma, block, sweeps)

    assert gradcheck(write, (codes, loc, factor, sigma))


def test_second_derivatives():
    matrix = (random_factor(2, 3) @ random_factor(2, 3).mT + torch.eye(3)).requires_grad_()

    def of_symmetric(function):
        return lambda matrix: function(matrix + matrix.mT, "the matrix")

    for function in (inverse_positive, precision_to_scale_tril):
        assert gradcheck(of_symmetric(function), (matrix,))
        assert gradgradcheck(of_symmetric(function), (matrix,))
    inputs = problem(3, 2, 5)
    (gradient,) = torch.autograd.grad(fast(*inputs, 1)[1].sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


class LargeOperations(TorchDispatchMode):
    """Counts the operations on tensors that have a dimension of ``size``."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, torch.Tensor)]
        self.count += any(self.size in tensor.shape for tensor in tensors)
        return result


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_nothing_of_the_size_of_a_code_in_the_loop(block, sweeps):
    counts = []
    for length in (32, 128):
        inputs = problem(5, 77, length, dtype=torch.float32)
        with LargeOperations(77) as operations:
            torch.autograd.grad(sum(part.sum() for part in fast(*inputs, block, sweeps)), inputs)
        counts.append(operations.count)
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("sigma", [0.1, 0.3, 1.0, 3.0])
def test_ten_thousand_writes_in_float32(block, sigma):
    """Given its addresses, the memory is within 1e-3 of float64, and its covariance positive definite."""
    slots, size, number = 32, 20, 10_000
    truth = torch.randn(slots, size) / slots**0.5
    codes = torch.randn(number, slots) @ truth + sigma * torch.randn(number, size)
    prior = MatrixNormal(torch.randn(slots, size) / slots**0.5, torch.eye(slots) / slots**0.5, validate_args=False)
    addresses, mean, covariance = (part.double() for part in fast(codes, prior.loc, prior.scale_tril_row, sigma, block))
    precision = slots * torch.eye(slots, dtype=torch.float64) + addresses.mT @ addresses / sigma**2
    exact = torch.linalg.inv(precision)
    expected = exact @ (slots * prior.loc.double() + addresses.mT @ codes.double() / sigma**2)
    assert torch.linalg.eigvalsh(covariance).min() > 0
    assert (covariance - exact).norm() < 1e-3 * exact.norm()
    assert (mean - expected).norm() < 1e-3 * expected.norm()


@pytest.mark.parametrize("block", [1, 8])
@pytest.mark.parametrize("sigma", [0.03, 0.3, 1.0])
def test_addresses_in_float32(block, sigma):
    """One chunk of 256 codes into 64 slots: the plain rule is 7e-6 to 8e-3 off in float32, this at most 2e-6."""
    inputs = [part.detach() for part in problem(64, 48, 256, batch=(), sigma=sigma)]
    inputs[0] = torch.randn(256, 64, dtype=torch.float64) @ inputs[1] / 8 + sigma * inputs[0]
    found, plainly = (write(*(part.float() for part in inputs), block)[0].double() for write in (fast, plain))
    exact = fast(*(part.float().double() for part in inputs), block)[0]
    assert (found - exact).norm() < 5e-6 * exact.norm()
    assert (found - exact).norm() < 0.01 * (plainly - exact).norm()
