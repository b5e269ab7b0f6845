"""Mixtures of Gaussians, against Pyro's own mixtures, quadrature and averages by hand."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import random_factor
from torch import Tensor

from pyro_kanerva.distributions import GaussianMixture

pytestmark = pytest.mark.usefixtures("float64")

CASES = {  # batch shape, J, n, batch shapes of offsets and scale_tril
    "one": ((), 3, 2, (), ()),
    "more dimensions than components": ((), 2, 5, (), ()),
    "patterns": ((4,), 5, 3, (), ()),
    "a single component": ((4,), 1, 3, (), ()),
    "episodes": ((2, 4), 3, 3, (), ()),
    "a memory for each episode": ((2, 4), 3, 2, (2,), (2,)),
    "offsets for each episode": ((2, 4), 2, 4, (2,), ()),
    "particles": ((6, 2, 3), 4, 3, (6, 2), (6, 2)),
    "one memory, many particles": ((6, 2, 3), 4, 3, (2,), (2,)),
}


def parts_of(case):
    """``loc, offsets, logits, scale_tril``, all random."""
    batch, number, size, of_offsets, of_factor = CASES[case]
    loc, logits = torch.randn(*batch, size), torch.randn(*batch, number)
    return loc, 1.5 * torch.randn(*of_offsets, number, size), logits, random_factor(*of_factor, size)


def reference(loc, offsets, logits, scale_tril):
    """Pyro's mixture of full Gaussians, one for each component of each pattern."""
    if logits.dim() == 1:
        means = loc + offsets
    else:
        means = loc.unsqueeze(-2) + offsets.unsqueeze(-3)
        scale_tril = scale_tril.unsqueeze(-3).unsqueeze(-3)
    components = dist.MultivariateNormal(means, scale_tril=scale_tril.expand(*means.shape, means.shape[-1]))
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), components)


# ---------------------------------------------------------------------- density and moments


@pytest.mark.parametrize("case", CASES)
def test_density_and_moments(case):
    parts = parts_of(case)
    q, expected = GaussianMixture(*parts), reference(*parts)
    batch, number, size, *_ = CASES[case]
    assert (q.batch_shape, q.event_shape) == (batch, (size,))
    torch.testing.assert_close(q.mean, expected.mean)
    torch.testing.assert_close(q.variance, expected.variance)
    torch.testing.assert_close(q.component_means, expected.component_distribution.mean)
    torch.testing.assert_close(q.weights, expected.mixture_distribution.probs)
    covariance = expected.component_distribution.covariance_matrix
    torch.testing.assert_close(q.covariance_of_components.expand(parts[3].shape), parts[3] @ parts[3].mT)
    assert covariance.shape == (*batch, number, size, size)
    for more in ((), (3,), (2, 5)):
        value = 2 * torch.randn(*more, *batch, size)
        assert q.log_prob(value).shape == (*more, *batch)
        torch.testing.assert_close(q.log_prob(value), expected.log_prob(value), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_expand(case):
    parts = parts_of(case)
    q, batch = GaussianMixture(*parts), CASES[case][0]
    wider, size = q.expand((3, *batch)), CASES[case][2]
    assert (wider.batch_shape, wider.event_shape) == ((3, *batch), (size,))
    for one, other in ((wider.mean, q.mean), (wider.variance, q.variance), (wider.heaviest_mean, q.heaviest_mean)):
        torch.testing.assert_close(one, other.expand(3, *other.shape))
    value = torch.randn(2, 3, *batch, size)
    torch.testing.assert_close(wider.log_prob(value), reference(*parts).log_prob(value), rtol=1e-10, atol=1e-10)
    assert wider.rsample((2,)).shape == (2, 3, *batch, size)


def test_far_from_all_components_the_density_is_finite():
    parts = parts_of("patterns")
    value = 1e4 * torch.randn(4, 3)
    torch.testing.assert_close(
        GaussianMixture(*parts).log_prob(value), reference(*parts).log_prob(value), rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("case", CASES)
def test_heaviest_mean(case):
    loc, offsets, logits, scale_tril = parts_of(case)
    q = GaussianMixture(loc, offsets, logits, scale_tril)
    largest = logits.argmax(-1)[..., None, None].expand(*logits.shape[:-1], 1, loc.shape[-1])
    torch.testing.assert_close(q.heaviest_mean, q.component_means.gather(-2, largest).squeeze(-2))


@pytest.mark.parametrize("case", ["patterns", "a single component", "a memory for each episode", "particles"])
def test_mean_covariance_of_all_patterns(case):
    """A loop over patterns and components, as ``E w w^T - E w E w^T``."""
    parts = parts_of(case)
    q = GaussianMixture(*parts)
    total = torch.zeros(())
    for t in range(q.batch_shape[-1]):
        means, weights, mean = q.component_means[..., t, :, :], q.weights[..., t, :], q.mean[..., t, :]
        second = parts[3] @ parts[3].mT
        for k in range(weights.shape[-1]):
            outer = means[..., k, :, None] * means[..., k, None, :]
            second = second + weights[..., k, None, None] * outer
        total = total + second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    factor = q.mean_covariance_scale_tril()
    assert torch.equal(factor, factor.tril())
    torch.testing.assert_close(factor @ factor.mT, total / q.batch_shape[-1])


def test_mean_covariance_of_a_narrow_mixture_in_float32():
    """The components are narrower than the rounding errors of the spread, which has rank 1 here."""
    loc, offsets = torch.zeros(4, 3).float(), torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]).float()
    q = GaussianMixture(loc, offsets, torch.zeros(4, 2).float(), 1e-5 * torch.eye(3).float())
    factor = q.mean_covariance_scale_tril()
    assert factor.dtype == torch.float32
    expected = offsets[0].outer(offsets[0])
    torch.testing.assert_close(factor @ factor.mT, expected, rtol=1e-6, atol=1e-6)
    assert (factor.diagonal() > 0).all()


