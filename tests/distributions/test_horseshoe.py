"""The horseshoe-like density, against quadrature and its construction as a product."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck

from pyro_kanerva.distributions import HorseshoeLike


def log_grid(low, high, number=20_001):
    """x > 0 and the logarithm of dx: integrals by the trapezoid rule in log x."""
    logs = torch.linspace(math.log(low), math.log(high), number, dtype=torch.float64)
    return logs.exp(), logs + (logs[1] - logs[0]).log()


def horseshoe_cdf(scale):
    """P(|x| <= value) of the stated construction x = scale u c: E_u[2 atan(v / (scale u)) / pi]."""
    uniform = (torch.arange(200, dtype=torch.float64) + 0.5) / 200

    def cdf(value):
        return (2 / math.pi * torch.atan(value.unsqueeze(-1) / (scale * uniform))).mean(-1)

    return cdf


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_horseshoe_is_normalized(scale):
    points, log_step = log_grid(1e-14, 1e8)
    density = HorseshoeLike(torch.tensor(scale, dtype=torch.float64))
    total = 2 * (density.log_prob(points) + log_step).exp().sum()
    tail = 2 * scale / (2 * math.pi) * 2 / 1e8  # log(1 + s^2/x^2) is about s^2 / x^2
    assert total.item() == pytest.approx(1.0, abs=1e-6 + tail)
    torch.testing.assert_close(density.log_prob(-points), density.log_prob(points), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_horseshoe_is_the_stated_product(scale):
    """The mass of intervals under the density, and under scale * uniform * Cauchy."""
    points, log_step = log_grid(1e-12, 1e6)
    mass = 2 * (HorseshoeLike(torch.tensor(scale, dtype=torch.float64)).log_prob(points) + log_step).exp()
    cumulative = mass.cumsum(0)
    index = torch.arange(4000, 20_000, 2000)
    torch.testing.assert_close(cumulative[index], horseshoe_cdf(scale)(points[index]), rtol=0, atol=2e-3)


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_horseshoe_samples(scale):
    """Kolmogorov and Smirnov: the distance of 20,000 samples is below 1.95 / sqrt(n) with probability 0.999."""
    number = 20_000
    samples = HorseshoeLike(torch.tensor(scale, dtype=torch.float64)).sample((number,))
    assert abs((samples > 0).double().mean().item() - 0.5) < 4 * 0.5 / math.sqrt(number)
    absolute = samples.abs().sort().values
    cdf = horseshoe_cdf(scale)(absolute)
    empirical = torch.arange(number + 1, dtype=torch.float64) / number
    distance = torch.maximum((cdf - empirical[:-1]).abs(), (cdf - empirical[1:]).abs()).max()
    assert distance < 1.95 / math.sqrt(number) + 1e-3  # the second term for the CDF's own quadrature


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_horseshoe_is_finite_everywhere(dtype):
    scale = torch.tensor([0.01, 1.0, 100.0], dtype=dtype, requires_grad=True)
    values = [0.0, 1e-30, -1e-10, 1e-3, 1.0, 1e3, -1e10]
    points = torch.tensor(values, dtype=dtype).unsqueeze(-1).expand(-1, 3).clone().requires_grad_()
    log_prob = HorseshoeLike(scale).log_prob(points)
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert points.grad.isfinite().all()
    assert scale.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_horseshoe_at_zero(dtype):
    """log p(0) is the value at the square root of the smallest normal number, below which the density is flat."""
    density, tiny = HorseshoeLike(torch.ones((), dtype=dtype)), torch.finfo(dtype).tiny
    expected = math.log(math.log(1 / tiny)) - math.log(2 * math.pi)
    assert density.log_prob(torch.zeros((), dtype=dtype)).item() == pytest.approx(expected, rel=1e-6)
    above = density.log_prob(torch.tensor(4 * tiny**0.5, dtype=dtype)).item()
    assert above == pytest.approx(math.log(math.log(1 / tiny / 16)) - math.log(2 * math.pi), rel=1e-6)


def test_horseshoe_far_out_decays_like_a_square():
    """log p(x) = log(scale / (2 pi)) - 2 log x for large x."""
    density = HorseshoeLike(torch.tensor(1.0, dtype=torch.float64))
    for value in (1e4, 1e6, 1e7):
        expected = -math.log(2 * math.pi) - 2 * math.log(value)
        assert density.log_prob(torch.tensor(value, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-6)


def test_horseshoe_shapes_and_gradients():
    density = HorseshoeLike(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert density.batch_shape == (3,)
    assert density.sample((4, 2)).shape == (4, 2, 3)
    assert density.expand((5, 3)).sample().shape == (5, 3)
    joint = dist.Independent(density, 1)
    assert joint.log_prob(joint.sample((7,))).shape == (7,)
    torch.testing.assert_close(joint.log_prob(torch.ones(3).double()), density.log_prob(torch.ones(3).double()).sum())
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([0.3, -1.7], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s, v: HorseshoeLike(s).log_prob(v), (scale, value))
    torch.manual_seed(3)
    samples = HorseshoeLike(scale).rsample((10,))
    (gradient,) = torch.autograd.grad(samples.sum(), scale)
    torch.testing.assert_close(gradient, (samples / scale).sum(0))
    with pytest.raises(ValueError, match="scale"):
        HorseshoeLike(torch.tensor(-1.0), validate_args=True)
