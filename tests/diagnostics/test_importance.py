"""Importance weights and k-hat, against evidence in closed form and by brute force."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import ScaledReader, known_memory_machine, linear_machine

from pyro_kanerva import GaussianMemory
from pyro_kanerva.diagnostics import importance_bound, importance_weights, khat

SLOTS, SIZE, NOISE = 3, 4, 0.6


def log_evidence_given(matrix, patterns, noise=NOISE):
    """log p(x_1 ... x_T | M), without the addresses, for M (..., K, C) and patterns (T, C)."""
    covariance = matrix.mT @ matrix + noise**2 * torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    factor = torch.linalg.cholesky(covariance).unsqueeze(-3)
    return dist.MultivariateNormal(matrix.new_zeros(matrix.shape[-1]), scale_tril=factor).log_prob(patterns).sum(-1)


def log_mean_and_error(log_weights):
    """log of the mean weight along dim 0, and its standard error."""
    scaled = (log_weights - log_weights.amax(0)).exp()
    error = scaled.std(0) / scaled.mean(0) / math.sqrt(len(scaled))
    return scaled.mean(0).log() + log_weights.amax(0), error


def test_weights_of_an_exact_guide_are_the_evidence():
    machine, matrix = known_memory_machine(SLOTS, SIZE, NOISE)
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    log_weights = importance_weights(machine, patterns, 30)
    assert log_weights.shape == (30, 2)
    assert log_weights.dtype == torch.float64
    assert not log_weights.requires_grad
    exact = torch.stack([log_evidence_given(matrix, episode) for episode in patterns])
    torch.testing.assert_close(log_weights, exact.expand(30, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(importance_bound(log_weights), exact, rtol=0, atol=1e-3)
    single = importance_weights(machine, patterns[1], 4)
    torch.testing.assert_close(single, exact[1:].expand(4, 1), rtol=0, atol=1e-3)


def test_importance_bound_lies_between_the_elbo_and_the_evidence():
    """Evidence by brute force: 400,000 memories of the prior, with the addresses summed out in closed form."""
    slots, size, noise, num_patterns = 2, 2, 1.0, 3
    machine = linear_machine(slots, size, noise, memory_prior=GaussianMemory(slots, size, 0.5)).double()
    patterns = torch.randn(2, num_patterns, size, dtype=torch.float64)
    with torch.no_grad():
        matrices = machine.memory_prior().sample((400_000,))
        brute = torch.stack([log_evidence_given(matrices, episode, noise) for episode in patterns], -1)
        evidence, evidence_error = log_mean_and_error(brute)
    log_weights = importance_weights(machine, patterns, 40_000)
    assert (khat(log_weights) < 0.5).all()  # otherwise the standard error below is not reliable
    estimate, error = log_mean_and_error(log_weights)
    torch.testing.assert_close(importance_bound(log_weights), estimate)
    assert ((estimate - evidence).abs() < 5 * (error**2 + evidence_error**2).sqrt()).all()
    # With 2 samples the expected bound is looser, but tighter than the ELBO.
    few = torch.stack([importance_bound(part) for part in log_weights.split(2)])
    few_error, elbo_error = few.std(0) / math.sqrt(len(few)), log_weights.std(0) / math.sqrt(20_000)
    elbo = num_patterns * machine.bound(patterns, num_particles=20_000).bound.detach()
    assert (few.mean(0) - elbo > 5 * (few_error**2 + elbo_error**2).sqrt()).all()
    assert (evidence - few.mean(0) > 5 * (few_error**2 + evidence_error**2).sqrt()).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"code_posterior": lambda codes: dist.Normal(codes, 0.5).to_event(1)},
        {"address_prior": dist.OneHotCategorical(logits=torch.zeros(6))},
    ],
    ids=["default", "latent codes", "one-hot addresses"],
)
def test_mean_log_weight_is_the_elbo(make_machine, patterns, options):
    machine = make_machine(**options)
    log_weights = importance_weights(machine, patterns, 1000)
    assert log_weights.dtype == torch.float32
    with torch.no_grad():
        bounds = 8 * torch.stack([machine.bound(patterns, num_particles=10).bound for _ in range(30)])
    error = (log_weights.var(0) / 1000 + bounds.var(0) / 30).sqrt()
    assert ((log_weights.mean(0) - bounds.mean(0)).abs() < 5 * error).all()


def test_one_hot_addresses_sampled_from_the_guide(one_hot):
    machine, matrix = one_hot
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    log_weights = importance_weights(machine, patterns, 30)
    slots = dist.Normal(matrix, NOISE).log_prob(patterns.unsqueeze(-2)).sum(-1) + machine.address_prior.logits
    torch.testing.assert_close(log_weights, slots.logsumexp(-1).sum(-1).expand(30, 2), rtol=0, atol=1e-3)


def test_a_further_latent_site(stochastic_codes):
    machine, matrix = stochastic_codes
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    log_weights = importance_weights(machine, patterns, 30)
    noise = math.hypot(NOISE, machine.CODE)
    exact = torch.stack([log_evidence_given(matrix, episode, noise) for episode in patterns])
    torch.testing.assert_close(log_weights, exact.expand(30, 2), rtol=0, atol=1e-3)


def test_importance_bound_of_given_weights():
    log_weights = torch.tensor([[0.0, -1000.0], [math.log(3.0), -1000.0], [-math.inf, -1000.0]]).double()
    torch.testing.assert_close(importance_bound(log_weights), torch.tensor([math.log(4 / 3), -1000.0]).double())


def test_bad_input_of_importance_weights(make_machine, patterns):
    with pytest.raises(ValueError, match=r"importance_weights\(\): num_samples is 0; expected at least 1"):
        importance_weights(make_machine(), patterns, 0)
    with pytest.raises(ValueError, match=r"importance_weights\(\): patterns have event shape"):
        importance_weights(make_machine(), patterns[..., :3], 5)


# ---------------------------------------------------------------------- k-hat


def pareto(shape, *size):
    """Log weights with the tail index ``shape``."""
    return -shape * torch.rand(*size, dtype=torch.float64).log()


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_of_pareto_weights(shape):
    """The mean over 20 episodes is the tail index. With the opposite sign, the log weights have a bounded tail."""
    found = khat(pareto(shape, 20_000, 20))
    assert found.shape == (20,)
    assert found.dtype == torch.float64
    assert abs(found.mean() - shape) < 5 * found.std() / math.sqrt(20)
    assert (khat(-pareto(shape, 20_000, 20)) < 0).all()


def test_khat_is_for_each_episode_apart():
    log_weights = torch.cat([pareto(0.1, 2000, 1), pareto(1.5, 2000, 1) - 500], -1)
    both = khat(log_weights)
    torch.testing.assert_close(both[1:], khat(log_weights[:, 1:]))
    assert both[0] < 0.5
    assert both[1] > 1


def test_khat_with_weights_of_zero_and_of_equal_size():
    log_weights = pareto(0.8, 5000, 3)
    log_weights[::2, 0] = -math.inf
    assert 0.4 < khat(log_weights)[0] < 1.2
    log_weights[:, 1] = -1e5
    log_weights[:, 2] = -1e5 * (1 + 2e-16 * torch.rand(5000, dtype=torch.float64))
    assert khat(log_weights)[1:].tolist() == [0.0, 0.0]


def test_khat_tells_a_good_guide_from_a_narrow_one():
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    found = {}
    for factor in (1.0, 1.1, 0.3):
        machine, _ = known_memory_machine(SLOTS, SIZE, NOISE, reader=ScaledReader(factor))
        found[factor] = khat(importance_weights(machine, patterns, 4000))
    assert (found[1.0] < 0.5).all()
    assert (found[1.1] < 0.5).all()
    assert (found[0.3] > 0.7).all()


@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (torch.zeros(100), r"shape \(100,\); expected \(samples, episodes\)"),
        (torch.zeros(24, 2), "at least 25 samples"),
        (torch.full((30, 2), math.nan), "NaN or infinite"),
        (torch.full((30, 2), math.inf), "NaN or infinite"),
        (torch.full((30, 2), -math.inf), "weight zero throughout"),
    ],
)
def test_khat_refuses_bad_weights(log_weights, message):
    with pytest.raises(ValueError, match=message):
        khat(log_weights)
    if len(log_weights) != 24:
        with pytest.raises(ValueError, match="importance_bound"):
            importance_bound(log_weights)
