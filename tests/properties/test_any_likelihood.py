"""The query for every likelihood, channel and energy, and for networks that fail."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import small_machine, with_gain

from pyro_kanerva import (
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    Flip,
    GaussianMemory,
    GaussianNoise,
    KanervaMachine,
    MLPDecoder,
    MLPEncoder,
    NormalLikelihood,
    Occlusion,
    PointEnergy,
    Replace,
    SaltAndPepper,
    UnknownLevel,
    VariationalEnergy,
    Where,
)

HALF = torch.arange(6) % 2 == 0
KINDS = {  # what a machine's patterns are, and the channels that fit them
    "normal": [None, GaussianNoise(0.4), Occlusion(HALF), UnknownLevel(GaussianNoise(0.4))],
    "categorical": [None, Replace(0.2), Occlusion(HALF), UnknownLevel(Replace(0.2))],
    "levels": [GaussianNoise(0.2), UnknownLevel(GaussianNoise(0.2)), Where(HALF, GaussianNoise(0.1), Occlusion(HALF))],
    "bernoulli": [
        Occlusion(HALF),
        UnknownLevel(SaltAndPepper(0.2)),
        Where(HALF, UnknownLevel(Flip(0.1)), Occlusion(torch.arange(6) < 3)),
    ],
}
CASES = [(kind, channel) for kind, channels in KINDS.items() for channel in channels]
LIKELIHOODS = {
    "normal": lambda: NormalLikelihood(0.5),
    "categorical": lambda: CategoricalLikelihood(3),
    "levels": lambda: DiscretizedLogisticLikelihood(num_levels=5),
    "bernoulli": lambda: None,
}


def build(kind, slots=3, gain=1.0):
    """A machine for patterns of 6 entries; ``gain`` makes its networks wild."""
    options = {"output_shape": (6, 3)} if kind == "categorical" else {}
    return with_gain(small_machine((6,), slots, 4, likelihood=LIKELIHOODS[kind](), code_scale=0.7, **options), gain)


def small_patterns(kind, *batch, dtype=torch.float64):
    if kind == "normal":
        return torch.randn(*batch, 6, dtype=dtype)
    if kind == "levels":
        return torch.randint(0, 5, (*batch, 6)).to(dtype) / 4
    return torch.randint(0, 3 if kind == "categorical" else 2, (*batch, 6)).to(dtype)


@pytest.mark.parametrize("energy", [PointEnergy(), VariationalEnergy(4)], ids=["point", "variational"])
@pytest.mark.parametrize(
    ("gain", "dtype"), [(1.0, torch.float32), (30.0, torch.float32), (30.0, torch.float64)], ids=str
)
@pytest.mark.parametrize(("kind", "channel"), CASES, ids=str)
def test_energy_never_rises_for_any_likelihood(kind, channel, dtype, gain, energy):
    machine = build(kind, gain=gain).to(dtype)
    patterns = small_patterns(kind, 2, 4, dtype=dtype)
    retrieval = machine.write(patterns).query(patterns, num_steps=3, channel=channel, energy=energy)
    assert retrieval.energy.isfinite().all()
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    if gain == 1:  # and it does descend; real outputs that are 30 times too large may be out of reach of every step
        assert retrieval.energy[-1].sum() < retrieval.energy[0].sum()
    assert retrieval.patterns.dtype == dtype
    if kind == "levels" and isinstance(energy, PointEnergy):  # over several addresses the mean replaces the mode
        assert set(retrieval.patterns.unique().tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    elif kind not in ("normal", "levels"):
        assert set(retrieval.patterns.unique().tolist()) <= set(range(3 if kind == "categorical" else 2))


@pytest.mark.parametrize("partly", [False, True], ids=["observed", "partly"])
@pytest.mark.parametrize(("kind", "channel"), CASES, ids=str)
def test_energy_of_a_memory_is_that_of_the_query(kind, channel, partly):
    machine = build(kind).double()
    patterns = small_patterns(kind, 2, 5)
    memory = machine.write(patterns)
    observed = torch.rand(2, 5, 6) < 0.6 if partly else None
    retrieval = memory.query(patterns, num_steps=3, channel=channel, observed=observed)
    for n in range(4):
        cues = patterns if channel is not None else retrieval.patterns[n]
        if channel is None and n == 0 and partly:
            continue  # the pattern that the hidden entries start from is not returned
        energy = memory.energy(retrieval.address[n], cues, channel=channel, observed=observed)
        torch.testing.assert_close(energy.detach(), retrieval.energy[n])


def test_energy_is_differentiable_and_compares_a_pattern_with_all_addresses():
    memory = build("normal").double().write(small_patterns("normal", 2, 5))
    cue, address = small_patterns("normal", 2, 1), torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    for channel in (None, GaussianNoise(0.3)):
        energy = memory.energy(address, cue, channel=channel)
        repeated = memory.energy(address, cue.expand(2, 7, 6), channel=channel)
        torch.testing.assert_close(energy, repeated)
        (gradient,) = torch.autograd.grad(energy.sum(), address)
        step = 1e-6 * gradient
        low, high = (memory.energy(address + sign * step, cue, channel=channel).sum() for sign in (-1, 1))
        torch.testing.assert_close((high - low) / 2e-6, (gradient**2).sum(), rtol=1e-5, atol=1e-6)


def test_bad_addresses_of_an_energy():
    memory = build("normal").double().write(small_patterns("normal", 2, 5))
    for shape in ((2, 5, 4), (1, 5, 3), (5, 3)):
        with pytest.raises(ValueError, match=r"energy\(\): address has shape .*; expected \(2, Q, 3\)"):
            memory.energy(torch.zeros(shape, dtype=torch.float64), small_patterns("normal", 2, 5))
    with pytest.raises(ValueError, match=r"energy\(\): channel is 3; expected None, a channel"):
        memory.energy(torch.zeros(2, 5, 3).double(), small_patterns("normal", 2, 5), channel=3)


@pytest.mark.parametrize(("kind", "channel"), CASES, ids=str)
def test_converged_queries_stand_still(kind, channel):
    """A long query goes through what a short one does, and stops where it has converged and hardly descends."""
    memory = build(kind).double().write(small_patterns(kind, 2, 5))
    cues = small_patterns(kind, 2, 5)
    long = memory.query(cues, num_steps=8, channel=channel)
    for num_steps in (2, 5):
        short = memory.query(cues, num_steps=num_steps, channel=channel)
        for part, whole in zip(short[:3], long[:3], strict=True):
            assert torch.equal(part, whole[: num_steps + 1])
    lax = memory.query(cues, num_steps=8, channel=channel, tolerance=math.inf)
    assert lax.converged.all()
    moved = (lax.address[1] != lax.address[0]).any(-1)
    assert moved.any()
    for whole in lax[:3]:  # a fall of any size is small enough, so each stops after its first step
        rest = whole[1:][:, moved]
        assert torch.equal(rest, rest[:1].expand_as(rest))


def test_converged_queries_are_not_decoded():
    machine = build("bernoulli").double()
    memory, cues = machine.write(small_patterns("bernoulli", 2, 5)), small_patterns("bernoulli", 2, 5)
    rows = []
    machine.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    memory.query(cues, num_steps=8, channel=Flip(0.1))
    whole, rows[:] = sum(rows), []
    memory.query(cues, num_steps=8, channel=Flip(0.1), tolerance=math.inf)
    assert sum(rows) < whole / 2


@pytest.mark.parametrize(("kind", "channel"), CASES, ids=str)
def test_every_query_goes_its_own_way(kind, channel):
    """Whoever else is in the batch, and however soon they converge."""
    memory = build(kind).double().write(small_patterns(kind, 2, 5))
    cues = small_patterns(kind, 2, 5)
    whole = memory.query(cues, num_steps=4, channel=channel)
    for q in (1, 4):
        alone = memory.query(cues[:, q : q + 1], num_steps=4, channel=channel)
        for one, all_ in zip(alone[:3], whole[:3], strict=True):
            torch.testing.assert_close(one, all_[:, :, q : q + 1], rtol=1e-6, atol=1e-8)
        assert torch.equal(alone.converged, whole.converged[:, q : q + 1])


def test_the_cues_of_others_do_not_matter_to_a_variational_energy():
    """At the same place in the batch, where the deviations are the same."""
    memory = build("bernoulli").double().write(small_patterns("bernoulli", 2, 5))
    cues = small_patterns("bernoulli", 2, 5)
    others = torch.cat((cues[:, :2], small_patterns("bernoulli", 2, 3)), 1)
    one, other = (memory.query(x, num_steps=4, channel=Flip(0.1), energy=VariationalEnergy(4)) for x in (cues, others))
    torch.testing.assert_close(one.energy[:, :, :2], other.energy[:, :, :2])


@pytest.mark.parametrize("channel", [None, GaussianNoise(0.3)], ids=str)
def test_a_sampled_memory_is_queried(channel):
    memory = build("normal").double().write(small_patterns("normal", 2, 5))
    cues, matrix = small_patterns("normal", 2, 5), memory.posterior.sample()
    retrieval = memory.query(cues, num_steps=3, channel=channel, matrix=matrix)
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    assert not torch.allclose(retrieval.energy, memory.query(cues, num_steps=3, channel=channel).energy)
    mean = memory.query(cues, num_steps=3, channel=channel, matrix=memory.posterior.loc)
    assert torch.equal(mean.energy, memory.query(cues, num_steps=3, channel=channel).energy)
    address = retrieval.address[-1]
    prediction = memory.predict(address, matrix=matrix)
    pattern = cues if channel is not None else retrieval.patterns[-1]
    evidence = prediction.log_prob(pattern) if channel is None else channel.log_evidence(cues, prediction)
    energy = -evidence.sum(-1) - memory.machine.address_prior().log_prob(address)
    torch.testing.assert_close(retrieval.energy[-1], energy.detach())


@pytest.mark.parametrize(("kind", "channel"), CASES, ids=str)
def test_hidden_entries_of_a_cue_have_no_influence(kind, channel):
    """Their place is taken by other valid values; what is not compared is the cue itself, ``patterns[0]``."""
    memory = build(kind).double().write(small_patterns(kind, 2, 5))
    observed = torch.rand(2, 5, 6) < 0.6
    observed[..., 0] = False
    cues = small_patterns(kind, 2, 5)
    # a query may converge where no entry changed, so neither cue is what the first step makes of it
    first = memory.query(cues, num_steps=1, channel=channel, observed=observed).patterns[1]
    wrong = first + 1 if kind == "normal" else (first + 1) % (3 if kind == "categorical" else 2)
    one, other = (torch.where(observed, cues, hidden) for hidden in (wrong, first))
    other[..., 0] = wrong[..., 0]
    results = [memory.query(x, num_steps=5, channel=channel, observed=observed) for x in (one, other)]
    assert not torch.equal(one, other)
    assert torch.equal(results[0].energy, results[1].energy)
    assert torch.equal(results[0].address, results[1].address)
    assert torch.equal(results[0].patterns[1:], results[1].patterns[1:])


def test_no_observed_entries_leave_the_prior():
    memory = build("normal").double().write(small_patterns("normal", 2, 5))
    nothing = torch.zeros(6, dtype=torch.bool)
    retrieval = memory.query(small_patterns("normal", 2, 5), num_steps=30, channel=GaussianNoise(0.3), observed=nothing)
    torch.testing.assert_close(retrieval.address[-1], torch.zeros_like(retrieval.address[-1]), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "channel"),
    [("bernoulli", Flip(0.2)), ("normal", GaussianNoise(0.4)), ("categorical", Replace(0.3))],
    ids=str,
)
def test_variational_energy_is_a_bound(kind, channel):
    """K = 1, where quadrature over the address gives the evidence of a cue, and the energy of every q(w)."""
    machine = build(kind, slots=1).double()
    memory = machine.write(small_patterns(kind, 1, 3))
    cues, num_samples = small_patterns(kind, 1, 3), 2000
    retrieval = memory.query(cues, num_steps=4, channel=channel, energy=VariationalEnergy(num_samples))
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    grid = torch.linspace(-9, 9, 2001, dtype=torch.float64)
    prediction = memory.predict(grid.view(1, -1, 1))
    prior = machine.address_prior().log_prob(grid.unsqueeze(-1))
    scale = machine.read_codes(machine.encode(cues), memory.posterior.loc).scale_tril[0, 0, 0, 0].detach()
    for q in range(3):
        cue = cues[:, q : q + 1].expand(1, 2001, 6)
        evidence = channel.log_evidence(cue, prediction).sum(-1)[0].detach()  # log p(c | w)
        exact = -torch.trapezoid((evidence + prior).exp(), grid).log()  # -log p(c | M)
        for n in (0, 4):
            q_of_w = dist.Normal(retrieval.address[n, 0, q, 0], scale)
            density = q_of_w.log_prob(grid).exp()
            mean = torch.trapezoid(density * evidence, grid)
            deviation = torch.trapezoid(density * (evidence - mean) ** 2, grid).sqrt()
            energy = -mean + torch.distributions.kl_divergence(q_of_w, dist.Normal(0.0, 1.0))
            # the mean over antithetic pairs: its variance is at most twice that of as many independent draws
            margin = 5 * deviation * math.sqrt(2 / num_samples)
            assert energy > exact
            assert abs(retrieval.energy[n, 0, q] - energy) < margin
            assert retrieval.energy[n, 0, q] > exact - margin
    assert not torch.allclose(memory.query(cues, num_steps=4, channel=channel).energy, retrieval.energy, atol=1e-2)


def test_a_likelihood_without_a_known_joint_mode():
    machine = small_machine((6,), 3, 4, likelihood=lambda output: dist.Laplace(output, 1.0)).double()
    cues = small_patterns("normal", 2, 5)
    memory = machine.write(cues)
    assert (memory.query(cues, num_steps=3).energy.diff(dim=0) <= 0).all()
    with pytest.raises(ValueError, match=r"Bernoulli, Categorical or Normal likelihood; this one is Laplace"):
        memory.query(cues, energy=VariationalEnergy())


class Partial(torch.nn.Module):
    """A decoder that gives NaN for codes longer than ``radius``; or for all but those of its first call."""

    def __init__(self, network, radius=None):
        super().__init__()
        self.network, self.radius, self.first = network, radius, None

    def forward(self, codes):
        output = self.network(codes)
        if self.radius is not None:
            good = codes.norm(dim=-1) < self.radius
        else:
            self.first = codes.detach().clone() if self.first is None else self.first
            good = (codes.unsqueeze(1) == self.first).all(-1).any(1)
        return torch.where(good.view(-1, *[1] * (output.dim() - 1)), output, torch.nan)


@pytest.mark.parametrize(("kind", "channel"), [*CASES, ("bernoulli", Flip(0.1))], ids=str)
def test_stuck_queries_have_not_converged(kind, channel):
    """There is nothing but NaN around where they start, so they stay there."""
    machine = build(kind).double()
    memory = machine.write(small_patterns(kind, 2, 5))
    cues = small_patterns(kind, 2, 5)
    machine.decoder = Partial(machine.decoder)
    retrieval = memory.query(cues, num_steps=3, channel=channel)
    assert all(part.isfinite().all() for part in retrieval[:3])
    # a step so short that the code is the same one, to the last bit, is possible
    stay = retrieval.address[:1].expand_as(retrieval.address)
    torch.testing.assert_close(retrieval.address, stay, rtol=1e-12, atol=1e-12)
    assert not retrieval.converged.any()


@pytest.mark.parametrize("radius", [0.3, 1.0])
@pytest.mark.parametrize(("kind", "channel"), [*CASES, ("bernoulli", Flip(0.1))], ids=str)
def test_decoder_that_is_not_defined_everywhere(kind, channel, radius):
    machine = build(kind).double()
    memory = machine.write(small_patterns(kind, 2, 5))
    cues = small_patterns(kind, 2, 5)
    machine.decoder = Partial(machine.decoder, radius)
    retrieval = memory.query(cues, num_steps=8, channel=channel)
    assert all(part.isfinite().all() for part in retrieval[:3])
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    assert ((retrieval.address @ memory.posterior.loc).norm(dim=-1) < radius).all()


def test_decoder_that_is_defined_nowhere():
    machine = build("bernoulli").double()
    memory = machine.write(small_patterns("bernoulli", 1, 3))
    machine.decoder = Partial(machine.decoder, 0.0)
    with pytest.raises(ValueError, match=r"query\(\): the energy of a cue is NaN or infinite"):
        memory.query(small_patterns("bernoulli", 1, 3), channel=Flip(0.1))


@pytest.mark.parametrize("value", [-1.0, 0.5, 3.0])
def test_cues_that_are_no_classes(value):
    memory = build("categorical").double().write(small_patterns("categorical", 2, 5))
    cues = small_patterns("categorical", 2, 5)
    cues[1, 2, 3] = value
    for call in (memory.query, memory.log_evidence, lambda x: memory.sample(x, 2)):
        with pytest.raises(ValueError, match=r"cues|patterns have entries other than the classes 0 \.\.\. 2"):
            call(cues)


def test_decoder_of_another_number_of_classes():
    memory = build("categorical").double().write(small_patterns("categorical", 2, 5))
    memory.machine.likelihood = CategoricalLikelihood(4)
    with pytest.raises(ValueError, match=r"CategoricalLikelihood: the decoder's output has shape .* 4 classes"):
        memory.query(small_patterns("categorical", 2, 5))


def test_hidden_entries_of_one_query_do_not_matter_to_the_others():
    for seed in range(5):
        torch.manual_seed(seed)
        memory = build("bernoulli", gain=5.0).double().write(small_patterns("bernoulli", 1, 4))
        cues = small_patterns("bernoulli", 1, 4)
        whole = torch.ones(1, 4, 6, dtype=torch.bool)
        part = whole.clone()
        part[0, 0, :3] = False
        one, other = (memory.query(cues, num_steps=3, channel=Flip(0.1), observed=seen) for seen in (whole, part))
        torch.testing.assert_close(one.energy[:, :, 1:], other.energy[:, :, 1:])


@pytest.mark.parametrize("kind", ["bernoulli", "normal"])
def test_unknown_level_survives_a_decoder_that_returns_nan(kind):
    machine = build(kind).double()
    memory, cues = machine.write(small_patterns(kind, 1, 4)), small_patterns(kind, 1, 4)
    limit = (memory.query(cues, num_steps=0).address[0] @ memory.posterior.loc).norm(dim=-1).max().item() * 1.0001
    machine.decoder = Partial(machine.decoder, limit)
    channel = UnknownLevel(GaussianNoise(0.5) if kind == "normal" else Flip(0.1))
    retrieval = memory.query(cues, num_steps=5, channel=channel)
    assert retrieval.energy.isfinite().all()
    assert (retrieval.energy.diff(dim=0) <= 0).all()


def test_a_query_goes_on_where_its_first_steps_were_too_long():
    """A steep energy, on which every early step is rejected, is descended in the end."""
    torch.manual_seed(0)
    machine = build("normal", gain=30.0).double()
    memory, cues = machine.write(small_patterns("normal", 1, 4)), small_patterns("normal", 1, 4)
    retrieval = memory.query(cues, num_steps=30, channel=GaussianNoise(0.4))
    assert (retrieval.energy[-1] < retrieval.energy[0]).all()


def test_patterns_that_are_single_numbers():
    machine = build("normal").double()
    with pytest.raises(ValueError, match=r"patterns have event shape \(\), single numbers"):
        machine.check_patterns(torch.zeros(2, 3).double(), "write()", event_shape=())


@pytest.mark.parametrize("channel", [None, GaussianNoise(0.3), Occlusion(HALF)], ids=str)
def test_likelihoods_that_validate_their_parameters(channel):
    """Rows that are not decoded, because their queries have converged, still have legal parameters."""
    machine = KanervaMachine(
        MLPEncoder((6,), 4, 16),
        torch.nn.Sequential(MLPDecoder(4, (6, 2), 16), torch.nn.Softplus()),
        memory_prior=GaussianMemory(3, 4),
        likelihood=lambda output: dist.Normal(output[..., 0], 0.1 + output[..., 1], validate_args=True),
    )
    patterns = torch.rand(2, 5, 6)
    retrieval = machine.write(patterns).query(patterns, num_steps=10, channel=channel, tolerance=0.5)
    assert (retrieval.energy.diff(dim=0) <= 0).all()


def test_likelihoods_of_positive_numbers_and_without_a_mode():
    """What is hidden may show values outside the support, and a mean stands in for a mode that is missing."""
    for likelihood in (
        lambda output: dist.LogNormal(output, 1.0, validate_args=True),
        lambda output: dist.ContinuousBernoulli(logits=output, validate_args=False),
    ):
        machine = small_machine((6,), 3, 4, likelihood=likelihood)
        patterns = torch.rand(2, 5, 6) * 0.8 + 0.1
        memory, channel = machine.write(patterns), Occlusion(HALF)
        retrieval = memory.query(channel(patterns), channel=channel, num_steps=5)
        assert retrieval.patterns.isfinite().all()
        assert (retrieval.energy.diff(dim=0) <= 0).all()
        assert torch.equal(retrieval.patterns[-1][..., HALF], patterns[..., HALF])
        assert memory.read(patterns).isfinite().all()


def test_a_class_is_no_channel():
    machine = build("bernoulli").double()
    patterns = small_patterns("bernoulli", 1, 4)
    with pytest.raises(ValueError, match=r"channel is <class .*Flip.*>; expected None, a channel such as"):
        machine.write(patterns).query(patterns, channel=Flip)
