"""The energies of a query: the deviations of the variational one, and its value where it is exact."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine, small_machine, with_gain

from pyro_kanerva import (
    Flip,
    GaussianAddress,
    GaussianNoise,
    MatrixNormal,
    MixtureAddress,
    Occlusion,
    PointEnergy,
    SaltAndPepper,
    UnknownLevel,
    VariationalEnergy,
)
from pyro_kanerva.distributions import GaussianMixture
from pyro_kanerva.retrieval.energy import QueryEnergy


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


# ---------------------------------------------------------------------- a mixture prior

SIZE, SLOTS = 12, 5
LEFT = torch.arange(SIZE) < SIZE // 2
PRIORS = {
    "slots": lambda: MixtureAddress(SLOTS),
    "wide": lambda: MixtureAddress(SLOTS, 0.8),
    "two components": lambda: lambda: TWO_COMPONENTS,
}
TWO_COMPONENTS = GaussianMixture(
    torch.zeros(SLOTS, dtype=torch.float64),
    torch.eye(SLOTS, dtype=torch.float64)[:2] + 0.1,
    torch.tensor([0.0, -0.1], dtype=torch.float64),
    0.2 * torch.eye(SLOTS, dtype=torch.float64),
)


def mixture_memory(address_prior, gain=1.0):
    """A memory in float64 of binary patterns (2, 7, SIZE), and the patterns."""
    machine = with_gain(small_machine((SIZE,), SLOTS, 8, address_prior=address_prior, code_scale=0.7), gain).double()
    patterns = (torch.rand(2, 7, SIZE) < 0.4).double()
    return machine.write(patterns), patterns


def query_energy(memory, cues, channel, observed, energy):
    observed = None if observed is None else observed.expand_as(cues)
    return QueryEnergy(memory.machine, memory.posterior.loc, cues, channel, observed, energy)


@pytest.mark.parametrize("channel", [None, Flip(0.2), UnknownLevel(SaltAndPepper(0.3))], ids=str)
@pytest.mark.parametrize("observed", [None, LEFT], ids=["all", "left"])
@pytest.mark.parametrize("gain", [1.0, 10.0])
@pytest.mark.parametrize("kind", PRIORS)
def test_best_component_has_the_least_energy_of_all(kind, gain, observed, channel):
    """The energy is evaluated at the mean of each component, for every cue. Without a channel, entries are visible."""
    memory, patterns = mixture_memory(PRIORS[kind](), gain)
    energy = query_energy(memory, Flip(0.2)(patterns), channel, observed, PointEnergy())
    found = energy.best_component()
    if channel is None and observed is None:  # nothing is known of the noise
        assert found is None
        return
    visible = channel or Occlusion(LEFT)
    terms = query_energy(memory, energy.cues, visible, observed, PointEnergy())
    everyone = torch.ones(2, 7, dtype=torch.bool)
    means = energy.prior.component_means
    energies = torch.stack([terms.evaluate(m.expand(2, 7, SLOTS), terms.cues, everyone).energy for m in means])
    assert found.shape == (2, 7, SLOTS)
    torch.testing.assert_close(terms.evaluate(found, terms.cues, everyone).energy, energies.min(0).values)
    best = energies.argmin(0)
    assert torch.equal(found, means[best])
    assert kind == "two components" or len(best.unique()) > 1  # not one component for all


def test_other_priors_have_no_best_component():
    memory, patterns = mixture_memory(GaussianAddress(SLOTS))
    assert query_energy(memory, patterns, Flip(0.2), None, PointEnergy()).best_component() is None


@pytest.mark.parametrize("energy", [PointEnergy(), VariationalEnergy(4)], ids=["point", "variational"])
@pytest.mark.parametrize("channel", [None, Flip(0.2), SaltAndPepper(0.3)], ids=str)
@pytest.mark.parametrize("observed", [None, LEFT], ids=["all", "left"])
@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_energy_never_rises_under_a_mixture(dtype, scale, observed, channel, energy):
    """Also not with hidden entries or wild networks. It starts no higher than the best component."""
    for gain in (1.0, 20.0):
        memory, patterns = mixture_memory(MixtureAddress(SLOTS, scale), gain)
        machine = memory.machine.to(dtype)
        memory, cues = machine.write(patterns.to(dtype)), Flip(0.2)(patterns).to(dtype)
        retrieval = memory.query(cues, num_steps=8, channel=channel, observed=observed, energy=energy)
        assert retrieval.energy.isfinite().all()
        assert (retrieval.energy.diff(dim=0) <= 0).all()
        if observed is None and channel is not None:
            terms = query_energy(memory, cues, channel, None, energy)
            everyone = torch.ones(2, 7, dtype=torch.bool)
            start = terms.evaluate(terms.best_component(), cues, everyone).energy
            assert (retrieval.energy[0] <= start).all()


@pytest.mark.parametrize("channel", [None, GaussianNoise(1.0)], ids=str)
@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_a_query_ends_at_the_right_component(scale, channel):
    """Slots are far apart, cues are damaged and shrunken: the address is near the slot of the pattern.

    Half of the entries may be hidden.
    """
    matrix = 6 * torch.linalg.qr(torch.randn(SIZE, SIZE, dtype=torch.float64))[0][:SLOTS]
    prior = MatrixNormal(matrix, 1e-6 * torch.eye(SLOTS, dtype=torch.float64))
    machine = linear_machine(SLOTS, SIZE, 0.5, memory_prior=prior, address_prior=MixtureAddress(SLOTS, scale)).double()
    memory = machine.prior_memory(1)
    labels = torch.arange(40) % SLOTS
    patterns = matrix[labels].unsqueeze(0)
    cues = patterns + 0.7 * torch.randn_like(patterns)
    for observed in (None, LEFT):
        if observed is not None:
            cues = torch.where(LEFT, cues, 0.0)
        retrieval = memory.query(cues, num_steps=8, channel=channel, observed=observed)
        assert (retrieval.energy.diff(dim=0) <= 0).all()
        nearest = retrieval.address[-1].argmax(-1)[0]
        share = (nearest == labels).double().mean()
        assert share == 1 if observed is None else share > 0.9
        slots = torch.eye(SLOTS, dtype=torch.float64)[nearest]
        assert (retrieval.address[-1][0] - slots).norm(dim=-1).max() < 6 * scale * SLOTS**0.5


def test_the_variational_energy_of_a_mixture_is_above_the_evidence():
    """Of a linear machine: ``-log sum_k pi_k Normal(c; M^T m_k, M^T P^-1 M + s^2 I)``, with s of pattern and channel.

    It is tight for a component far from all others, where q(w) can be the posterior.
    """
    noise, scale = (0.3, 0.4), 0.2
    matrix = 6 * torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0][:3]
    prior = MatrixNormal(matrix, 1e-6 * torch.eye(3, dtype=torch.float64))
    options = {"memory_prior": prior, "address_prior": MixtureAddress(3, scale), "code_scale": 0.5}
    memory = linear_machine(3, 4, noise[0], **options).double().prior_memory(1)
    labels = torch.arange(6) % 3
    cues = (matrix[labels] + 0.5 * torch.randn(6, 4, dtype=torch.float64)).unsqueeze(0)
    energy = VariationalEnergy(4000)
    retrieval = memory.query(cues, num_steps=10, channel=GaussianNoise(noise[1]), energy=energy)
    covariance = scale**2 * matrix.mT @ matrix + 0.25 * torch.eye(4, dtype=torch.float64)
    components = dist.MultivariateNormal(matrix, covariance)
    exact = -(components.log_prob(cues.unsqueeze(-2)) - math.log(3)).logsumexp(-1)
    # a quadratic of 3 coordinates with deviations in 2,000 opposite pairs, as above
    torch.testing.assert_close(retrieval.energy[-1], exact, rtol=0, atol=5 * math.sqrt((3 / 2) / 2000))
