"""The query: its energy is the stated one, never rises, and depends on its own cue alone."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva import (
    ConvDecoder,
    ConvEncoder,
    Episodes,
    Flip,
    GaussianMemory,
    GaussianNoise,
    KanervaMachine,
    Occlusion,
    Replace,
    SaltAndPepper,
    fit,
)

CHANNELS = [None, Flip(0.05), Flip(0.3), SaltAndPepper(0.15)]


@pytest.mark.parametrize("channel", CHANNELS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_energy_never_rises_for_random_networks(make_machine, channel, dtype, seed, gain):
    """``gain`` multiplies the outputs of both networks."""
    torch.manual_seed(seed)
    machine = make_machine(code_scale=[0.1, 1.0, 5.0][seed]).to(dtype)
    with torch.no_grad():
        machine.decoder[-2].weight.mul_(gain)
        machine.encoder[-1].weight.mul_(gain)
    patterns = (torch.rand(2, 8, 1, 5, 7) < 0.3).to(dtype)
    retrieval = machine.write(patterns).query(Flip(0.2)(patterns), num_steps=20, channel=channel)
    assert retrieval.energy.isfinite().all()
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    assert retrieval.energy[-1].sum() < retrieval.energy[0].sum()  # and it does descend


@pytest.mark.parametrize("channel", CHANNELS, ids=str)
def test_energy_is_the_stated_one(make_machine, patterns, channel):
    """Recomputed in float64 from the returned patterns and addresses."""
    machine = make_machine()
    memory = machine.write(patterns)
    cues = Flip(0.1)(patterns)
    retrieval = memory.query(cues, num_steps=3, channel=channel)
    assert torch.equal(retrieval.patterns[0], cues)
    machine.double()
    matrix = memory.posterior.loc.double()
    for n in range(4):
        address = retrieval.address[n].double()
        prediction = machine.predict(address, matrix)
        log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(address).sum(-1)
        if channel is None:
            log_evidence = prediction.log_prob(retrieval.patterns[n].double())
        else:
            one, zero = (torch.where(cues == x, 1 - channel.flip_probability, channel.flip_probability) for x in (1, 0))
            log_evidence = (prediction.probs * one + (1 - prediction.probs) * zero).log()
            if n:
                mode = (prediction.probs * one / log_evidence.exp() > 0.5).float()
                assert torch.equal(retrieval.patterns[n], mode)
        energy = -log_evidence.flatten(2).sum(-1) - log_prior
        torch.testing.assert_close(retrieval.energy[n].double(), energy, rtol=1e-5, atol=1e-4)
    if channel is None:  # each pattern is the mode at the address before
        for n in range(3):
            prediction = machine.predict(retrieval.address[n].double(), matrix)
            assert torch.equal(retrieval.patterns[n + 1], (prediction.logits > 0).float())


def test_the_first_address_is_that_of_the_reader(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns)
    retrieval = memory.query(patterns, num_steps=0)
    expected = machine.read_codes(machine.encode(patterns), memory.posterior.loc).mean
    torch.testing.assert_close(retrieval.address[0], expected)
    assert retrieval.patterns.shape == (1, *patterns.shape)
    assert retrieval.energy.shape == (1, 3, 8)
    assert not retrieval.converged.any()


def test_converged(make_machine, patterns):
    memory = make_machine().write(patterns)
    retrieval = memory.query(patterns, num_steps=4, channel=Flip(0.1))
    same = (retrieval.patterns[-1] == retrieval.patterns[-2]).flatten(2).all(-1)
    assert torch.equal(retrieval.converged, same | (retrieval.energy[-1] == retrieval.energy[-2]))
    assert memory.query(patterns, num_steps=1, tolerance=math.inf).converged.all()


def test_a_fall_of_the_tolerance_is_convergence(make_machine, patterns):
    """A fall of exactly the tolerance, too, but not one above it, in queries whose pattern still changed."""
    memory, cues = make_machine().write(patterns), Flip(0.1)(patterns)
    first = memory.query(cues, num_steps=1)
    fall = first.energy[0] - first.energy[1]
    changed = (first.patterns[1] != first.patterns[0]).flatten(2).any(-1)
    tolerance = fall[changed].median()
    assert 0 < tolerance < fall[changed].max()
    converged = memory.query(cues, num_steps=1, tolerance=tolerance.item()).converged
    assert torch.equal(converged[changed], (fall <= tolerance)[changed])


def test_queries_do_not_touch_gradients_or_parameters(make_machine, patterns):
    machine = make_machine()
    before = {name: value.clone() for name, value in machine.state_dict().items()}
    retrieval = machine.write(patterns).query(patterns, num_steps=2)
    assert not retrieval.energy.requires_grad
    assert all(parameter.grad is None for parameter in machine.parameters())
    assert all(torch.equal(value, before[name]) for name, value in machine.state_dict().items())


def test_query_in_inference_mode(make_machine, patterns):
    machine = make_machine()
    expected = machine.write(patterns).query(patterns, num_steps=2)
    with torch.inference_mode():
        retrieval = machine.write(patterns).query(patterns, num_steps=2)
    assert torch.equal(retrieval.energy, expected.energy)


def test_queries_are_independent(make_machine, patterns):
    memory = make_machine().double().write(patterns.double())
    cues = Flip(0.1)(patterns.double())
    whole = memory.query(cues, num_steps=3, channel=Flip(0.1))
    part = memory.query(cues[:, 2:4], num_steps=3, channel=Flip(0.1))
    torch.testing.assert_close(whole.energy[:, :, 2:4], part.energy)
    assert torch.equal(whole.patterns[:, :, 2:4], part.patterns)


def test_the_channel_helps():
    """A machine trained briefly on bars: a query with the channel mends most of the wrong entries."""
    rows = torch.zeros(64, 1, 8, 8)
    for index in range(64):  # one horizontal and one vertical bar
        rows[index, 0, index % 8] = 1
        rows[index, 0, :, index // 8] = 1
    machine = KanervaMachine(
        ConvEncoder((1, 8, 8), 12, 8), ConvDecoder(12, (1, 8, 8), 8), memory_prior=GaussianMemory(8, 12)
    )
    fit(machine, Episodes(rows, 8, 8), num_steps=200, learning_rate=2e-2, progress=False)
    patterns = Episodes(rows, 8, 8, seed=1)[0]
    channel = Flip(0.1)
    cues = channel(patterns, torch.Generator().manual_seed(0))
    retrieval = machine.write(patterns).query(cues, channel=channel)
    before, after = ((x != patterns).float().mean() for x in (retrieval.patterns[0], retrieval.patterns[-1]))
    assert after < 0.5 * before  # 0.31 to 0.43 over six seeds
    for known in (None, channel):  # nor does the energy of a trained machine rise
        assert (machine.write(patterns).query(cues, num_steps=20, channel=known).energy.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("channel", CHANNELS, ids=str)
def test_observed(make_machine, patterns, channel):
    """Entries that are not observed carry no evidence. Without a channel, observed entries never change."""
    memory = make_machine().double().write(patterns.double())
    observed = torch.rand(8, 1, 5, 7) < 0.5
    cues = Flip(0.1)(patterns.double())
    retrieval = memory.query(cues, num_steps=5, channel=channel, observed=observed)
    assert (retrieval.energy.diff(dim=0) <= 0).all()
    if channel is None:
        assert (retrieval.patterns == cues)[:, :, observed].all()
        assert not (retrieval.patterns == cues).all()
    else:
        address = retrieval.address[-1]
        prediction = memory.predict(address)
        log_evidence = torch.where(observed, channel.log_evidence(cues, prediction), 0.0).flatten(2).sum(-1)
        energy = -log_evidence - memory.machine.address_prior().log_prob(address)
        torch.testing.assert_close(retrieval.energy[-1], energy)
        mode = (channel.posterior(cues, prediction).logits > 0).double()
        unseen = (prediction.logits > 0).double()
        assert torch.equal(retrieval.patterns[-1], torch.where(observed, mode, unseen))


def test_own_channel_and_own_likelihood(make_machine, patterns):
    """An object with the two methods of a channel, and a callable that returns a Bernoulli."""

    class Tampered:
        def posterior(self, cues, prediction):
            return Flip(0.1).posterior(cues, prediction)

        def log_evidence(self, cues, prediction):
            return Flip(0.1).log_evidence(cues, prediction)

    machine = make_machine(likelihood=lambda logits: dist.Bernoulli(logits=logits))
    memory = machine.write(patterns)
    one, other = (memory.query(patterns, num_steps=2, channel=channel) for channel in (Tampered(), Flip(0.1)))
    assert torch.equal(one.energy, other.energy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": -1}, r"query\(\): num_steps is -1; expected at least 0"),
        ({"tolerance": -0.1}, r"query\(\): tolerance is -0.1"),
        ({"tolerance": math.nan}, r"query\(\): tolerance is nan"),
        (
            {"channel": "flip"},
            r"channel is 'flip'; expected None, a channel such as Flip\(p\) or GaussianNoise\(scale\), or an object",
        ),
        (
            {"matrix": torch.zeros(3, 6, 9)},
            r"matrix is torch.float32 on cpu of shape \(3, 6, 9\); expected .*\(3, 6, 10\)",
        ),
        ({"matrix": torch.zeros(6, 10)}, r"of shape \(6, 10\); expected .*\(3, 6, 10\), as memory.posterior.sample"),
        ({"matrix": torch.zeros(3, 6, 10).double()}, "matrix is torch.float64 on cpu .*; expected torch.float32"),
        (
            {"channel": GaussianNoise(0.1)},
            "GaussianNoise.* damages entries of a Normal or DiscretizedLogistic likelihood; this one is Bernoulli",
        ),
        ({"channel": Replace(0.1)}, "Replace.* damages entries of a Categorical likelihood; this one is Bernoulli"),
        ({"channel": Occlusion(torch.ones(4, dtype=torch.bool))}, "Occlusion.*mask does not broadcast"),
        ({"observed": torch.ones(7)}, r"observed has dtype torch.float32; expected torch.bool"),
        ({"observed": torch.ones(4, dtype=torch.bool)}, r"observed has shape \(4,\), which does not broadcast"),
    ],
)
def test_bad_options(make_machine, patterns, options, message):
    with pytest.raises(ValueError, match=message):
        make_machine().write(patterns).query(patterns, **options)