def test_bad_values_are_refused():
    loc, offsets, logits, scale_tril = parts_of("patterns")
    with pytest.raises(ValueError, match="scale_tril"):
        GaussianMixture(loc, offsets, logits, -scale_tril, validate_args=True)
    q = GaussianMixture(loc, offsets, logits, scale_tril, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.full((4, 3), math.nan))


# ---------------------------------------------------------------------- samples


@pytest.mark.parametrize("case", CASES)
def test_samples_have_the_moments(case):
    """Mean and covariance within 6 standard errors of 20,000 draws."""
    q = GaussianMixture(*parts_of(case))
    draws = q.sample((20_000,))
    centered = draws - q.mean
    error = draws.std(0) / math.sqrt(len(draws))
    assert ((centered.mean(0)).abs() < 6 * error).all()
    products = centered.unsqueeze(-1) * centered.unsqueeze(-2)
    deviations = q.component_means - q.mean.unsqueeze(-2)
    spread = (q.weights.unsqueeze(-1) * deviations).mT @ deviations
    within = q.covariance_of_components
    covariance = spread + (within.unsqueeze(-3) if q.batch_shape else within)
    error = products.std(0) / math.sqrt(len(draws))
    assert (error < 0.1 * products.std(0)).all()
    assert ((products.mean(0) - covariance).abs() < 6 * error).all()


def test_samples_follow_the_distribution_function():
    """In one dimension: the share of draws below each of 9 points, within 5 standard errors of 100,000 draws."""
    loc, offsets, weights = torch.tensor([0.3]), torch.tensor([[-2.0], [0.0], [3.0]]), torch.tensor([0.2, 0.5, 0.3])
    draws = GaussianMixture(loc, offsets, weights.log(), torch.tensor([[0.6]])).sample((100_000,))
    for point in torch.linspace(-3.0, 4.0, 9):
        expected = (weights * dist.Normal(loc + offsets[:, 0], 0.6).cdf(point)).sum()
        error = (expected * (1 - expected) / len(draws)).sqrt()
        assert ((draws <= point).double().mean() - expected).abs() < 5 * error


# ---------------------------------------------------------------------- gradients of samples


def test_function(w: Tensor) -> Tensor:
    """A function (...,) of addresses (..., n) that is not linear, of another slope for each pattern."""
    weights = torch.linspace(0.5, 1.5, w.shape[-2])
    first, last = w[..., 0], w[..., -1]
    return weights * (w.cos().sum(-1) + 0.5 * first * last + (1.3 * first).sin() + 0.2 * last)


test_function.__test__ = False  # type: ignore[attr-defined]


def exact_expectation(parts, number=40):
    """``sum_j pi_j E_j f`` by quadrature over the white coordinates of each component, summed over the batch."""
    loc, offsets, logits, scale_tril = parts
    size = loc.shape[-1]
    nodes, weights = np.polynomial.hermite_e.hermegauss(number)
    grid = torch.cartesian_prod(*[torch.tensor(nodes)] * size).view(-1, size)
    mass = torch.cartesian_prod(*[torch.tensor(weights / weights.sum())] * size).view(-1, size).prod(-1)
    points = grid @ scale_tril.mT  # (..., N, n)
    total = 0.0
    for k in range(logits.shape[-1]):
        mean = loc + offsets[..., k, :].unsqueeze(-2)  # (..., T, n)
        values = test_function(mean.unsqueeze(-3) + points.unsqueeze(-2))  # (..., N, T)
        total = total + (logits.softmax(-1)[..., k] * (mass.unsqueeze(-1) * values).sum(-2)).sum()
    return total


