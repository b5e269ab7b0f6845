"""Memory priors: their densities, where they start, and what they refuse."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva import GaussianMemory, HierarchicalMemory, LaplaceMemory, LowRankMemory, StudentTMemory
from pyro_kanerva.priors import moment_matched_memory

pytestmark = pytest.mark.usefixtures("float64")


MEMORIES = {
    "GaussianMemory": GaussianMemory,
    "LowRankMemory": LowRankMemory,
    "LaplaceMemory": LaplaceMemory,
    "StudentTMemory": StudentTMemory,
    "HierarchicalMemory": HierarchicalMemory,
}


def test_low_rank_covariance():
    prior = LowRankMemory(5, 3, rank=2)
    with torch.no_grad():
        prior.log_scale.copy_(torch.linspace(-1.0, 0.5, 5))
    q, factor = prior(), prior.factor
    expected = torch.stack([torch.outer(column, column) for column in factor.mT]).sum(0)
    expected = expected + torch.linspace(-1.0, 0.5, 5).exp().square().diag()
    torch.testing.assert_close(q.row_covariance, expected)
    flat = dist.MultivariateNormal(q.loc.mT.flatten(), torch.block_diag(expected, expected, expected))
    matrix = torch.randn(5, 3)
    torch.testing.assert_close(q.log_prob(matrix), flat.log_prob(matrix.mT.flatten()))
    assert sum(parameter.numel() for parameter in (prior.factor, prior.log_scale)) == 5 * 3


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_priors_start_at_the_stated_scale(name):
    """Standard deviations of 1 / sqrt(K), of the entries and of the mean."""
    prior = MEMORIES[name](100, 50)
    assert prior().event_shape == (100, 50)
    assert prior().batch_shape == ()
    variance = moment_matched_memory(prior).variance
    assert variance.mean().item() == pytest.approx(0.01, rel=0.2)  # the random half of LowRankMemory fluctuates
    assert prior.loc.std().item() == pytest.approx(0.1, rel=0.05)
    prior().log_prob(torch.randn(100, 50)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in prior.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in prior.parameters())


@pytest.mark.parametrize("name", ["LaplaceMemory", "StudentTMemory", "HierarchicalMemory"])
def test_scale_is_that_of_the_named_distribution(name):
    prior = MEMORIES[name](3, 2, scale=0.7)
    if name == "HierarchicalMemory":
        assert prior().variance.mean().item() == pytest.approx(0.49)  # E v
    else:
        torch.testing.assert_close(prior().base_dist.scale.expand(3, 2), torch.full((3, 2), 0.7))


def slot_variances(prior, number=40_001):
    """A grid of log v and the logarithm of p(v) dv."""
    logs = torch.linspace(-12, 12, number)
    inverse_gamma = dist.InverseGamma(prior.concentration, prior.log_rate.detach().exp())
    return logs.exp(), inverse_gamma.log_prob(logs.exp()) + logs + (logs[1] - logs[0]).log()


@pytest.mark.parametrize("concentration", [1.5, 2.0, 6.0])
@pytest.mark.parametrize("size", [1, 4])
def test_hierarchical_density_and_relevance(concentration, size):
    """Density and E[v | M] by quadrature over the variance of every slot."""
    prior = HierarchicalMemory(3, size, concentration, scale=0.8)
    matrix = prior.loc.detach() + torch.tensor([[0.1], [0.7], [2.5]]) * torch.randn(3, size)
    variance, log_weight = slot_variances(prior)
    squared = (matrix - prior.loc.detach()).square().sum(-1)  # (K,)
    log_joint = log_weight - 0.5 * squared.unsqueeze(-1) / variance - 0.5 * size * (2 * math.pi * variance).log()
    with torch.no_grad():
        torch.testing.assert_close(prior().log_prob(matrix), log_joint.logsumexp(-1).sum(), rtol=1e-7, atol=1e-7)
        expected = (log_joint.softmax(-1) * variance).sum(-1)
        torch.testing.assert_close(prior.relevance(matrix), expected, rtol=1e-4, atol=1e-6)
        batch = prior.relevance(matrix.expand(4, 2, 3, size))
    assert batch.shape == (4, 2, 3)


def test_entries_of_a_hierarchical_slot_share_a_variance():
    """Squared deviations of one slot are correlated, those of two slots are not."""
    prior = HierarchicalMemory(2, 2, concentration=6.0)
    with torch.no_grad():
        deviations = (prior().sample((200_000,)) - prior.loc).square().flatten(1)
    correlation = torch.corrcoef(deviations.mT)
    assert correlation[0, 1] > 0.05
    assert correlation[2, 3] > 0.05
    assert correlation[:2, 2:].abs().max() < 0.02


@pytest.mark.parametrize("scale", [0.5, torch.full((6,), 0.5), 0.5 * torch.eye(6) + 0.1 * torch.ones(6, 6).tril(-1)])
def test_scales_of_a_gaussian(scale):
    """One for all slots, one for each, or a factor of the row covariance: what is given is learned."""
    prior = GaussianMemory(6, 10, scale)
    given = torch.as_tensor(scale).to(torch.float64)
    factor = given * torch.eye(6) if given.dim() < 2 else given
    torch.testing.assert_close(prior().row_covariance, factor @ factor.mT)
    prior().log_prob(torch.randn(6, 10)).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in prior.parameters())
    learned = sum(parameter.numel() for name, parameter in prior.named_parameters() if name != "loc")
    assert learned == {0: 1, 1: 6, 2: 6 + 36}[given.dim()]


def test_the_factor_of_a_gaussian_stays_lower_triangular():
    """Whatever training makes of the parameter: its entries on and above the diagonal are ignored."""
    prior, entries = GaussianMemory(4, 3, 0.5 * torch.eye(4)), torch.randn(4, 4)
    with torch.no_grad():
        prior.scale_below_diagonal.copy_(entries)
    expected = 0.5 * torch.eye(4) + entries.tril(-1)
    torch.testing.assert_close(prior().scale_tril_row, expected)
    prior().log_prob(torch.randn(4, 3)).backward()
    assert not prior.scale_below_diagonal.grad.triu().any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMemory(0, 3), "GaussianMemory: num_slots is 0; expected at least 1"),
        (lambda: GaussianMemory(3, 3, torch.ones(2)), r"GaussianMemory: scale has shape \(2,\); expected"),
        (lambda: GaussianMemory(3, 3, -1.0), "expected finite positive entries"),
        (lambda: GaussianMemory(3, 3, math.inf), "expected finite positive entries"),
        (lambda: GaussianMemory(3, 3, torch.ones(3, 3)), "lower triangular factor"),
        (lambda: LowRankMemory(0, 3), "LowRankMemory: num_slots is 0; expected at least 1"),
        (lambda: LowRankMemory(3, 3, 0), "LowRankMemory: rank is 0; expected at least 1"),
        (lambda: LowRankMemory(3, 3, 4), "LowRankMemory: rank is 4; expected at most num_slots, 3"),
        (lambda: LowRankMemory(3, 3, 1, scale=-1.0), "LowRankMemory: scale is -1.0; expected a positive number"),
        (lambda: LaplaceMemory(3, 0), "LaplaceMemory: code_size is 0; expected at least 1"),
        (lambda: LaplaceMemory(3, 3, math.inf), "LaplaceMemory: scale is inf; expected a positive number"),
        (lambda: LaplaceMemory(3, 3, math.nan), "LaplaceMemory: scale is nan; expected a positive number"),
        (lambda: StudentTMemory(3, 3, df=2.0), "StudentTMemory: df is 2.0; expected more than 2"),
        (lambda: StudentTMemory(3, 3, df=math.inf), "StudentTMemory: df is inf"),
        (lambda: HierarchicalMemory(3, 3, concentration=1.0), "concentration is 1.0; expected more than 1"),
        (lambda: HierarchicalMemory(3, 3, scale=0.0), "HierarchicalMemory: scale is 0.0; expected a positive number"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
