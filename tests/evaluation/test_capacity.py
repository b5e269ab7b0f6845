"""Recall by the number of stored patterns, and by the flipped entries of a cue."""

import pytest
import torch

from pyro_kanerva import Flip
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation import evaluate_basins, evaluate_capacity


def test_capacity(make_machine):
    images = (torch.rand(20, 1, 5, 7) < 0.3).float()
    curves = evaluate_capacity(make_machine(), images, [2, 10, 20], Flip(0.1), channel=Flip(0.1), num_episodes=3)
    assert set(curves) == {"recall", "negative bound", "negative conditional bound"}
    assert all(curve.x == [2, 10, 20] for curve in curves.values())
    honest, conditional = curves["negative bound"].mean, curves["negative conditional bound"].mean
    assert all(a > b for a, b in zip(honest, conditional, strict=True))
    recall = curves["recall"]
    assert recall.low[0] < recall.mean[0] < recall.high[0]
    assert recall.low[2] == recall.high[2]  # one episode


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
