"""KL divergence in closed form where it is known, else the log ratio at a draw."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva.distributions.divergence import divergence


def test_closed_form():
    q, p = dist.Normal(0.3, 0.5), dist.Normal(0.0, 1.0)
    closed = math.log(2) + (0.25 + 0.09) / 2 - 0.5
    assert divergence(q, p, torch.tensor(7.0)).item() == pytest.approx(closed, rel=1e-6)


@pytest.mark.usefixtures("float64")
def test_log_ratio_at_a_draw():
    q, p = dist.Normal(torch.tensor(0.3), 0.5), dist.StudentT(torch.tensor(3.0))
    value = torch.tensor(0.7)
    torch.testing.assert_close(divergence(q, p, value), q.log_prob(value) - p.log_prob(value))


@pytest.mark.usefixtures("float64")
def test_log_ratios_average_to_the_divergence():
    """Against quadrature, within 5 standard errors."""
    q, p = dist.Normal(torch.zeros(()), 1.0), dist.StudentT(torch.tensor(3.0))
    estimates = divergence(q, p, q.sample((100_000,)))
    grid = torch.linspace(-10, 10, 20_001)
    exact = (q.log_prob(grid).exp() * (q.log_prob(grid) - p.log_prob(grid))).sum() * (grid[1] - grid[0])
    assert abs(estimates.mean() - exact) < 5 * estimates.std() / math.sqrt(100_000)
