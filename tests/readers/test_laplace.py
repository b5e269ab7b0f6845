"""Newton steps for address priors that are not Gaussian, against quadrature and against Gaussians nearby."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import random_gaussian

from pyro_kanerva import (
    ExactReader,
    GaussianAddress,
    HorseshoeAddress,
    LaplaceAddress,
    LaplaceReader,
    SimplexAddress,
    StudentTAddress,
)
from pyro_kanerva.distributions import GaussianMixture

SIGMA = 0.7

pytestmark = pytest.mark.usefixtures("float64")


def sigma():
    return torch.tensor(SIGMA)


PRIORS = {
    "Laplace": lambda slots: LaplaceAddress(slots)(),
    "StudentT": lambda slots: StudentTAddress(slots)(),
    "Horseshoe": lambda slots: HorseshoeAddress(slots)(),
}


@pytest.mark.parametrize("kind", ["dependent", "independent"])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_exact_reader_is_the_laplace_reader_of_a_gaussian(kind, num_steps):
    """A Newton step is exact there."""
    codes, matrix, prior = torch.randn(2, 5, 3), torch.randn(2, 4, 3), random_gaussian(kind, 4)
    exact = ExactReader()(codes, matrix, prior, sigma())
    newton = LaplaceReader(num_steps)(codes, matrix, prior, sigma())
    torch.testing.assert_close(newton.mean, exact.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        newton.covariance_matrix, exact.covariance_matrix.expand_as(newton.covariance_matrix), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("kind", ["entries by themselves", "whole addresses"])
def test_averages_of_a_gaussian_are_exact(kind):
    """A mixture of one Gaussian is not taken for a Gaussian; yet the quadrature gives its gradient and curvature."""
    loc, scale = torch.tensor([0.5, -1.0, 0.2]), torch.tensor([0.4, 1.0, 2.0])
    if kind == "whole addresses":
        prior = GaussianMixture(loc, torch.zeros(1, 3), torch.zeros(1), scale.diag())
    else:
        one = dist.Categorical(logits=torch.zeros(3, 1))
        prior = dist.MixtureSameFamily(one, dist.Normal(loc.unsqueeze(-1), scale.unsqueeze(-1))).to_event(1)
    codes, matrix = torch.randn(2, 5, 4), torch.randn(2, 3, 4)
    exact = ExactReader()(codes, matrix, dist.Normal(loc, scale).to_event(1), sigma())
    newton = LaplaceReader(2)(codes, matrix, prior, sigma())
    torch.testing.assert_close(newton.mean, exact.mean)
    torch.testing.assert_close(newton.covariance_matrix, exact.covariance_matrix.expand_as(newton.covariance_matrix))


def test_one_step_by_hand():
    """From the Gaussian of equal moments, with g = E_q[grad log p] and Lambda = -E_q[grad^2 log p] on a grid."""
    prior, codes, matrix = StudentTAddress(3)(), torch.randn(4, 2), torch.randn(3, 2)
    start = ExactReader()(codes, matrix, prior, sigma())
    grid = torch.linspace(-9, 9, 2001)
    weights = dist.Normal(0.0, 1.0).log_prob(grid).softmax(0)[:, None, None]
    points = (start.mean + grid[:, None, None] * start.stddev).requires_grad_()
    (slope,) = torch.autograd.grad(prior.log_prob(points).sum(), points, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), points)
    gradient, curvature = (weights * slope.detach()).sum(0), -(weights * bend).sum(0)
    covariance = (curvature.diag_embed() + matrix @ matrix.mT / SIGMA**2).inverse()
    residual = (codes - start.mean @ matrix) @ matrix.mT / SIGMA**2
    q = LaplaceReader(1)(codes, matrix, prior, sigma())
    torch.testing.assert_close(q.covariance_matrix, covariance, rtol=1e-4, atol=1e-4)
    mean = start.mean + (covariance @ (gradient + residual).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(q.mean, mean, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_whole_addresses_is_an_average_over_q():
    """Where it is zero, for a smooth density that is not symmetric, in one coordinate."""
    prior = GaussianMixture(torch.zeros(1), torch.tensor([[0.0], [2.0]]), torch.tensor([0.0, -1.0]), torch.eye(1))
    matrix, codes = torch.ones(1, 1), torch.linspace(-1, 2, 7).unsqueeze(-1)
    q = LaplaceReader(40)(codes, matrix, prior, sigma())
    grid = torch.linspace(-9, 9, 2001)
    points = (q.mean + grid[:, None, None] * q.stddev).requires_grad_()
    log_density = prior.log_prob(points) - 0.5 * (codes - points).square().sum(-1) / SIGMA**2
    (slope,) = torch.autograd.grad(log_density.sum(), points)
    average = (dist.Normal(0.0, 1.0).log_prob(grid).softmax(0)[:, None, None] * slope).sum(0)
    assert average.abs().max() < 0.01  # the error of four nodes


def log_posterior(address, codes, matrix, prior):
    """log p(w) p(z | w, M), (...), up to a constant, of w (..., T, K)."""
    return prior.log_prob(address) - 0.5 * (codes - address @ matrix).square().sum(-1) / SIGMA**2


@pytest.mark.parametrize("name", ["Laplace", "StudentT"])
def test_no_other_gaussian_is_nearer_to_the_posterior(name):
    """KL(q || p) by common random numbers, for means that move and covariances that grow, shrink and turn."""
    codes, matrix, prior = torch.randn(6, 2), torch.randn(2, 2), PRIORS[name](2)
    q = LaplaceReader(40)(codes, matrix, prior, sigma())
    noise = torch.randn(40_000, 1, 2)
    noise = torch.cat([noise, -noise])

    def divergence(loc, factor):
        points = loc + (factor @ noise.unsqueeze(-1)).squeeze(-1)
        return -log_posterior(points, codes, matrix, prior).mean(0) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    loc, factor = q.loc, q.scale_tril
    best = divergence(loc, factor)
    deviation = q.stddev
    for shift in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.7, -0.7])):
        for step in (0.2, -0.2, 1.0, -1.0):
            assert (divergence(loc + step * shift * deviation, factor) > best).all()
    for stretch in (torch.tensor([[0.8, 0.0], [0.0, 0.8]]), torch.tensor([[1.25, 0.0], [0.0, 1.25]])):
        assert (divergence(loc, factor @ stretch) > best).all()
    for corner in (0.3, -0.3):
        assert (divergence(loc, factor @ torch.tensor([[1.0, 0.0], [corner, 1.0]])) > best).all()


@pytest.mark.parametrize("name", ["Laplace", "StudentT"])
def test_one_slot_against_quadrature(name):
    """Mean and deviation of the posterior of one slot, at an informative code and a vague one."""
    prior, matrix = PRIORS[name](1), torch.tensor([[0.9, -1.2, 0.4]])
    codes = torch.cat([torch.linspace(-3, 3, 7).unsqueeze(-1) @ matrix, torch.randn(5, 3)])
    q = LaplaceReader(20)(codes, matrix, prior, sigma())
    grid = torch.linspace(-8, 8, 8001).view(-1, 1, 1)
    weights = log_posterior(grid, codes, matrix, prior).softmax(0).unsqueeze(-1)
    mean = (weights * grid).sum(0)
    deviation = (weights * (grid - mean).square()).sum(0).sqrt()
    assert ((q.mean - mean).abs() < 0.1 * deviation).all()
    assert ((q.stddev / deviation).log().abs() < 0.1).all()


@pytest.mark.parametrize("name", ["Laplace", "StudentT", "Horseshoe"])
def test_more_steps_bring_the_gaussian_nearer(name):
    """The default number of steps, too, is better than the start, the posterior of a standard normal prior."""
    codes, matrix, prior = torch.randn(50, 4), torch.randn(3, 4), PRIORS[name](3)
    noise = torch.randn(4000, 1, 3)

    def divergence(q):
        points = q.loc + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        value = -log_posterior(points, codes, matrix, prior).mean(0) - q.scale_tril.logdet()
        return value.mean()

    standard = ExactReader()(codes, matrix, GaussianAddress(3)(), sigma())
    four, many = (divergence(LaplaceReader(number)(codes, matrix, prior, sigma())) for number in (4, 40))
    assert four < divergence(standard)
    assert abs(four - many) < 0.1


def test_simplex_mode_is_stationary():
    codes, matrix = torch.randn(8, 3), torch.randn(4, 3)
    prior = SimplexAddress(4)()
    q = LaplaceReader(200)(codes, matrix, prior, sigma())
    mode = q.base_dist.loc.detach().requires_grad_()

    def log_density(points):
        weights = torch.cat([points, torch.zeros_like(points[..., :1])], -1).softmax(-1)
        return prior.base_dist.log_prob(points) - 0.5 * (codes - weights @ matrix).square().sum(-1) / SIGMA**2

    (gradient,) = torch.autograd.grad(log_density(mode).sum(), mode)
    assert gradient.abs().max() < 1e-4
    value = log_density(q.base_dist.loc)
    for _ in range(50):  # nothing near is better
        assert (log_density(mode + 0.1 * torch.randn(8, 3)) <= value + 1e-3).all()
    # the covariance is that of the linearized decoder at the mode
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda u: torch.cat([u, u.new_zeros(1)]).softmax(-1), u) for u in mode]
    )  # (T, K, K - 1)
    precision = prior.base_dist.precision_matrix + jacobian.mT @ matrix @ matrix.mT @ jacobian / SIGMA**2
    torch.testing.assert_close(q.base_dist.covariance_matrix, precision.inverse(), rtol=1e-3, atol=1e-4)


def test_simplex_steps_never_lower_the_posterior():
    codes, matrix, prior = 2 * torch.randn(20, 3), 2 * torch.randn(4, 3), SimplexAddress(4)()
    values = []
    for number in range(1, 12):
        points = LaplaceReader(number)(codes, matrix, prior, sigma()).base_dist.loc
        weights = torch.cat([points, torch.zeros_like(points[..., :1])], -1).softmax(-1)
        values.append(prior.base_dist.log_prob(points) - 0.5 * (codes - weights @ matrix).square().sum(-1) / SIGMA**2)
    assert (torch.stack(values).diff(dim=0) >= -1e-10).all()


@pytest.mark.parametrize("strength", [30.0, 1000.0])
def test_steps_for_positive_addresses_never_lower_the_posterior(strength):
    """Of log w, also for codes far away, to which every Newton step overshoots."""
    prior, matrix, codes = (
        dist.Gamma(torch.tensor([2.0]), 1.5).to_event(1),
        torch.ones(1, 1),
        torch.tensor([[strength]]),
    )
    values = []
    for number in range(1, 8):
        points = LaplaceReader(number)(codes, matrix, prior, sigma()).base_dist.loc
        values.append(log_posterior(points.exp(), codes, matrix, prior) + points.sum(-1))
    start = log_posterior(torch.ones(1, 1), codes, matrix, prior)
    assert (torch.stack([start, *values]).diff(dim=0) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["HalfNormal", "Gamma"])
@pytest.mark.parametrize("strength", [-10.0, -3.0, -1.0, 1.0, 3.0])
@pytest.mark.parametrize("num_steps", [4, 12])
def test_positive_addresses_against_quadrature(name, strength, dtype, num_steps):
    """Mean and deviation of log w, for codes that ask for positive and, in vain, for negative addresses."""
    prior = (
        dist.HalfNormal(torch.ones(1, dtype=dtype))
        if name == "HalfNormal"
        else dist.Gamma(torch.full((1,), 2.0, dtype=dtype), torch.tensor(1.5, dtype=dtype))
    )
    prior = prior.to_event(1)
    matrix, codes = torch.ones(1, 1, dtype=dtype), torch.full((1, 1), strength, dtype=dtype)
    q = LaplaceReader(num_steps)(codes, matrix, prior, sigma().to(dtype)).base_dist
    grid = torch.linspace(-25, 6, 20_001, dtype=torch.float64)
    address = grid.exp()
    log_prior = -0.5 * address.square() if name == "HalfNormal" else address.log() - 1.5 * address
    weights = (log_prior + grid - 0.5 * (strength - address).square() / SIGMA**2).softmax(0)
    mean = (weights * grid).sum()
    deviation = (weights * (grid - mean).square()).sum().sqrt()
    assert ((q.mean.double() - mean).abs() < deviation).all()
    assert ((q.stddev.double() / deviation).log().abs() < math.log(2)).all()


@pytest.mark.parametrize("scale", [0.005, 0.05, 5.0])
@pytest.mark.parametrize("family", [LaplaceAddress, StudentTAddress])
def test_newton_steps_for_priors_of_any_width(family, scale):
    """Scaled by its prior, an address has the same posterior under a memory scaled the other way."""
    matrix, codes, noise = torch.randn(4, 5), torch.randn(20, 5), torch.tensor(0.5)
    q = LaplaceReader()(codes, matrix / scale, family(4, scale=scale)(), noise)
    expected = LaplaceReader()(codes, matrix, family(4, scale=1.0)(), noise)
    torch.testing.assert_close(q.loc / scale, expected.loc, atol=0.02, rtol=0.02)
    torch.testing.assert_close(q.stddev / scale, expected.stddev, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("number", [0, -1])
def test_bad_number_of_steps(number):
    with pytest.raises(ValueError, match=f"LaplaceReader: num_steps is {number}; expected at least 1"):
        LaplaceReader(number)
