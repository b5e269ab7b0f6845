"""Logistic distributions: the map to the simplex, and grey levels against brute force."""

import pytest
import torch
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian

from pyro_kanerva.distributions import AdditiveLogistic, DiscretizedLogistic, NoisyLevels, logistic
from pyro_kanerva.distributions.clamped_normal import normal_log_density

# ---------------------------------------------------------------------- the map to the simplex


@pytest.mark.parametrize("size", [2, 3, 6])
def test_additive_logistic_and_back(size):
    transform = AdditiveLogistic()
    points = 3 * torch.randn(5, 4, size - 1, dtype=torch.float64)
    weights = transform(points)
    assert weights.shape == (5, 4, size)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 4, dtype=torch.float64))
    torch.testing.assert_close(weights.log().diff(dim=-1)[..., -1], -points[..., -1])
    torch.testing.assert_close(transform._inverse(weights), points)
    torch.testing.assert_close(transform.inv(transform(points)), points)
    assert transform.forward_shape(points.shape) == weights.shape
    assert transform.inverse_shape(weights.shape) == points.shape


@pytest.mark.parametrize("size", [2, 3, 6])
def test_jacobian_of_the_additive_logistic(size):
    transform = AdditiveLogistic()
    points = 2 * torch.randn(5, size - 1, dtype=torch.float64)
    expected = torch.stack([jacobian(transform, u) for u in points])  # (5, K, K - 1)
    torch.testing.assert_close(transform.jacobian(points), expected)
    determinant = torch.linalg.slogdet(expected[:, :-1]).logabsdet  # of the first K - 1 weights
    torch.testing.assert_close(transform.log_abs_det_jacobian(points, transform(points)), determinant)
    assert gradcheck(transform, (points.requires_grad_(),))


def test_additive_logistic_far_out():
    """Weights of zero in float32: log determinant and inverse stay finite."""
    points = torch.tensor([[200.0, 0.0], [-200.0, 200.0], [0.0, -500.0]], requires_grad=True)
    transform = AdditiveLogistic()
    determinant = transform.log_abs_det_jacobian(points, transform(points))
    assert determinant.isfinite().all()
    determinant.sum().backward()
    assert points.grad.isfinite().all()
    assert transform._inverse(transform(points)).isfinite().all()


# ---------------------------------------------------------------------- grey levels


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def levels_of(number, dtype):
    return torch.arange(number, dtype=dtype) / (number - 1)


EXTREMES = [(0.5, 0.1), (0.0, 0.05), (1.0, 0.2), (0.3, 1e-3), (0.31, 1e-5), (-3.0, 0.1), (4.0, 0.01), (0.5, 50.0)]
EXTREMES += [(0.4, 3.0), (0.6, 3.0)]  # a tail is more probable than the level nearest to loc


def brute_force(loc, scale, number):
    """The probability of every level, from the logistic CDF in float64."""
    bounds = (torch.arange(1, number, dtype=torch.float64) - 0.5) / (number - 1)
    cdf = torch.cat([torch.zeros(1), ((bounds - loc) / scale).sigmoid(), torch.ones(1)]).double()
    return cdf.diff()


