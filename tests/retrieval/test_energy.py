"""The energies of a query: the deviations of the variational one, and its value where it is exact."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine

from pyro_kanerva import GaussianNoise, PointEnergy, VariationalEnergy


def test_variational_energy_is_tight_in_a_linear_machine():
    """There q(w) can be the exact posterior, if code_scale is the noise of pattern and channel together."""
    noise = 0.3, 0.4
    machine = linear_machine(2, 4, noise[0], code_scale=0.5).double()  # 0.5, since variances add up
    memory = machine.write(torch.randn(1, 3, 4, dtype=torch.float64))
    cues, num_samples = torch.randn(1, 3, 4, dtype=torch.float64), 4000
    channel = GaussianNoise(noise[1])
    retrieval = memory.query(cues, num_steps=5, channel=channel, energy=VariationalEnergy(num_samples))
    matrix = memory.posterior.loc[0]
    covariance = matrix.T @ matrix + 0.25 * torch.eye(4, dtype=torch.float64)
    exact = -dist.MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance).log_prob(cues)
    # V is a quadratic: pairs of deviations cancel its linear part, and as its curvature is below the precision of
    # q(w), the rest has a variance of at most K / 2 in each of the pairs
    margin = 5 * math.sqrt((2 / 2) / (num_samples / 2))
    torch.testing.assert_close(retrieval.energy[-1], exact, rtol=0, atol=margin)
    point = memory.query(cues, num_steps=20, channel=channel)
    reader = machine.read_codes(cues, matrix.unsqueeze(0)).mean  # the maximum of the posterior
    torch.testing.assert_close(point.address[-1], reader.detach(), rtol=0, atol=1e-5)


def test_deviations_come_in_opposite_pairs():
    factor = torch.linalg.cholesky(torch.tensor([[[2.0, 0.5], [0.5, 1.0]]], dtype=torch.float64))
    deviations = VariationalEnergy(20000, seed=3).deviations(factor, 2)
    assert deviations.shape == (20000, 1, 2, 2)
    assert torch.equal(deviations[:10000], -deviations[10000:])
    covariance = deviations[:10000, 0, 0].T.cov()
    torch.testing.assert_close(covariance, factor[0] @ factor[0].T, rtol=0, atol=5 * 2 * math.sqrt(2 / 10000))
    assert torch.equal(deviations, VariationalEnergy(20000, seed=3).deviations(factor, 2))
    assert not torch.equal(deviations, VariationalEnergy(20000, seed=4).deviations(factor, 2))
    assert not PointEnergy().deviations(factor, 2).any()


@pytest.mark.parametrize("num_samples", [-2, 0, 1, 3])
def test_bad_number_of_deviations(num_samples):
    with pytest.raises(ValueError, match=f"VariationalEnergy: num_samples is {num_samples}; expected an even number"):
        VariationalEnergy(num_samples)
