"""Recall by the number of stored patterns, and by the flipped entries of a cue."""

import math

import pytest
import torch

from pyro_kanerva import Episodes, Flip
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation import RecallError, capacity, evaluate_basins, evaluate_capacity, evaluate_recall_control


def test_capacity(make_machine):
    images = (torch.rand(20, 1, 5, 7) < 0.3).float()
    machine = make_machine()
    curves = evaluate_capacity(machine, images, [2, 10, 20], Flip(0.1), channel=Flip(0.1), num_episodes=3)
    recalls = ["recall", "recall, other memory", "recall, empty memory"]
    assert list(curves) == [*recalls, "memory gain", "negative bound", "negative conditional bound"]
    assert curves.pop("recall, other memory").x == [2, 10]  # the images make one episode of 20
    assert all(curve.x == [2, 10, 20] for curve in curves.values())
    honest, conditional = curves["negative bound"].mean, curves["negative conditional bound"].mean
    assert all(a > b for a, b in zip(honest, conditional, strict=True))
    recall = curves["recall"]
    assert recall.low[0] < recall.mean[0] < recall.high[0]
    assert recall.low[2] == recall.high[2]  # one episode


def test_capacity_is_the_control_of_recall(slot_machine, separated):
    images, noise = separated.flatten(0, 1), Flip(0.35)
    curves = evaluate_capacity(slot_machine, images, [6], noise, channel=noise, num_episodes=4, seed=2)
    patterns = Episodes(images, 6, 4, seed=2)[0]
    control = evaluate_recall_control(slot_machine, [patterns], noise, channel=noise, seed=2)
    for name, error in zip(("recall", "recall, other memory", "recall, empty memory"), control, strict=True):
        assert curves[name].mean == pytest.approx([error.steps[-1]])
    gain = curves["memory gain"]
    assert gain.mean == pytest.approx([control.gain])
    assert gain.mean[0] > 1.5
    assert gain.low[0] < gain.mean[0] < gain.high[0]


def test_interval_of_the_gain():
    """Over many draws of episodes, the interval holds the ratio of the expected errors in about 95% of them."""
    torch.manual_seed(1)
    hits = 0
    for _ in range(400):
        right = torch.rand(60, 1, dtype=torch.float64)  # one episode in ten has no error
        right = torch.where(right < 0.1, 0.0, right)
        empty = right + 0.5 + torch.rand(60, 1, dtype=torch.float64)
        errors = (RecallError(x, 1.0, torch.zeros(60)) for x in (right, empty))
        curve = capacity._gain_point(5, *errors)
        hits += curve.low[0] <= 1 + 1 / 0.495 <= curve.high[0]
    assert 0.91 < hits / 400 < 0.98


@pytest.mark.parametrize(("empty", "gain"), [(0.1, math.inf), (0.0, 1.0)])
def test_gain_of_recall_without_errors(empty, gain):
    errors = (RecallError(torch.full((3, 2), x), 1.0, torch.zeros(3)) for x in (0.0, empty))
    assert capacity._gain_point(5, *errors) == ([5.0], [gain], [gain], [gain])


def test_basins(make_machine, patterns):
    machine = make_machine()
    curve = evaluate_basins(machine, [patterns], [0.1, 0.4], threshold=2.0)
    assert curve.mean == [1, 1]  # no share of wrong entries is larger than 1
    assert evaluate_basins(machine, [patterns], [0.1], threshold=0.0).mean == [0]
    generator = torch.Generator()
    for channel in (None, Flip(0.1)):
        generator.manual_seed(derive_seed(1, 0))
        recalled = machine.write(patterns).query(Flip(0.1)(patterns, generator), channel=channel).patterns[-1]
        wrong = (recalled != patterns).double().flatten(2).mean(-1)
        middle = wrong.median().item()
        options = {"threshold": middle, "with_channel": channel is not None, "seed": 1}
        share = evaluate_basins(machine, [patterns], [0.1], **options).mean[0]
        assert share == pytest.approx((wrong < middle).double().mean().item())


def test_single_episode(make_machine, patterns):
    """Patterns (T,) + E are one episode."""
    machine = make_machine()
    curve = evaluate_basins(machine, [patterns[0]], [0.1, 0.2], threshold=0.1)
    assert curve == evaluate_basins(machine, [patterns[:1]], [0.1, 0.2], threshold=0.1)
    assert curve.low == curve.mean == curve.high


@pytest.mark.parametrize("lengths", [[], [0], [2, 21], [-1, 2]])
def test_lengths_without_an_episode(make_machine, lengths):
    with pytest.raises(ValueError, match=r"lengths are .*; expected numbers from 1 to 20"):
        evaluate_capacity(make_machine(), torch.zeros(20, 1, 5, 7), lengths, Flip(0.1), channel=None)


def test_no_levels(make_machine, patterns):
    with pytest.raises(ValueError, match="levels is empty; expected at least one"):
        evaluate_basins(make_machine(), [patterns], [])