@pytest.mark.parametrize("number", [2, 5, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_the_levels(number, dtype):
    levels = levels_of(number, dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4
    for loc, scale in EXTREMES:
        entries = DiscretizedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype), number)
        log_prob = entries.log_prob(levels)
        assert log_prob.isfinite().all(), (loc, scale)
        assert log_prob.double().exp().sum().item() == pytest.approx(1.0, abs=tolerance), (loc, scale)
        if dtype == torch.float64:
            torch.testing.assert_close(log_prob.exp(), brute_force(loc, scale, number), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("number", [2, 5, 256])
def test_mean_and_mode_of_the_levels(number):
    levels = levels_of(number, torch.float64)
    for loc, scale in EXTREMES:
        entries = DiscretizedLogistic(double(loc), double(scale), number)
        probabilities = brute_force(loc, scale, number)
        assert entries.mean.item() == pytest.approx((probabilities * levels).sum().item(), abs=1e-10)
        mode = entries.mode
        best = probabilities[(levels - mode).abs().argmin()]
        assert mode in levels
        assert best.item() == pytest.approx(probabilities.max().item(), rel=1e-6), (loc, scale)


def test_samples_of_the_levels():
    """Counts within 5 standard errors, and every sample a level."""
    number, draws = 5, 40_000
    for loc, scale in [(0.5, 0.1), (0.0, 0.3), (0.95, 0.02), (0.5, 5.0)]:
        entries = DiscretizedLogistic(double(loc), double(scale), number)
        counts = (entries.sample((draws,)).unsqueeze(-1) == levels_of(number, torch.float64)).double()
        assert (counts.sum(-1) == 1).all()
        expected = brute_force(loc, scale, number)
        error = (expected * (1 - expected) / draws).sqrt()
        assert ((counts.mean(0) - expected).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_the_levels_are_finite(dtype):
    number = 256
    loc, scale = (torch.tensor(values, dtype=dtype) for values in zip(*EXTREMES, strict=True))
    loc.requires_grad_()
    scale.requires_grad_()
    log_prob = DiscretizedLogistic(loc, scale, number).log_prob(levels_of(number, dtype).unsqueeze(-1))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert loc.grad.isfinite().all()
    assert scale.grad.isfinite().all()


def test_gradients_of_the_levels_against_differences():
    loc = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.05, 0.1, 0.3], dtype=torch.float64, requires_grad=True)
    levels = levels_of(16, torch.float64).unsqueeze(-1)
    assert gradcheck(lambda m, s: DiscretizedLogistic(m, s, 16).log_prob(levels), (loc, scale))
    assert gradcheck(lambda m, s: DiscretizedLogistic(m, s, 16).mean, (loc, scale))


def test_shapes_of_the_levels():
    entries = DiscretizedLogistic(torch.zeros(3, 1), torch.ones(4), 8)
    assert entries.batch_shape == (3, 4)
    assert entries.sample((2,)).shape == (2, 3, 4)
    assert entries.mean.shape == entries.mode.shape == (3, 4)
    wider = entries.expand((5, 3, 4))
    assert wider.log_prob(torch.zeros(5, 3, 4)).shape == (5, 3, 4)
    assert wider.num_levels == 8
    with pytest.raises(ValueError, match="scale"):
        DiscretizedLogistic(torch.zeros(2), torch.zeros(2), 8, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        DiscretizedLogistic(torch.zeros(2), torch.ones(2), 8, validate_args=True).log_prob(torch.tensor([0.5, 1.5]))


@pytest.mark.parametrize("number", [2, 7, 256])
@pytest.mark.parametrize(("loc", "scale"), EXTREMES)
def test_levels_that_the_cue_shows_exactly(loc, scale, number):
    """The evidence of a cue without noise is the prior probability of its level; their sum over all levels is 1."""

    def exactly(cues, levels, _noise):
        return torch.where(cues == levels, 0.0, -torch.inf).to(cues)

    def vaguely(cues, levels, noise):
        return 0 * (cues + levels + noise)

    prior, cues = DiscretizedLogistic(double([loc]), double(scale), number), levels_of(number, torch.float64)
    posterior = NoisyLevels(prior, cues, double(1.0), exactly)
    torch.testing.assert_close(posterior.log_evidence, prior.log_prob(cues))
    flat = NoisyLevels(prior, cues, double(1.0), vaguely)
    torch.testing.assert_close(flat.log_evidence, torch.zeros_like(cues))
    torch.testing.assert_close(flat.mean, prior.mean.expand(number))
    torch.testing.assert_close(
        flat.expectation(lambda c, x, s: c * x**2 + s), cues * flat.expectation(lambda c, x, s: x**2 + 0 * c) + 1
    )


@pytest.mark.parametrize("shape", [(), (5,), (3, 1), (2, 1, 1), (1, 3, 1), (2, 3, 5)])
def test_any_shape_of_noise_in_any_chunks(shape, monkeypatch):
    """Every entry equals the distribution of this entry alone."""
    prior = DiscretizedLogistic(torch.rand(2, 3, 5).double(), 0.05 + 0.1 * torch.rand(5).double(), 7)
    cues, noise = torch.rand(3, 5).double(), 0.05 + torch.rand(shape).double()

    def statistics(distribution):
        second = distribution.expectation(lambda c, x, s: (c - x) ** 2 / s)
        return torch.stack((distribution.log_evidence, distribution.mean, distribution.variance, second))

    expected = torch.empty(4, 2, 3, 5).double()
    wide, wide_cues = noise.expand(2, 3, 5), cues.expand(2, 3, 5)
    for at in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(5)).tolist():
        index = tuple(at)
        alone = DiscretizedLogistic(prior.loc[index], prior.scale[index], 7)
        expected[(slice(None), *index)] = statistics(
            NoisyLevels(alone, wide_cues[index], wide[index], normal_log_density)
        )
    for chunk in (1, 4, 7, 1000):
        monkeypatch.setattr(logistic, "_CHUNK", chunk)
        posterior = NoisyLevels(prior, cues, noise, normal_log_density)
        torch.testing.assert_close(statistics(posterior), expected)
        assert posterior.sample((3, 2)).shape == (3, 2, 2, 3, 5)
        draws, number = posterior.sample((2000,)), 2000
        error = (draws.mean(0) - posterior.mean).abs() / (posterior.variance / number).sqrt()
        assert (error < 5).all()