def check_gradients(parts, draws=2_000, repetitions=60, largest_error=0.05):
    """The mean of ``repetitions`` sampled gradients of E f is the exact one, within 6 standard errors in each entry."""
    parts = [part.clone().requires_grad_() for part in parts]
    exact = torch.autograd.grad(exact_expectation(parts), parts)
    estimates = []
    for _ in range(repetitions):
        samples = GaussianMixture(*parts).rsample((draws,))
        estimates.append(torch.autograd.grad(test_function(samples).mean(0).sum(), parts))
    for name, expected, *found in zip(("loc", "offsets", "logits", "scale_tril"), exact, *estimates, strict=True):
        values = torch.stack(found)
        assert values.isfinite().all(), name
        error = values.std(0) / math.sqrt(repetitions)
        difference = (values.mean(0) - expected).abs()
        if name == "scale_tril":  # what is above the diagonal is not a parameter
            error, difference = error.tril(), difference.tril()
        assert (difference <= 6 * error + 1e-12).all(), (name, difference, error)
        assert (error < largest_error).all(), name
        if name != "logits" or values.shape[-1] > 1:
            assert expected.abs().max() > 6 * error.max(), name  # a zero gradient would not pass


@pytest.mark.parametrize(("number", "size"), [(1, 2), (2, 1), (3, 2), (5, 2), (3, 3)])
def test_gradients_of_samples(number, size):
    loc, logits = torch.randn(3, size), torch.randn(3, number)
    check_gradients((loc, 1.5 * torch.randn(number, size), logits, random_factor(size)))


def test_gradients_of_samples_of_a_batch():
    loc, logits = torch.randn(2, 3, 2), torch.randn(2, 3, 4)
    check_gradients((loc, 1.5 * torch.randn(2, 4, 2), logits, random_factor(2, 2)))


def gradients_at(values, parts, slopes, monkeypatch):
    """The gradient by offsets (J, n) and logits (N, J) where the samples are ``values`` (N, n) of white mixtures."""
    monkeypatch.setattr(torch, "randn_like", lambda loc: values - loc)
    offsets, logits = (part.clone().requires_grad_() for part in parts)
    q = GaussianMixture(torch.zeros_like(values), offsets, logits.expand(len(values), -1), torch.eye(values.shape[-1]))
    samples = q.rsample()
    torch.testing.assert_close(samples, values)
    by_logits = torch.autograd.grad((samples * slopes).sum(), q.logits, retain_graph=True)[0]
    return torch.autograd.grad((samples * slopes).sum(), offsets)[0], by_logits


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-3, 1.0, 5.0, 20.0, 40.0])
def test_gradients_by_quadrature_over_samples(distance, monkeypatch):
    """``E[V(v) f'(v)]`` over a grid of samples v is the derivative of E f, also across a gap that no sample reaches."""
    offsets, logits = torch.tensor([[0.0], [0.4], [1.0]]) * distance, torch.tensor([0.3, -0.2, 0.5]).log_softmax(-1)
    grid = torch.linspace(-12.0, 12.0 + distance, 40_001).unsqueeze(-1)
    density = GaussianMixture(torch.zeros(1), offsets, logits, torch.eye(1)).log_prob(grid).exp()
    slopes = (0.3 * grid).cos() + 0.2  # of f
    step = (grid[1] - grid[0]).item()

    def f(w):
        return (0.3 * w).sin() / 0.3 + 0.2 * w

    _, by_logits = gradients_at(grid, (offsets, logits), slopes * density.unsqueeze(-1) * step, monkeypatch)
    components = dist.Normal(offsets[:, 0], 1.0).log_prob(grid).exp()
    means = (components * f(grid)).sum(0) * step  # E_j f
    weights = logits.exp()
    expected = weights * (means - weights @ means)
    torch.testing.assert_close(by_logits.sum(0), expected, rtol=1e-7, atol=1e-9)


def test_gradients_by_quadrature_over_samples_of_a_plane(monkeypatch):
    """The velocity of three components that are not on one line."""
    offsets, logits = (
        torch.tensor([[0.0, 0.0], [3.0, 1.0], [-1.0, 2.5]]),
        torch.tensor([0.3, -0.2, 0.5]).log_softmax(-1),
    )
    line = torch.linspace(-9.0, 11.0, 201)
    grid, step = torch.cartesian_prod(line, line), 0.1**2
    density = GaussianMixture(torch.zeros(2), offsets, logits, torch.eye(2)).log_prob(grid).exp()
    first, second = grid.unbind(-1)
    value = first.sin() * second + 0.3 * second.square()
    slopes = torch.stack([first.cos() * second, first.sin() + 0.6 * second], -1)
    by_offsets, by_logits = gradients_at(grid, (offsets, logits), slopes * density.unsqueeze(-1) * step, monkeypatch)
    components = dist.MultivariateNormal(offsets, torch.eye(2)).log_prob(grid.unsqueeze(1)).exp() * step
    weights = logits.exp()
    torch.testing.assert_close(by_offsets, weights.unsqueeze(-1) * (components.mT @ slopes), rtol=1e-7, atol=1e-9)
    means = value @ components
    torch.testing.assert_close(by_logits.sum(0), weights * (means - weights @ means), rtol=1e-7, atol=1e-9)


