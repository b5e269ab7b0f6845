"""The check of densities: right ones pass, wrong ones are caught, and a lack of power is an error."""

from functools import partial

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva.testing import check_density

K, C = 6, 10


@pytest.mark.parametrize(
    "distribution",
    [
        dist.Cauchy(torch.zeros(K), 1.0).to_event(1),
        dist.MultivariateStudentT(torch.tensor(3.0), torch.zeros(K, C), torch.eye(C)).to_event(1),
        dist.Gamma(0.3 * torch.ones(K), 1.0).to_event(1),
        dist.Dirichlet(torch.full((K,), 0.3, dtype=torch.float64)),
        dist.LogNormal(torch.zeros(3), 1.5),
        dist.Poisson(torch.tensor([0.2, 3.0])),
        dist.OneHotCategorical(logits=torch.randn(2, K)),
    ],
)
def test_right_densities_pass(distribution):
    for seed in range(5):
        torch.manual_seed(seed)
        check_density("right", distribution)


@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("family", [dist.Normal, dist.Laplace, partial(dist.StudentT, 4.0)])
def test_wrong_scales_are_seen(family, factor):
    """A scale that is off by a tenth, at which the mean of the score is still zero."""
    right, wrong = (family(torch.zeros(K), scale).to_event(1) for scale in (1.0, factor))
    right.base_dist.log_prob = wrong.base_dist.log_prob
    with pytest.raises(AssertionError, match="normalized log density"):
        check_density("wrong", right)


def test_a_constant_coordinate():
    flat = dist.Normal(torch.zeros(2), torch.tensor([1.0, 0.0]), validate_args=False).to_event(1)
    with pytest.raises(AssertionError, match="samples that vary in every coordinate"):
        check_density("flat", flat)
    check_density("point", dist.Delta(torch.zeros(2), event_dim=1))  # probability 1, not a density


def test_no_power_is_said():
    spikes = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.5, 0.5])), dist.Normal(torch.tensor([0.0, 0.0]), torch.tensor([0.01, 1.0]))
    )
    with pytest.raises(AssertionError, match=r"60 dimensions.*smaller instance"):
        check_density("spikes", spikes.expand((60,)).to_event(1))
    check_density("spikes", spikes.expand((2,)).to_event(1))
