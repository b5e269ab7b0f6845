"""Curves with intervals over episodes."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Curve(NamedTuple):
    """Means over episodes at ``x``, and the 95% interval of each, ``low`` to ``high``: 1.96 standard errors."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def interval(x: Iterable[float], values: Tensor) -> Curve:
    """The curve of ``values`` (episodes, points)."""
    values = values.double()
    mean = values.mean(0)
    error = 1.96 * values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.zeros_like(mean)
    return Curve([float(point) for point in x], mean.tolist(), (mean - error).tolist(), (mean + error).tolist())


def join(points: Iterable[Curve]) -> Curve:
    """Curves one behind the other, by rising x."""
    points = sorted(points, key=lambda curve: curve.x)
    return Curve(*([value for curve in points for value in curve[i]] for i in range(4)))
