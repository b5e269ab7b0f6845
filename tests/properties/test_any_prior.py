"""Everything that can be asked of a memory, for every address prior."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine, small_machine, with_gain

from pyro_kanerva import (
    CategoricalAddress,
    Flip,
    GaussianAddress,
    GaussianNoise,
    HorseshoeAddress,
    LaplaceAddress,
    MatrixNormal,
    Memory,
    MixtureAddress,
    Occlusion,
    SaltAndPepper,
    SimplexAddress,
    StudentTAddress,
    UnknownLevel,
    VariationalEnergy,
)
from pyro_kanerva.priors import as_distribution, real_coordinates

K, C, SHAPE = 4, 3, (10,)
ADDRESSES = {
    "GaussianAddress": GaussianAddress,
    "LaplaceAddress": LaplaceAddress,
    "StudentTAddress": StudentTAddress,
    "HorseshoeAddress": HorseshoeAddress,
    "SimplexAddress": SimplexAddress,
    "MixtureAddress": MixtureAddress,
    "MixtureAddress, wide": lambda slots: MixtureAddress(slots, 0.5),
    "CategoricalAddress": CategoricalAddress,
    "HalfNormal": lambda slots: lambda: dist.HalfNormal(torch.ones(slots)).to_event(1),
    "Gamma": lambda slots: lambda: dist.Gamma(torch.full((slots,), 2.0), torch.tensor(2.0)).to_event(1),
    "Dirichlet": lambda slots: lambda: dist.Dirichlet(torch.ones(slots)),
}
GENERIC = ("HalfNormal", "Gamma", "Dirichlet")
NAMED = [name for name in ADDRESSES if name not in GENERIC]
CONTINUOUS = [name for name in ADDRESSES if name != "CategoricalAddress"]
LEFT = torch.arange(10) < 5
CHANNELS = {"none": None, "flip": Flip(0.2), "occlusion": Occlusion(LEFT), "unknown": UnknownLevel(SaltAndPepper(0.3))}


def build(name, gain=1.0):
    """A machine for patterns of 10 entries, with an address prior; ``gain`` makes its networks wild."""
    return with_gain(small_machine(SHAPE, K, C, address_prior=ADDRESSES[name](K), code_scale=0.7), gain)


def binary(*shape):
    return (torch.rand(*shape, *SHAPE) < 0.4).to(torch.get_default_dtype())


@pytest.fixture(scope="module")
def trained():
    """A machine for every prior, after 15 steps on its bound."""
    machines = {}

    def get(name):
        if name not in machines:
            torch.manual_seed(1)
            machines[name] = machine = build(name)
            prototypes = binary(6)
            optimizer = torch.optim.Adam(machine.parameters(), lr=1e-2)
            for _ in range(15):
                optimizer.zero_grad()
                patterns = Flip(0.05)(prototypes[torch.randint(6, (4, 6))])
                (-machine.bound(patterns).bound.mean()).backward()
                optimizer.step()
        return machines[name]

    return get


# ---------------------------------------------------------------------- the query


@pytest.mark.parametrize(
    ("name", "channel"),
    [(name, channel) for name in ADDRESSES for channel in CHANNELS if name in NAMED or channel in ("none", "flip")],
)
def test_energy_never_rises(name, channel):
    """Not even by one unit in the last place, for random networks, also wild ones."""
    for gain in (1.0, 10.0) if channel in ("none", "flip") else (1.0,):
        machine, patterns = build(name, gain), binary(2, 6)
        retrieval = machine.write(patterns).query(Flip(0.2)(patterns), num_steps=4, channel=CHANNELS[channel])
        assert retrieval.energy.isfinite().all()
        assert (retrieval.energy.diff(dim=0) <= 0).all()
        assert retrieval.energy[-1].sum() <= retrieval.energy[0].sum()
        assert as_distribution(machine.address_prior).support.check(retrieval.address).all()


@pytest.mark.parametrize("channel", ["none", "flip"])
@pytest.mark.parametrize("name", NAMED)
def test_energy_never_rises_after_some_training(trained, name, channel):
    machine, patterns = trained(name), Flip(0.05)(binary(2, 6))
    retrieval = machine.write(patterns).query(Flip(0.2)(patterns), num_steps=5, channel=CHANNELS[channel])
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    assert retrieval.energy[-1].sum() < retrieval.energy[0].sum()


@pytest.mark.parametrize("channel", ["none", "flip"])
@pytest.mark.parametrize("name", CONTINUOUS)
def test_variational_energy_never_rises(name, channel):
    machine, patterns = build(name), binary(2, 4)
    energy = VariationalEnergy(num_samples=4)
    retrieval = machine.write(patterns).query(
        Flip(0.2)(patterns), num_steps=4, channel=CHANNELS[channel], energy=energy
    )
    assert retrieval.energy.isfinite().all()
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    assert retrieval.energy[-1].sum() < retrieval.energy[0].sum()


def test_variational_energy_of_slots():
    machine, patterns = build("CategoricalAddress"), binary(2, 4)
    with pytest.raises(ValueError, match=r"VariationalEnergy expects real addresses, not slots. Use PointEnergy\(\)"):
        machine.write(patterns).query(patterns, energy=VariationalEnergy())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("channel", ["none", "flip", "occlusion"])
@pytest.mark.parametrize("name", ADDRESSES)
def test_energy_at_the_addresses_of_a_query(name, channel):
    machine, patterns = build(name), binary(2, 5)
    memory, cues = machine.write(patterns), Flip(0.2)(patterns)
    retrieval = memory.query(cues, num_steps=3, channel=CHANNELS[channel])
    for n in range(4):
        about = retrieval.patterns[n] if channel == "none" else cues
        energy = memory.energy(retrieval.address[n], about, channel=CHANNELS[channel])
        torch.testing.assert_close(energy, retrieval.energy[n], rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name != "HorseshoeAddress"])
def test_a_long_query_ends_near_a_minimum(name):
    """torch's L-BFGS, started where a query ends, gains less than 5% of the whole descent.

    It is 20% for the Laplace prior, whose density has kinks. A query stops once a step gains less than 0.01 nats.
    """
    machine, patterns = build(name), binary(2, 5)
    memory, cues = machine.write(patterns), Flip(0.2)(patterns)
    retrieval = memory.query(cues, num_steps=30, channel=Flip(0.2))
    coordinates = real_coordinates(as_distribution(machine.address_prior))
    points = coordinates.inverse(retrieval.address[-1]).requires_grad_()
    optimizer = torch.optim.LBFGS([points], max_iter=500, line_search_fn="strong_wolfe")

    def energy():
        return memory.energy(coordinates.address(points), cues, channel=Flip(0.2))

    def closure():
        optimizer.zero_grad()
        total = energy().sum()
        total.backward()
        return total

    optimizer.step(closure)
    start, end, least = (value.detach().mean() for value in (retrieval.energy[0], retrieval.energy[-1], energy()))
    assert least <= end < start
    assert end - least < (0.2 if name == "LaplaceAddress" else 0.05) * (start - least)


# ---------------------------------------------------------------------- slots


def predictions_of_slots(memory):
    """The probabilities (B, K) + E of every entry of a pattern, read from each slot."""
    return memory.machine.decode(memory.posterior.loc, SHAPE).base_dist.probs


def energies_of_slots(memory, cues, channel, observed=None):
    """The energy (K, B, Q) of every slot, by the likelihood by hand."""
    slots = predictions_of_slots(memory)  # (B, K) + E
    probs = slots.transpose(0, 1).unsqueeze(2)  # (K, B, 1) + E
    if channel is not None:
        flip = channel.flip_probability
        probs = probs * (1 - flip) + (1 - probs) * flip
    evidence = torch.xlogy(cues, probs) + torch.xlogy(1 - cues, 1 - probs)
    if observed is not None:
        evidence = torch.where(observed, evidence, 0.0)
    return -evidence.sum(-1) + math.log(K)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("channel", [Flip(0.2), SaltAndPepper(0.3)], ids=str)
@pytest.mark.parametrize("observed", [None, LEFT], ids=["all", "left"])
@pytest.mark.parametrize("gain", [1.0, 20.0])
def test_a_query_finds_the_best_slot(channel, observed, gain):
    machine, patterns = build("CategoricalAddress", gain), binary(3, 7)
    memory, cues = machine.write(patterns), channel(patterns)
    retrieval = memory.query(cues, num_steps=2, channel=channel, observed=observed)
    energies = energies_of_slots(memory, cues, channel, observed)
    for step in (1, 2):
        torch.testing.assert_close(retrieval.energy[step], energies.min(0).values, rtol=1e-9, atol=1e-9)
    chosen = retrieval.address[-1].argmax(-1)
    torch.testing.assert_close(energies.gather(0, chosen.unsqueeze(0))[0], energies.min(0).values)
    assert ((retrieval.address == 0) | (retrieval.address == 1)).all()
    assert retrieval.converged.all()


@pytest.mark.usefixtures("float64")
def test_attractors_of_slots():
    """Without a channel the pattern is the mode of a slot, and no other slot explains it better."""
    machine, patterns = build("CategoricalAddress", 3.0), binary(3, 7)
    memory = machine.write(patterns)
    retrieval = memory.query(Flip(0.2)(patterns), num_steps=10)
    final = retrieval.patterns[-1]
    energies = energies_of_slots(memory, final, None)
    assert retrieval.converged.all()
    torch.testing.assert_close(retrieval.energy[-1], energies.min(0).values)
    slots = predictions_of_slots(memory)
    chosen = retrieval.address[-1].argmax(-1)  # (B, Q)
    expected = (slots.gather(1, chosen.unsqueeze(-1).expand(-1, -1, 10)) > 0.5).double()
    assert torch.equal(final, expected)


@pytest.mark.usefixtures("float64")
def test_clamped_attractors_of_slots():
    """Observed entries never change, and the slot is the best for them together with their best filling."""
    machine, patterns = build("CategoricalAddress", 3.0), binary(3, 7)
    memory = machine.write(patterns)
    retrieval = memory.query(patterns, num_steps=5, observed=LEFT)
    assert torch.equal(retrieval.patterns[-1][..., LEFT], patterns[..., LEFT])
    slots = predictions_of_slots(memory).transpose(0, 1).unsqueeze(2)
    filled = torch.where(LEFT, patterns, (slots > 0.5).double())  # (K, B, Q) + E, the best x for every slot
    evidence = (torch.xlogy(filled, slots) + torch.xlogy(1 - filled, 1 - slots)).sum(-1)
    torch.testing.assert_close(retrieval.energy[-1], (-evidence + math.log(K)).min(0).values)


# ---------------------------------------------------------------------- everything else


@pytest.mark.parametrize("name", ADDRESSES)
def test_the_rest_of_a_memory(trained, name, tmp_path):
    machine = build(name) if name in GENERIC else trained(name)
    patterns = binary(2, 5)
    memory = machine.write(patterns)
    read = memory.read(patterns)
    assert read.shape == (2, 5, *SHAPE)
    assert ((read > 0) & (read < 1)).all()
    draws = memory.sample(patterns, 3, burn_in=2, channel=Flip(0.1))
    assert draws.patterns.shape == (3, 2, 5, *SHAPE)
    assert as_distribution(machine.address_prior).support.check(draws.address).all()
    assert memory.sample(patterns, 2, burn_in=0, sample_memory=True).address.shape == (2, 2, 5, K)
    assert memory.generate(4).shape == (2, 4, *SHAPE)
    sharpened = memory.generate(4, num_steps=2)
    assert ((sharpened == 0) | (sharpened == 1)).all()
    evidence = memory.log_evidence(patterns, num_samples=8)
    assert evidence.shape == (2, 5)
    assert evidence.isfinite().all()
    assert (evidence < 0).all()  # of a probability
    twice = memory.write(binary(2, 3))
    assert [record.addresses.shape[1] for record in twice.records] == [5, 3]
    twice.save(tmp_path / "memory.pt")
    loaded = Memory.load(tmp_path / "memory.pt", machine)
    assert torch.equal(loaded.read(patterns), twice.read(patterns))
    for one, other in zip(
        loaded.query(patterns, num_steps=3, channel=UnknownLevel(Flip(0.1))),
        twice.query(patterns, num_steps=3, channel=UnknownLevel(Flip(0.1))),
        strict=True,
    ):
        assert torch.equal(one, other)


BORDERS = {
    "LogNormal": lambda: dist.LogNormal(torch.zeros(K), torch.tensor(2.0)).to_event(1),
    "Gamma": lambda: dist.Gamma(torch.full((K,), 0.5), torch.tensor(1.0)).to_event(1),
    "Dirichlet": lambda: dist.Dirichlet(torch.full((K,), 0.3)),
}


@pytest.mark.parametrize("channel", [None, Flip(0.01), SaltAndPepper(0.3)])
@pytest.mark.parametrize("name", BORDERS)
def test_a_trial_beyond_the_border_of_the_support_is_rejected(name, channel):
    """Wild networks make steps that overshoot; the queries go on, and no energy rises."""
    for gain in (20.0, 200.0):
        machine = with_gain(small_machine(SHAPE, K, C, address_prior=BORDERS[name](), code_scale=0.1), gain)
        retrieval = machine.write(binary(2, 8)).query(binary(2, 8), num_steps=5, channel=channel)
        assert retrieval.energy.isfinite().all()
        assert (retrieval.energy.diff(dim=0) <= 0).all()
        assert as_distribution(machine.address_prior).support.check(retrieval.address).all()


@pytest.mark.parametrize("name", ADDRESSES)
def test_empty_memories(name):
    memory = build(name).prior_memory(2)
    assert memory.generate(3, matrix=memory.posterior.sample()).shape == (2, 3, *SHAPE)
    assert memory.log_evidence(binary(2, 3), num_samples=4).isfinite().all()
    assert memory.read(binary(2, 3)).shape == (2, 3, *SHAPE)


def linear_memory(name, slots=2, sigma=0.8):
    """A memory of a machine x ~ Normal(M^T w, sigma^2 I) whose matrix M (K, 2) is known, and that matrix."""
    matrix = torch.tensor([[1.2, -0.4], [-0.5, 0.9], [0.3, 1.5]])[:slots]
    prior = MatrixNormal(matrix, torch.eye(slots))
    machine = linear_machine(slots, 2, sigma, memory_prior=prior, address_prior=ADDRESSES[name](slots))
    return Memory(machine, MatrixNormal(matrix.unsqueeze(0), 1e-7 * torch.eye(slots)), (2,)), matrix


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ADDRESSES)
def test_log_evidence_is_that_of_the_memory(name):
    """Against 400,000 addresses of the prior, within 5 standard errors."""
    memory, matrix = linear_memory(name)
    x = torch.randn(3, 2)
    address = as_distribution(memory.machine.address_prior).sample((400_000,))
    squared = (x.unsqueeze(1) - address @ matrix).square().sum(-1)
    direct = (-0.5 * squared / 0.64).exp() / (2 * math.pi * 0.64)  # (Q, N)
    copies = x.repeat(1500, 1).unsqueeze(0)  # each is an estimate of its own
    sampled = memory.log_evidence(copies, num_samples=4).exp().view(1500, 3)
    error = (direct.var(-1) / 400_000 + sampled.var(0) / 1500).sqrt()
    assert (error < 0.2 * direct.mean(-1)).all()  # the draws see a difference by a factor of 2
    assert ((sampled.mean(0) - direct.mean(-1)).abs() < 5 * error).all()


@pytest.mark.usefixtures("float64")
def test_chain_of_slots_visits_them_as_often_as_it_should():
    """p(w = e_k | c) is proportional to Normal(c; M[k], (sigma^2 + tau^2) I); 400 chains, within 5 standard errors."""
    memory, matrix = linear_memory("CategoricalAddress", slots=3)
    cue = torch.tensor([0.3, 0.6])
    draws = memory.sample(cue.expand(1, 400, 2), 40, burn_in=20, channel=GaussianNoise(0.9))
    expected = (-0.5 * (cue - matrix).square().sum(-1) / (0.64 + 0.81)).softmax(0)
    frequency = draws.address.mean(0)[0]  # (chains, K)
    error = frequency.std(0) / math.sqrt(400)
    assert (error < 0.03).all()
    assert ((frequency.mean(0) - expected).abs() < 5 * error).all()
