"""Chains and importance weights, against the exact posteriors of a linear-Gaussian machine."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine, small_machine

from pyro_kanerva import (
    CategoricalLikelihood,
    ExactReader,
    Flip,
    GaussianNoise,
    MatrixNormal,
    Memory,
    Replace,
    UnknownLevel,
)

SLOTS, SIZE, SCALE, NOISE = 3, 4, 0.6, 0.5
CHAINS = 4000


def linear_memory(uncertainty=1e-7, batch=1):
    """``x = M^T w + SCALE noise``, with an exact reader; the standard deviation of each slot is ``uncertainty``."""
    factor = uncertainty * torch.eye(SLOTS, dtype=torch.float64).expand(batch, -1, -1)
    posterior = MatrixNormal(torch.randn(batch, SLOTS, SIZE, dtype=torch.float64), factor)
    return Memory(linear_machine(SLOTS, SIZE, SCALE).double(), posterior, (SIZE,))


def covariance(memory):
    """The covariance of a pattern."""
    matrix = memory.posterior.loc[0]
    return matrix.T @ matrix + SCALE**2 * torch.eye(SIZE, dtype=torch.float64)


def assert_moments(draws, mean, std):
    """Mean and standard deviation of draws (S, chains, ...) within 5 standard errors.

    Chains are independent and start from the same cue. Each counts as one draw, which is the least it is worth.
    """
    draws = draws.flatten(0, 1)
    margin = 5 / math.sqrt(CHAINS)
    assert ((draws.mean(0) - mean).abs() < margin * std).all()
    assert ((draws.std(0) - std).abs() < margin * std / math.sqrt(2) + 1e-12).all()


def test_chain_draws_from_the_exact_posterior():
    memory = linear_memory()
    cue, channel = torch.randn(SIZE, dtype=torch.float64), GaussianNoise(NOISE)
    draws = memory.sample(cue.expand(1, CHAINS, -1), 3, burn_in=30, channel=channel)
    assert draws.patterns.shape == (3, 1, CHAINS, SIZE)
    assert draws.address.shape == (3, 1, CHAINS, SLOTS)
    prior, matrix = covariance(memory), memory.posterior.loc[0]
    noisy = prior + NOISE**2 * torch.eye(SIZE, dtype=torch.float64)
    gain = torch.linalg.solve(noisy, prior).T
    assert_moments(draws.patterns[:, 0], gain @ cue, (prior - gain @ prior).diagonal().sqrt())
    gain = matrix @ noisy.inverse()
    std = (torch.eye(SLOTS, dtype=torch.float64) - gain @ matrix.T).diagonal().sqrt()
    assert_moments(draws.address[:, 0], gain @ cue, std)


@pytest.mark.parametrize("channel", [None, GaussianNoise(NOISE)], ids=str)
def test_entries_that_are_not_observed_are_drawn(channel):
    """Without a channel, observed entries are clamped, and the rest has its exact conditional distribution."""
    memory, observed = linear_memory(), torch.tensor([True, True, False, False])
    cue = torch.randn(SIZE, dtype=torch.float64)
    cues = cue.expand(1, CHAINS, -1)
    draws = memory.sample(cues, 2, burn_in=40, channel=channel, observed=observed).patterns
    prior = covariance(memory)
    cross, seen = prior[:, :2], prior[:2, :2]
    if channel is None:
        assert torch.equal(draws[..., :2], cues[..., :2].expand(2, -1, -1, -1))
    else:
        seen = seen + NOISE**2 * torch.eye(2, dtype=torch.float64)
    mean = cross @ torch.linalg.solve(seen, cue[:2])
    std = (prior - cross @ torch.linalg.solve(seen, cross.T)).diagonal().clamp(min=0).sqrt()
    assert_moments(draws[:, 0, :, 2:], mean[2:], std[2:])
    if channel is not None:
        assert_moments(draws[:, 0], mean, std)


def test_chain_without_evidence_forgets_its_cue():
    """With nothing observed, the chain draws from p(x | M) after the burn-in."""
    memory = linear_memory()
    cues = 2 + torch.randn(SIZE, dtype=torch.float64).expand(1, CHAINS, -1)
    nothing = torch.zeros(SIZE, dtype=torch.bool)
    draws = memory.sample(cues, 1, burn_in=100, channel=GaussianNoise(NOISE), observed=nothing)
    assert_moments(draws.patterns[:, 0], torch.zeros(SIZE), covariance(memory).diagonal().sqrt())


@pytest.mark.parametrize("uncertainty", [1e-7, 2.0])
def test_sampling_the_memory_adds_its_uncertainty(uncertainty):
    """An uncertain memory widens the draws of a hidden entry. A memory that is known does not."""
    memory = linear_memory(uncertainty, batch=CHAINS)  # each episode draws its own memory
    memory.posterior.loc.copy_(torch.arange(SIZE) / 4)
    cues, observed = torch.ones(CHAINS, 1, SIZE, dtype=torch.float64), torch.arange(SIZE) < 3
    known, drawn = (
        memory.sample(
            cues, 1, burn_in=10, channel=GaussianNoise(NOISE), observed=observed, sample_memory=sample_memory
        ).patterns[0, :, 0, 3]
        for sample_memory in (False, True)
    )
    error = 1 / math.sqrt(CHAINS)  # of the logarithm of a ratio of two standard deviations
    ratio = (drawn.std() / known.std()).log()
    if uncertainty < 1:
        assert abs(ratio) < 5 * error
    else:
        assert ratio > 10 * error


@pytest.mark.parametrize("sample_memory", [False, True])
def test_every_sweep_has_a_memory_of_its_own(sample_memory):
    """Or all have the posterior mean."""
    seen = []

    def reader(codes, matrix, address_prior, code_scale):
        seen.append(matrix.clone())
        return ExactReader()(codes, matrix, address_prior, code_scale)

    posterior = linear_memory(1.0).posterior
    memory = Memory(linear_machine(SLOTS, SIZE, SCALE, reader=reader).double(), posterior, (SIZE,))
    memory.sample(torch.zeros(1, 2, SIZE, dtype=torch.float64), 3, burn_in=2, sample_memory=sample_memory)
    assert len(seen) == 5
    assert len({tuple(matrix.flatten().tolist()) for matrix in seen}) == (5 if sample_memory else 1)
    assert torch.equal(seen[0], posterior.loc) != sample_memory


@pytest.mark.parametrize("channel", [None, GaussianNoise(NOISE), UnknownLevel(GaussianNoise(NOISE))], ids=str)
def test_chains_do_not_touch_each_other(channel):
    """From one seed, another second cue leaves the chain of the first one as it was; each has its own level."""
    memory, cues = linear_memory(), torch.randn(1, 2, SIZE, dtype=torch.float64)
    draws = []
    for factor in (1.0, 9.0):
        torch.manual_seed(1)
        draws.append(memory.sample(cues * torch.tensor([[1.0], [factor]]), 4, burn_in=0, channel=channel).patterns)
    torch.testing.assert_close(draws[0][:, :, 0], draws[1][:, :, 0])
    assert not torch.allclose(draws[0][:, :, 1], draws[1][:, :, 1])


def test_burn_in_is_left_out():
    memory, cues = linear_memory(), torch.randn(1, 5, SIZE, dtype=torch.float64)
    torch.manual_seed(3)
    whole = memory.sample(cues, 6, burn_in=0, channel=GaussianNoise(NOISE))
    torch.manual_seed(3)
    late = memory.sample(cues, 2, burn_in=4, channel=GaussianNoise(NOISE))
    assert torch.equal(late.patterns, whole.patterns[4:])
    assert torch.equal(late.address, whole.address[4:])


def test_chain_without_a_channel_starts_at_the_cue():
    """Its first address is drawn by the reader of the cue, and its patterns by the likelihood."""
    memory, cue = linear_memory(), torch.randn(SIZE, dtype=torch.float64)
    draws = memory.sample(cue.expand(1, CHAINS, -1), 1, burn_in=0)
    reader = memory.machine.read_codes(cue.view(1, 1, -1), memory.posterior.loc)
    assert_moments(draws.address[:, 0], reader.mean[0, 0], reader.variance[0, 0].sqrt())
    residual = draws.patterns - draws.address @ memory.posterior.loc
    assert_moments(residual[:, 0], torch.zeros(SIZE), torch.full((SIZE,), SCALE, dtype=torch.float64))


@pytest.mark.parametrize("channel", [None, Replace(0.2), UnknownLevel(Replace(0.2))], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chain_of_classes(channel, dtype):
    machine = small_machine((5,), 3, 4, output_shape=(5, 3), likelihood=CategoricalLikelihood(3)).to(dtype)
    patterns = torch.randint(0, 3, (2, 4, 5)).to(dtype)
    observed = torch.arange(5) < 3
    draws = machine.write(patterns).sample(patterns, 6, channel=channel, observed=observed, sample_memory=True)
    assert draws.patterns.dtype == dtype
    assert set(draws.patterns.unique().tolist()) == {0.0, 1.0, 2.0}
    if channel is None:
        assert torch.equal(draws.patterns[..., :3], patterns[..., :3].expand(6, -1, -1, -1))


def test_single_episode(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns[0])
    draws = memory.sample(patterns[0], 2, burn_in=0, channel=Flip(0.1))
    assert draws.patterns.shape == (2, 1, *patterns[0].shape)
    assert not draws.address.requires_grad
    assert memory.log_evidence(patterns[0], num_samples=2).shape == (1, 8)


def test_log_evidence_is_exact_where_the_reader_is():
    """All importance weights are equal, up to the small uncertainty of q(M)."""
    memory = linear_memory()
    patterns = torch.randn(1, 5, SIZE, dtype=torch.float64)
    exact = dist.MultivariateNormal(torch.zeros(SIZE, dtype=torch.float64), covariance(memory)).log_prob(patterns)
    for num_samples in (1, 10):
        evidence = memory.log_evidence(patterns, num_samples=num_samples)
        torch.testing.assert_close(evidence, exact, rtol=0, atol=1e-4)


def test_log_evidence_of_an_uncertain_memory():
    """The weights average N(x; 0, M^T M + SCALE^2 I) over M ~ q(M); compared with draws of M in this test."""
    memory = linear_memory(0.5)
    patterns = torch.randn(1, 3, SIZE, dtype=torch.float64)
    matrices = memory.posterior.sample((5000,))[:, 0]
    covariances = matrices.mT @ matrices + SCALE**2 * torch.eye(SIZE, dtype=torch.float64)
    normal = dist.MultivariateNormal(torch.zeros(SIZE, dtype=torch.float64), covariances)
    density = torch.stack([normal.log_prob(x).exp() for x in patterns[0]])  # (3, 5000)
    num_samples = 500
    evidence = memory.log_evidence(patterns, num_samples=num_samples)[0].exp()
    margin = 5 * density.std(1) * math.sqrt(1 / num_samples + 1 / 5000)
    assert ((evidence - density.mean(1)).abs() < margin).all()


def test_more_samples_tighten_the_bound(make_machine, patterns):
    memory = make_machine().write(patterns)
    few, many = (memory.log_evidence(patterns, num_samples=number).mean() for number in (1, 50))
    assert few < many
    assert memory.log_evidence(patterns, num_samples=1).shape == (3, 8)


def test_bad_arguments():
    memory, cues = linear_memory(), torch.zeros(1, 2, SIZE, dtype=torch.float64)
    for call, message in [
        (lambda: memory.sample(cues, 0), r"sample\(\): num_samples is 0; expected at least 1"),
        (lambda: memory.sample(cues, 1, burn_in=-1), r"sample\(\): burn_in is -1; expected at least 0"),
        (lambda: memory.sample(cues, 1, channel="noise"), r"sample\(\): channel is 'noise'; expected None"),
        (lambda: memory.sample(cues, 1, channel=Flip(0.1)), "damages entries of a Bernoulli likelihood"),
        (lambda: memory.sample(cues, 1, observed=torch.ones(SIZE)), "observed has dtype torch.float32"),
        (lambda: memory.sample(cues[..., 1:], 1), r"sample\(\): cues have event shape \(3,\)"),
        (lambda: memory.log_evidence(cues, num_samples=0), r"log_evidence\(\): num_samples is 0"),
        (lambda: memory.log_evidence(cues / 0), r"log_evidence\(\): patterns have NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