EXTREMES = {  # offsets, logits
    "all equal": (torch.ones(3, 2), torch.tensor([0.2, 0.0, -0.3])),
    "two equal": (torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.5]]), torch.tensor([0.2, 0.0, -0.3])),
    "equal, far from zero": (torch.full((3, 2), 1234.567), torch.tensor([0.2, 0.0, -0.3])),
    "a weight of zero": (torch.tensor([[1.0, 2.0], [0.0, 0.0], [-2.0, 0.5]]), torch.tensor([0.0, -1000.0, 0.3])),
    "one weight of one": (torch.tensor([[1.0, 2.0], [0.0, 0.0], [-2.0, 0.5]]), torch.tensor([1000.0, 0.0, 0.0])),
    "distance 20": (20.0 * torch.eye(3)[:, :2], torch.tensor([0.2, 0.0, -0.3])),
    "distance 2,000": (2000.0 * torch.eye(3)[:, :2], torch.tensor([0.2, 0.0, -0.3])),
    "a weight of zero at distance 2,000": (2000.0 * torch.eye(3)[:, :2], torch.tensor([-1000.0, 0.0, 0.3])),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", EXTREMES)
def test_gradients_of_extreme_mixtures_are_finite(name, dtype):
    """Of samples and of densities. No velocity of a sample is larger than a few distances."""
    offsets, logits = (part.to(dtype) for part in EXTREMES[name])
    parts = torch.zeros(4, 2, dtype=dtype), offsets, logits.expand(4, 3), torch.eye(2, dtype=dtype)
    parts = [part.clone().requires_grad_() for part in parts]
    q = GaussianMixture(*parts)
    samples = q.rsample((500,))
    for result in (samples.sum(-1).mean(0).sum(), q.log_prob(samples.detach()).mean(), q.log_prob(samples).mean()):
        gradients = torch.autograd.grad(result, parts, retain_graph=True)
        assert all(gradient.isfinite().all() for gradient in gradients)
    by_logits = torch.autograd.grad(samples.sum(-1).mean(0).sum(), parts[2])[0]
    assert (by_logits.sum(-1).abs() < 1e-3 * (1 + by_logits.abs().amax(-1))).all()  # a constant changes nothing
    if "equal" not in name:
        spread = (offsets.unsqueeze(0) - offsets.unsqueeze(1)).norm(dim=-1).max()
        assert (by_logits.abs() < 10 * spread).all()
    if "all" in name or "equal, far" in name:
        assert (by_logits.abs() < 1e-3).all()  # weights of equal components do not matter
    zero = logits.softmax(-1) == 0
    assert (by_logits[:, zero] == 0).all()  # an underflow, not a NaN


# ---------------------------------------------------------------------- precision


@pytest.mark.parametrize("case", CASES)
def test_float32_is_near_float64(case):
    """Densities, moments, and the gradient of the same samples: rounding errors of 1e-5 only."""
    parts = parts_of(case)

    def results(dtype):
        torch.manual_seed(3)
        cast = [part.to(dtype).requires_grad_() for part in parts]
        q, value = GaussianMixture(*cast), torch.linspace(-2.0, 2.0, CASES[case][2], dtype=dtype)
        found = [q.log_prob(value.expand_as(q.mean)), q.mean, q.variance, q.heaviest_mean]
        total = sum((part * torch.linspace(0.5, 1.0, part.numel(), dtype=dtype).view_as(part)).sum() for part in found)
        return [*found, *torch.autograd.grad(total, cast)]

    for found, expected in zip(results(torch.float32), results(torch.float64), strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 5.0, 20.0])
def test_float32_gradients_of_samples_are_near_float64(scale, monkeypatch):
    """At the same samples, relative to the largest entry."""
    offsets, logits = scale * torch.randn(4, 3), torch.randn(4)
    chosen = torch.randint(4, (300,))
    values = offsets[chosen] + torch.randn(300, 3)
    results = {}
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        cast = [part.to(dtype) for part in (values, offsets, logits)]
        results[dtype] = gradients_at(cast[0], cast[1:], torch.ones(300, 3, dtype=dtype), monkeypatch)
    for found, expected in zip(results[torch.float32], results[torch.float64], strict=True):
        assert (found.double() - expected).abs().max() < 1e-3 * expected.abs().max()
