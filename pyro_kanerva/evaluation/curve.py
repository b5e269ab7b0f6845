"""Curves with confidence intervals over episodes."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._repr import short_repr


@short_repr
class Curve(NamedTuple):
    """Means over episodes at ``x``, and their 95% intervals from ``low`` to ``high``: mean +- 1.96 standard errors."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def interval(x: Iterable[float], values: Tensor) -> Curve:
    """The curve of ``values`` (episodes, points)."""
    values = values.double()
    mean = values.mean(0)
    # A single episode has no standard error: the interval is the mean.
    error = 1.96 * values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.zeros_like(mean)
    return Curve([float(point) for point in x], mean.tolist(), (mean - error).tolist(), (mean + error).tolist())


def join(points: Iterable[Curve]) -> Curve:
    """One curve from parts of it, sorted by x."""
    points = sorted(points, key=lambda curve: curve.x)
    return Curve(*([value for curve in points for value in curve[i]] for i in range(4)))
