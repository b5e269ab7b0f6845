"""Curves and their intervals over episodes."""

import torch

from pyro_kanerva.evaluation import interval, join


def test_interval():
    values = torch.randn(400, 3, dtype=torch.float64) + torch.tensor([0.0, 1.0, 2.0])
    curve = interval(range(3), values)
    assert curve.x == [0, 1, 2]
    half_width = 1.96 * values.std(0) / 20
    torch.testing.assert_close(torch.tensor(curve.mean, dtype=torch.float64), values.mean(0))
    torch.testing.assert_close(torch.tensor(curve.high, dtype=torch.float64), values.mean(0) + half_width)
    torch.testing.assert_close(torch.tensor(curve.low, dtype=torch.float64), values.mean(0) - half_width)
    alone = interval([5], torch.tensor([[0.3]]))
    assert alone.low == alone.mean == alone.high
    assert join([interval([2], values[:, :1]), interval([1], values[:, 1:2])]).x == [1, 2]
