"""Channels: damage at the stated rate, and Bayes' rule for every entry."""

import math

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_kanerva import Flip, SaltAndPepper


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
