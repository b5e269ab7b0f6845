"""Channels: damage at the stated rate, and Bayes' rule for every entry."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_kanerva import (
    Channel,
    ClampedGaussianNoise,
    Flip,
    GaussianNoise,
    Occlusion,
    Replace,
    SaltAndPepper,
    UnknownLevel,
    Where,
)
from pyro_kanerva.channels import check_channel, has_real_cues, has_unknown_level, resolve
from pyro_kanerva.distributions import DiscretizedLogistic


@pytest.mark.parametrize(("channel", "rate"), [(Flip(0.2), 0.2), (SaltAndPepper(0.2), 0.1)])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_damage(channel, rate, value):
    patterns = torch.full((40000,), value)
    wrong = (channel(patterns) != patterns).float().mean()
    assert abs(wrong - rate) < 5 * math.sqrt(rate * (1 - rate) / len(patterns))
    draws = [channel(patterns, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@given(p=st.floats(1e-4, 1 - 1e-4), logit=st.floats(-8, 8), cue=st.sampled_from([0.0, 1.0]))
def test_bayes_rule(p, logit, cue):
    prior = torch.sigmoid(torch.tensor(logit, dtype=torch.float64))
    likelihood = {x: 1 - p if x == cue else p for x in (0.0, 1.0)}
    evidence = prior * likelihood[1.0] + (1 - prior) * likelihood[0.0]
    prediction = dist.Bernoulli(logits=torch.tensor([logit], dtype=torch.float64))
    cues = torch.tensor([cue], dtype=torch.float64)
    channel = Flip(p)
    torch.testing.assert_close(channel.log_evidence(cues, prediction)[0], evidence.log())
    torch.testing.assert_close(channel.posterior(cues, prediction).mean[0], prior * likelihood[1.0] / evidence)


def test_extreme_predictions_stay_finite_in_float32():
    prediction = dist.Bernoulli(logits=torch.tensor([-200.0, 200.0, -200.0, 200.0]))
    cues = torch.tensor([0.0, 0.0, 1.0, 1.0])
    log_evidence = Flip(0.01).log_evidence(cues, prediction)
    torch.testing.assert_close(log_evidence, torch.tensor([0.99, 0.01, 0.01, 0.99]).log())


@pytest.mark.parametrize("p", [1e-50, 1 - 1e-9])
def test_extreme_channels_stay_finite(p):
    prediction = dist.Bernoulli(logits=torch.tensor([-200.0, 200.0]))
    for cue in (0.0, 1.0):
        cues = torch.full((2,), cue)
        assert Flip(p).log_evidence(cues, prediction).isfinite().all()
        assert Flip(p).posterior(cues, prediction).logits.isfinite().all()


def test_damage_of_grey_patterns():
    with pytest.raises(ValueError, match=r"Flip\(0.1\): patterns have entries other than 0 and 1"):
        Flip(0.1)(torch.full((3,), 0.5))


@pytest.mark.parametrize("channel", [Flip, SaltAndPepper])
@pytest.mark.parametrize("p", [0.0, 1.0, -0.1, math.nan])
def test_bad_probability(channel, p):
    with pytest.raises(ValueError, match=rf"{channel.__name__}: p is .*; expected a probability in \(0, 1\)"):
        channel(p)


def bernoulli(*shape):
    return dist.Bernoulli(logits=2 * torch.randn(shape, dtype=torch.float64))


def categorical(*shape, num_classes=4):
    return dist.Categorical(logits=2 * torch.randn(*shape, num_classes, dtype=torch.float64))


def normal(*shape, dtype=torch.float64):
    return dist.Normal(torch.randn(shape, dtype=dtype), 0.1 + torch.rand(shape, dtype=dtype))


def levels(*shape):
    return DiscretizedLogistic(torch.rand(shape).double(), 0.02 + 0.1 * torch.rand(shape).double(), 7)


def normal_grey(*shape):
    """Means in [0, 1]."""
    return dist.Normal(torch.rand(shape, dtype=torch.float64), 0.05 + 0.25 * torch.rand(shape, dtype=torch.float64))


PAIRS = [  # a channel and predictions that it fits
    (Flip(0.2), bernoulli),
    (SaltAndPepper(0.3), bernoulli),
    (Replace(0.3, 4), categorical),
    (GaussianNoise(0.5), normal),
    (GaussianNoise(0.15), levels),
    (ClampedGaussianNoise(0.5), normal_grey),
    (ClampedGaussianNoise(0.5, folded=True), normal_grey),
    (ClampedGaussianNoise(0.4), bernoulli),
    (ClampedGaussianNoise(0.2, folded=True), levels),
]
NAMES = [f"{channel} of {make.__name__}" for channel, make in PAIRS]


def draw(channel, prediction):
    """Cues from the channel, of patterns from the prediction; a Normal one is not limited to [0, 1]."""
    with pyro.validation_enabled(False):
        return channel(prediction.sample().double())


@given(p=st.floats(1e-4, 1 - 1e-4), number=st.integers(2, 6), data=st.data())
def test_bayes_rule_of_classes(p, number, data):
    logits = torch.tensor(data.draw(st.lists(st.floats(-8, 8), min_size=number, max_size=number))).double()
    cue = data.draw(st.integers(0, number - 1))
    prior = logits.softmax(-1)
    likelihood = torch.full_like(prior, p / number)
    likelihood[cue] += 1 - p
    evidence = (prior * likelihood).sum()
    prediction, cues = dist.Categorical(logits=logits.unsqueeze(0)), torch.tensor([float(cue)], dtype=torch.float64)
    channel = Replace(p)
    torch.testing.assert_close(channel.log_evidence(cues, prediction)[0], evidence.log())
    torch.testing.assert_close(channel.posterior(cues, prediction).probs[0], prior * likelihood / evidence)


def test_two_classes_are_salt_and_pepper():
    prediction = bernoulli(3, 5)
    logits = torch.stack((torch.zeros_like(prediction.logits), prediction.logits), -1)
    cues = draw(SaltAndPepper(0.3), prediction)
    one = SaltAndPepper(0.3).log_evidence(cues, prediction)
    torch.testing.assert_close(one, Replace(0.3).log_evidence(cues, dist.Categorical(logits=logits)))


@given(loc=st.floats(-2, 2), cue=st.floats(-2, 2), log_scale=st.floats(-1.5, 0.5), log_noise=st.floats(-1.5, 0.5))
def test_bayes_rule_of_noise(loc, cue, log_scale, log_noise):
    """Against quadrature, on a grid far finer than the narrowest of the densities."""
    scale, noise = math.exp(log_scale), math.exp(log_noise)
    x = torch.linspace(-20, 20, 20001, dtype=torch.float64)
    joint = (dist.Normal(loc, scale).log_prob(x) + dist.Normal(x, noise).log_prob(torch.tensor(cue).double())).exp()
    evidence = torch.trapezoid(joint, x)
    mean = torch.trapezoid(x * joint, x) / evidence
    variance = torch.trapezoid((x - mean) ** 2 * joint, x) / evidence
    prediction = dist.Normal(*torch.tensor([[loc], [scale]], dtype=torch.float64))
    cues = torch.tensor([cue], dtype=torch.float64)
    channel = GaussianNoise(noise)
    torch.testing.assert_close(channel.log_evidence(cues, prediction)[0], evidence.log(), rtol=1e-5, atol=1e-5)
    posterior = channel.posterior(cues, prediction)
    torch.testing.assert_close(posterior.loc[0], mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(posterior.variance[0], variance, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [2, 5, 256])
def test_bayes_rule_of_levels(number, dtype):
    """Against the sum over all levels in float64, also for predictions and cues far from each other."""
    loc, scale, cue, noise = torch.cartesian_prod(
        *torch.tensor([[-1.0, 0.31, 1.02], [1e-3, 0.05, 2.0], [-0.4, 0.3, 1.1], [0.02, 0.15, 1.0]])
    ).T.double()
    values = torch.arange(number).double() / (number - 1)
    prior = DiscretizedLogistic(loc.unsqueeze(-1), scale.unsqueeze(-1), number).log_prob(values)
    joint = prior + dist.Normal(values, noise.unsqueeze(-1)).log_prob(cue.unsqueeze(-1))
    weights = joint.softmax(-1)
    mean = weights @ values
    prediction = DiscretizedLogistic(loc.to(dtype), scale.to(dtype), number)
    channel, cue = GaussianNoise(noise.to(dtype)), cue.to(dtype)
    tolerance = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-3, "atol": 1e-3}
    log_evidence = channel.log_evidence(cue, prediction)
    torch.testing.assert_close(log_evidence.double(), joint.logsumexp(-1), **tolerance)
    posterior = channel.posterior(cue, prediction)
    torch.testing.assert_close(posterior.mean.double(), mean, **tolerance)
    torch.testing.assert_close(posterior.variance.double(), weights @ values**2 - mean**2, **tolerance)
    if dtype == torch.float64:
        torch.testing.assert_close(posterior.mode, values[weights.argmax(-1)])
        torch.testing.assert_close(posterior.log_prob(posterior.mode), weights.amax(-1).log(), **tolerance)


def test_draws_and_gradients_of_noisy_levels():
    prediction = DiscretizedLogistic(torch.tensor([0.2, 0.7]), torch.tensor([0.1, 0.05]), 5)
    cues, channel = torch.tensor([0.6, 0.65]), GaussianNoise(0.2)
    posterior, draws = channel.posterior(cues, prediction), 40_000
    sample = posterior.sample((draws,))
    assert sample.shape == (draws, 2)
    assert set(sample.unique().tolist()) <= {0.0, 0.25, 0.5, 0.75, 1.0}
    error = (sample.mean(0) - posterior.mean).abs() / (posterior.variance / draws).sqrt()
    assert (error < 5).all()
    loc = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    scale = torch.full((2,), 0.1, dtype=torch.float64, requires_grad=True)
    values = torch.rand(2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda m, s: GaussianNoise(0.1).log_evidence(values, DiscretizedLogistic(m, s, 9)), (loc, scale)
    )


def test_a_scale_keeps_its_precision_in_float64():
    prediction, cues = normal(4), torch.randn(4, dtype=torch.float64)
    number, tensor = GaussianNoise(0.3), GaussianNoise(torch.tensor(0.3, dtype=torch.float64))
    assert torch.equal(number.log_evidence(cues, prediction), tensor.log_evidence(cues, prediction))
    assert torch.equal(number.posterior(cues, prediction).loc, tensor.posterior(cues, prediction).loc)


@pytest.mark.parametrize("make", [bernoulli, categorical, normal, levels])
def test_occlusion(make):
    """Also with a mask that misses the dimensions of episodes and queries, and predictions with samples."""
    visible = torch.rand(5) < 0.5
    prediction = make(6, 2, 3, 5)
    cues = make(2, 3, 5).sample().double()
    channel = Occlusion(visible)
    log_prob = prediction.log_prob(cues)
    assert torch.equal(channel.log_evidence(cues, prediction), torch.where(visible, log_prob, 0.0))
    draws = torch.stack([channel.posterior(cues, prediction).sample().double() for _ in range(2)])
    assert torch.equal(draws[..., visible], cues[..., visible].expand(2, 6, 2, 3, -1))
    torch.manual_seed(1)
    hidden = channel.posterior(cues, prediction).sample()[..., ~visible]
    torch.manual_seed(1)
    assert torch.equal(hidden.double(), prediction.sample()[..., ~visible].double())
    damaged = channel(cues)
    assert torch.equal(damaged[..., visible], cues[..., visible])
    assert (damaged[..., ~visible] == 0).all()


def test_where_equals_its_parts():
    first, second = torch.rand(5) < 0.5, torch.rand(2, 3, 5) < 0.5
    parts = Flip(0.1), SaltAndPepper(0.7), Occlusion(torch.rand(5) < 0.5)
    channel = Where(first, parts[0], Where(second, *parts[1:]))
    prediction = bernoulli(2, 3, 5)
    cues = draw(Flip(0.2), prediction)
    evidence = [part.log_evidence(cues, prediction) for part in parts]
    expected = torch.where(first, evidence[0], torch.where(second, evidence[1], evidence[2]))
    assert torch.equal(channel.log_evidence(cues, prediction), expected)
    means = [part.posterior(cues, prediction).mean for part in parts]
    expected = torch.where(first, means[0], torch.where(second, means[1], means[2]))
    assert torch.equal(channel.posterior(cues, prediction).mean, expected)
    with pytest.raises(ValueError, match="Normal"):  # the parts judge the prediction
        channel.log_evidence(cues, normal(2, 3, 5))


def test_where_damages_each_entry_by_its_channel():
    mask = torch.arange(20000) % 2 == 0
    channel = Where(mask, Flip(0.1), Occlusion(torch.zeros(20000, dtype=torch.bool)))
    wrong = channel(torch.ones(20000)) != 1
    assert wrong[~mask].all()
    assert abs(wrong[mask].double().mean() - 0.1) < 5 * math.sqrt(0.1 * 0.9 / 10000)


@pytest.mark.parametrize("value", [0, 2])
def test_damage_of_classes(value):
    """A replacement leaves the class with probability 1 / n, and is otherwise fair: counts within 5 deviations."""
    p, number, total = 0.3, 3, 40000
    damaged = Replace(p, number)(torch.full((total,), float(value)))
    for other in range(number):
        rate = p / number + (1 - p) * (other == value)
        share = (damaged == other).double().mean()
        assert abs(share - rate) < 5 * math.sqrt(rate * (1 - rate) / total)


def test_damage_of_integer_classes():
    patterns = torch.randint(0, 4, (1000,))
    damaged = Replace(0.5, 4)(patterns, torch.Generator().manual_seed(1))
    assert damaged.dtype == torch.int64
    floats = Replace(0.5, 4)(patterns.float(), torch.Generator().manual_seed(1))
    assert torch.equal(damaged.float(), floats)
    assert 0.2 < (damaged != patterns).float().mean() < 0.6


def test_damage_of_real_patterns():
    noise = GaussianNoise(0.5)(torch.full((40000,), 3.0)).double() - 3
    assert abs(noise.mean()) < 5 * 0.5 / 200
    assert abs(noise.std() - 0.5) < 5 * 0.5 / math.sqrt(2 * 40000)


@pytest.mark.parametrize(
    "channel",
    [
        Replace(0.5, 3),
        Replace(0.5),
        GaussianNoise(0.5),
        Where(torch.arange(60) % 2 == 0, GaussianNoise(0.1), Replace(0.5, 3)),
    ],
    ids=str,
)
def test_generators_reproduce_the_damage(channel):
    patterns = (torch.arange(60) % 3).float()
    draws = [channel(patterns, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_replace_without_a_number_of_classes_takes_those_of_the_patterns():
    assert set(Replace(0.9)((torch.arange(200) % 3).float()).tolist()) == {0.0, 1.0, 2.0}
    with pytest.raises(ValueError, match=r"entries other than the classes 0 \.\.\. 1"):
        Replace(0.9, 2)(torch.tensor([0.0, 2.0]))
    with pytest.raises(ValueError, match="entries other than the classes"):
        Replace(0.9, 3)(torch.tensor([0.0, 0.5]))


def level(channel):
    return torch.as_tensor(channel.scale if hasattr(channel, "scale") else channel.p, dtype=torch.float64)


@pytest.mark.parametrize(("channel", "make"), PAIRS, ids=NAMES)
@pytest.mark.parametrize("factor", [0.3, 2.5])
def test_level_is_recovered(channel, make, factor):
    """Within 5 standard errors, from the curvature of the log evidence at the truth, wherever the search starts."""
    prediction = make(1, 1, 5000)
    cues = draw(channel, prediction)
    start = _at(channel, float(level(channel)) * factor)
    seen = torch.ones_like(cues, dtype=torch.bool)
    resolved = UnknownLevel(start).resolve(cues, prediction, seen, (2,))
    assert type(resolved) is type(channel)
    assert level(resolved).shape == (1, 1, 1)
    true, step = float(level(channel)), 1e-3
    low, mid, high = (_total(_at(channel, true + shift), cues, prediction) for shift in (-step, 0, step))
    error = (-(low - 2 * mid + high) / step**2) ** -0.5
    assert abs(level(resolved).item() - true) < 5 * error
    assert _total(resolved, cues, prediction) >= _total(start, cues, prediction)


def _at(channel, value):
    other = copy.copy(channel)
    setattr(other, "scale" if hasattr(channel, "scale") else "p", value)
    return other


def _total(channel, cues, prediction):
    return channel.log_evidence(cues, prediction).sum()


@pytest.mark.parametrize(("channel", "make"), PAIRS, ids=NAMES)
def test_level_is_the_most_likely(channel, make):
    """Few entries, so that the maximum is far from the level that made them; against a grid."""
    prediction = make(1, 1, 40)
    cues = draw(channel, prediction)
    seen = torch.ones_like(cues, dtype=torch.bool)
    resolved = UnknownLevel(channel, 500).resolve(cues, prediction, seen, (2,))
    grid = torch.linspace(0.001, 0.999, 300, dtype=torch.float64).tolist()
    best = max(_total(_at(channel, value), cues, prediction) for value in grid)
    assert _total(resolved, cues, prediction) >= best - 1e-4


def test_the_level_of_cues_without_damage_is_nearly_zero():
    """And nearly 1 where every entry is flipped; predictions are sure of every pattern."""
    patterns = (torch.rand(1, 2, 30, dtype=torch.float64) < 0.5).double()
    seen = torch.ones_like(patterns, dtype=torch.bool)
    binary = dist.Bernoulli(logits=40 * (2 * patterns - 1))
    classes = dist.Categorical(logits=torch.stack([-40 * patterns, 40 * patterns], -1))
    for channel, prediction in ((Flip(0.2), binary), (SaltAndPepper(0.2), binary), (Replace(0.2), classes)):
        for cues, expected in ((patterns, 0.0), (1 - patterns, 1.0)):
            found = UnknownLevel(channel, 100).resolve(cues, prediction, seen, (2,))
            assert (level(found) - expected).abs().max() < 1e-5
            assert found.log_evidence(cues, prediction).isfinite().all()
    real = dist.Normal(patterns, 1e-6)
    assert level(UnknownLevel(GaussianNoise(0.3)).resolve(patterns, real, seen, (2,))).max() < 1e-4


@pytest.mark.parametrize(("channel", "make"), PAIRS, ids=NAMES)
def test_every_iteration_makes_the_cues_more_likely(channel, make):
    """From far off, for each of several queries: what EM guarantees."""
    prediction = make(2, 3, 30)
    cues = draw(channel, prediction)
    seen = torch.rand(2, 3, 30) < 0.7
    for start in (0.02, 0.9):
        channels = [_at(channel, start)]
        channels += [UnknownLevel(channels[0], n).resolve(cues, prediction, seen, (2,)) for n in (1, 2, 3, 20)]
        evidence = [torch.where(seen, one.log_evidence(cues, prediction), 0.0).sum(-1) for one in channels]
        assert (torch.stack(evidence).diff(dim=0) >= -1e-9).all()


@pytest.mark.parametrize(("channel", "make"), PAIRS, ids=NAMES)
def test_levels_are_those_of_the_observed_entries_of_each_query(channel, make):
    prediction, unknown = make(2, 3, 30), UnknownLevel(channel)
    cues = draw(channel, prediction)
    seen = torch.rand(2, 3, 30) < 0.6
    shape = (-1, 4) if make is categorical else (-1,)
    resolved = level(unknown.resolve(cues, prediction, seen, (2,)))
    assert resolved.shape == (2, 3, 1)
    others = torch.where(seen, cues, draw(channel, prediction))
    assert torch.equal(level(unknown.resolve(others, prediction, seen, (2,))), resolved)  # the rest has no influence
    for b in range(2):
        for q in range(3):  # alone, and with only its observed entries
            names = ("loc", "scale") if hasattr(prediction, "loc") else ("logits",)
            parameters = {name: getattr(prediction, name)[b, q][seen[b, q]].view(1, 1, *shape) for name in names}
            alone = type(prediction)(**parameters, **({"num_levels": 7} if make is levels else {}))
            cue = cues[b, q][seen[b, q]].view(1, 1, -1)
            one = unknown.resolve(cue, alone, torch.ones_like(cue, dtype=torch.bool), (2,))
            torch.testing.assert_close(level(one).squeeze(), resolved[b, q, 0])


@pytest.mark.parametrize(("channel", "make"), PAIRS, ids=NAMES)
def test_an_unknown_level_as_a_channel(channel, make):
    """Without a query around it, it takes the most likely level of every cue."""
    prediction, unknown = make(2, 3, 4, 5), UnknownLevel(channel)
    cues = draw(channel, prediction)
    resolved = unknown.resolve(cues, prediction, torch.ones_like(cues, dtype=torch.bool), (2, 3))
    assert level(resolved).shape == (2, 3, 1, 1)
    assert torch.equal(unknown.log_evidence(cues, prediction), resolved.log_evidence(cues, prediction))
    draws = []
    for one in (unknown, resolved):
        torch.manual_seed(1)
        draws.append(one.posterior(cues, prediction).sample())
    assert torch.equal(*draws)


def test_unknown_levels_inside_where():
    """Each from its own observed entries; what is known or has no level stays as it is."""
    mask, seen = torch.rand(40) < 0.5, torch.rand(2, 3, 40) < 0.8
    prediction = bernoulli(2, 3, 40)
    cues = draw(Flip(0.2), prediction)
    flip, salt, known = UnknownLevel(Flip(0.1)), UnknownLevel(SaltAndPepper(0.1)), Flip(0.3)
    resolved = Where(mask, flip, Where(seen, salt, known)).resolve(cues, prediction, seen, (2,))
    torch.testing.assert_close(resolved.channel.p, flip.resolve(cues, prediction, seen & mask, (2,)).p)
    torch.testing.assert_close(resolved.other.channel.p, salt.resolve(cues, prediction, seen & ~mask, (2,)).p)
    assert resolved.other.other is known
    assert resolve(known, cues, prediction, seen, (2,)) is known
    assert has_unknown_level(flip)
    assert not has_unknown_level(known)


MASK = torch.ones(3, dtype=torch.bool)

KNOWN = [  # a channel, and p(c | x) for two entries with c = x and two with c != x
    (Flip(0.2), (0.0, 1.0, 0.0, 1.0), (0.0, 1.0, 1.0, 0.0), (0.8, 0.8, 0.2, 0.2)),
    (SaltAndPepper(0.2), (0.0, 1.0, 0.0, 1.0), (0.0, 1.0, 1.0, 0.0), (0.9, 0.9, 0.1, 0.1)),
    (Replace(0.3, 3), (0.0, 2.0, 0.0, 2.0), (0.0, 2.0, 1.0, 1.0), (0.8, 0.8, 0.1, 0.1)),
    (GaussianNoise(0.5), (0.0, 2.0, 0.0, 2.0), (0.0, 2.0, 0.5, 1.5), (0.797885, 0.797885, 0.483941, 0.483941)),
    (ClampedGaussianNoise(0.5), (0.2, 1.0, 0.5, 0.5), (0.2, 1.0, 0.0, 1.0), (0.797885, 0.5, 0.158655, 0.158655)),
]


@pytest.mark.parametrize(("channel", "patterns", "cues", "expected"), KNOWN, ids=str)
def test_evidence_of_known_patterns_is_the_likelihood(channel, patterns, cues, expected):
    """``Delta``, also with more dimensions on the left and inside ``Where``; the posterior is the pattern."""
    patterns, cues = torch.tensor(patterns), torch.tensor(cues)
    known = dist.Delta(patterns.expand(2, 3, 4))
    evidence = channel.log_evidence(cues, known)
    torch.testing.assert_close(evidence, torch.tensor(expected).log().expand(2, 3, 4), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(Where(torch.ones(4) > 0, channel, channel).log_evidence(cues, known), evidence)
    assert torch.equal(channel.posterior(cues, known).sample().float(), known.v)


@pytest.mark.parametrize(("channel", "make"), PAIRS, ids=NAMES)
def test_level_of_known_patterns(channel, make):
    """For known patterns the most likely level is in closed form, or the best of a grid."""
    torch.manual_seed(0)
    patterns = make(1, 1, 400).sample().double()
    if isinstance(channel, ClampedGaussianNoise):
        patterns = patterns.clamp(0, 1)
    cues, known = channel(patterns), dist.Delta(patterns)
    resolved = UnknownLevel(channel, 300).resolve(cues, known, torch.ones_like(cues, dtype=torch.bool), (2,))
    grid = torch.linspace(0.05, 0.95, 300, dtype=torch.float64).tolist()
    best = max(_total(_at(channel, value), cues, known) for value in grid)
    assert _total(resolved, cues, known) >= best - 1e-4


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        (Flip(0.1), "entries other than 0 and 1"),
        (Replace(0.1, 3), r"entries other than the classes 0 \.\.\. 2"),
        (Replace(0.1), r"Replace\(0.1\): num_classes is None; known patterns \(Delta\) need it. Pass num_classes"),
        (ClampedGaussianNoise(0.1), r"expected entries in \[0, 1\]"),
    ],
    ids=str,
)
def test_bad_known_patterns(channel, message):
    patterns = torch.tensor([0.0, 3.0])
    with pytest.raises(ValueError, match=message):
        channel.log_evidence(patterns, dist.Delta(patterns))


@pytest.mark.parametrize("noise", [GaussianNoise(0.1), ClampedGaussianNoise(0.1)], ids=str)
def test_cues_that_are_any_real_numbers(noise):
    for channel in (None, Flip(0.1), Occlusion(MASK), Where(MASK, Flip(0.1), Flip(0.2))):
        assert not has_real_cues(channel)
    for channel in (noise, UnknownLevel(noise), Where(MASK, Flip(0.1), noise), Where(MASK, noise, Flip(0.1))):
        assert has_real_cues(channel)


def test_a_query_without_observed_entries_gets_a_level():
    prediction = bernoulli(1, 2, 5)
    cues = draw(Flip(0.2), prediction)
    resolved = UnknownLevel(Flip(0.2)).resolve(cues, prediction, torch.zeros(1, 2, 5, dtype=torch.bool), (2,))
    assert ((resolved.p > 0) & (resolved.p < 1)).all()


@pytest.mark.parametrize(
    "channel",
    [
        Flip(0.1),
        SaltAndPepper(0.1),
        Replace(0.1),
        GaussianNoise(1.0),
        ClampedGaussianNoise(1.0),
        Occlusion(MASK),
        Where(MASK, Flip(0.1), Flip(0.2)),
    ],
    ids=str,
)
def test_channels_are_channels(channel):
    assert isinstance(channel, Channel)
    assert str(channel).startswith(type(channel).__name__)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replace(0.0), r"Replace: p is 0.0; expected a probability in \(0, 1\)"),
        (lambda: Replace(math.nan), r"Replace: p is nan"),
        (lambda: Replace(0.1, 1), "Replace: num_classes is 1; expected at least 2"),
        (lambda: GaussianNoise(0.0), "GaussianNoise: scale is 0.0; expected a positive number"),
        (lambda: GaussianNoise(-1.0), "GaussianNoise: scale is -1.0"),
        (lambda: GaussianNoise(math.inf), "GaussianNoise: scale is inf"),
        (lambda: GaussianNoise(math.nan), "GaussianNoise: scale is nan"),
        (lambda: Occlusion(torch.ones(3)), "Occlusion: visible is torch.float32; expected a tensor of torch.bool"),
        (lambda: Occlusion([True]), "Occlusion: visible is .*list.*; expected a tensor of torch.bool"),
        (lambda: Where(torch.ones(3), Flip(0.1), Flip(0.2)), "Where: mask is torch.float32; expected a tensor of"),
        (lambda: UnknownLevel(Occlusion(MASK)), "UnknownLevel: channel is Occlusion.*expected Flip, SaltAndPepper"),
        (lambda: UnknownLevel(Where(MASK, Flip(0.1), Flip(0.2))), "UnknownLevel: channel is Where"),
        (lambda: UnknownLevel(Flip(0.1), 0), "UnknownLevel: num_iterations is 0; expected at least 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("channel", [Occlusion(MASK), Where(MASK, Flip(0.1), Flip(0.2))], ids=str)
def test_mask_of_another_shape(channel):
    cues, prediction = torch.ones(2, 2, 4), dist.Bernoulli(logits=torch.zeros(2, 2, 4))
    calls = [
        lambda: channel(cues),
        lambda: channel.log_evidence(cues, prediction),
        lambda: channel.posterior(cues, prediction),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"of shape \(3,\).*mask does not broadcast .* shape \(2, 2, 4\)"):
            call()


@pytest.mark.parametrize(
    ("channel", "make", "message"),
    [
        (Flip(0.1), normal, r"Flip\(0.1\) damages entries of a Bernoulli likelihood; this one is Normal"),
        (SaltAndPepper(0.1), categorical, r"SaltAndPepper\(0.1\) damages entries of a Bernoulli .* Categorical"),
        (GaussianNoise(0.1), bernoulli, r"GaussianNoise\(0.1\) damages entries of a Normal or Disc.* Bernoulli"),
        (Replace(0.1), bernoulli, r"Replace\(0.1\) damages entries of a Categorical likelihood; .* Bernoulli"),
    ],
    ids=str,
)
def test_channel_of_another_likelihood(channel, make, message):
    prediction, cues = make(2, 2, 3), torch.ones(2, 2, 3, dtype=torch.float64)
    for one in (channel, UnknownLevel(channel)):
        for call in (one.log_evidence, one.posterior):
            with pytest.raises(ValueError, match=message):
                call(cues, prediction)


def test_a_channel_of_ones_own_may_have_a_method_resolve():
    """It is not called: only channels of this package have unknown levels."""

    class Own(Flip):
        def resolve(self, data):
            raise AssertionError

    channel = Own(0.1)
    cues = torch.ones(1, 1, 3)
    assert resolve(channel, cues, dist.Bernoulli(logits=cues), cues.bool(), (2,)) is channel


def test_what_is_no_channel():
    """None and channels pass; a class, a number and a function without the two methods do not."""

    class Own:
        def posterior(self, cues, prediction):
            return prediction

        def log_evidence(self, cues, prediction):
            return torch.zeros_like(cues)

    for channel in (None, Flip(0.1), UnknownLevel(Flip(0.1)), Own()):
        check_channel(channel, "query()")
    for channel in (Flip, Own, 0.1, lambda patterns: patterns):
        with pytest.raises(ValueError, match=r"query\(\): channel is .*; expected None, a channel such as Flip\(p\)"):
            check_channel(channel, "query()")
