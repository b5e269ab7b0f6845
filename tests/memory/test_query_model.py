"""The query as a Pyro program: the same energy, and Pyro's handlers work on it."""

import pyro
import pytest
import torch
from helpers import small_machine
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import Predictive

from pyro_kanerva import (
    CategoricalLikelihood,
    Flip,
    GaussianNoise,
    NormalLikelihood,
    Occlusion,
    Replace,
    UnknownLevel,
    Where,
    retrieval_model,
)
from pyro_kanerva.likelihoods import mean_and_mode


def bernoulli():
    return small_machine((1, 2, 3), 3, 4), (torch.rand(2, 5, 1, 2, 3) < 0.4).float(), Flip(0.1)


def normal():
    machine = small_machine((6,), 3, 4, likelihood=NormalLikelihood(0.5))
    return machine, torch.randn(2, 5, 6), GaussianNoise(0.3)


def categorical():
    machine = small_machine((6,), 3, 4, output_shape=(6, 3), likelihood=CategoricalLikelihood(3))
    return machine, torch.randint(0, 3, (2, 5, 6)).float(), Replace(0.2, 3)


@pytest.fixture(params=[bernoulli, normal, categorical], ids=lambda make: make.__name__)
def parts(request):
    return request.param()


def log_joint(memory, channel, cues, address, observed=None):
    known = {"memory": memory.posterior.loc.unsqueeze(-3), "address": address}
    trace = poutine.trace(poutine.condition(retrieval_model, known)).get_trace(memory, channel, cues, observed=observed)
    trace.compute_log_prob()
    return trace.nodes["cue"]["log_prob"] + trace.nodes["address"]["log_prob"], trace


@pytest.mark.parametrize("masked", [False, True])
def test_log_joint_is_the_energy_of_the_query(parts, masked):
    machine, patterns, channel = parts
    memory = machine.write(patterns)
    cues = channel(patterns)
    observed = torch.rand(patterns.shape[2:]) < 0.5 if masked else None
    retrieval = memory.query(cues, num_steps=5, channel=channel, observed=observed)
    joint, trace = log_joint(memory, channel, cues, retrieval.address[-1], observed)
    torch.testing.assert_close(-joint, retrieval.energy[-1], rtol=1e-4, atol=1e-4)
    if not masked and not isinstance(machine.likelihood, NormalLikelihood):
        recalled = trace.nodes["recalled"]["value"]
        assert torch.equal(recalled.round().to(cues.dtype), retrieval.patterns[-1])


def test_shapes_draws_and_predictive(parts):
    machine, patterns, channel = parts
    memory = machine.write(patterns)
    trace = poutine.trace(retrieval_model).get_trace(memory, channel, num_cues=7)
    assert trace.nodes["memory"]["value"].shape == (2, 1, 3, 4)
    assert trace.nodes["address"]["value"].shape == (2, 7, 3)
    assert trace.nodes["_RETURN"]["value"].shape == (2, 7, *patterns.shape[2:])
    drawn = trace.nodes["cue"]["value"]
    assert machine.check_patterns(drawn, "test").shape == drawn.shape  # a cue is in the support of the likelihood
    samples = Predictive(retrieval_model, num_samples=3)(memory, channel, patterns)
    assert samples["recalled"].shape == (3, *patterns.shape)


def test_inside_a_larger_model(parts):
    """Two memories in one model: scopes keep their sites apart."""
    machine, patterns, channel = parts
    memories = machine.write(patterns[:1]), machine.write(patterns[1:])

    def larger():
        means = []
        for name, memory, cues in zip("ab", memories, patterns.split(1), strict=True):
            with scope(prefix=name):
                means.append(retrieval_model(memory, channel, cues).mean())
        return pyro.sample("y", pyro.distributions.Normal(sum(means), 1.0), obs=torch.tensor(1.0))

    trace = poutine.trace(larger).get_trace()
    assert {"a/address", "b/address", "a/cue", "b/cue", "y"} <= set(trace.nodes)
    assert trace.log_prob_sum().isfinite()


@pytest.mark.parametrize("channel", [None, UnknownLevel(Flip(0.1))])
def test_a_channel_of_known_level_is_needed(channel):
    machine, patterns, _ = bernoulli()
    with pytest.raises(ValueError, match=r"retrieval_model\(\): channel is .*; expected a channel of a known level"):
        retrieval_model(machine.write(patterns), channel, patterns)


@pytest.mark.parametrize("build", [bernoulli, normal, categorical])
def test_occlusion_and_masks(build):
    """Entries without evidence take the mean of the prediction, whatever the cue shows there."""
    machine, patterns, channel = build()
    memory = machine.write(patterns)
    seen = torch.rand(patterns.shape[2:]) < 0.5
    known = {"memory": memory.posterior.loc.unsqueeze(-3), "address": torch.randn(2, 5, 3)}
    conditioned = poutine.condition(retrieval_model, known)
    other = torch.where(seen, patterns, patterns.roll(1, 1))
    for options in ({"channel": Occlusion(seen)}, {"channel": channel, "observed": seen}):
        one, two = (conditioned(memory, cues=cues, **options) for cues in (patterns, other))
        assert torch.equal(one, two)
    prediction = mean_and_mode(memory.predict(known["address"]))[0]
    torch.testing.assert_close(one[..., ~seen], prediction[..., ~seen])
    nested = Where(seen, channel, Occlusion(~seen))
    assert conditioned(memory, nested, patterns).isfinite().all()
    with pytest.raises(ValueError, match=r"observed has dtype torch.float32; expected torch.bool"):
        retrieval_model(memory, channel, patterns, observed=seen.float())


def test_draws_have_the_type_of_the_machine():
    machine, patterns, channel = bernoulli()
    memory = machine.double().write(patterns.double())
    assert retrieval_model(memory, channel, num_cues=2).dtype == torch.float64


def test_unknown_levels_inside_where_are_refused():
    machine, patterns, channel = bernoulli()
    nested = Where(torch.ones(3, dtype=torch.bool), UnknownLevel(Flip(0.1)), channel)
    with pytest.raises(ValueError, match="expected a channel of a known level"):
        retrieval_model(machine.write(patterns), nested, patterns)
