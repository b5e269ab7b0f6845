"""Figures of patterns as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva._checks import check_at_least
from pyro_kanerva.plotting.style import Axes, new_axes

_GAP = 3  # pixels between pictures


def as_picture(pattern: Tensor) -> NDArray[Any]:
    """A pattern of shape E as a picture: (height, width), or (height, width, 3) for color images (3, height, width).

    One row if it is no image.
    """
    if pattern.dim() == 3 and pattern.shape[0] in (1, 3):
        pattern = pattern[0] if pattern.shape[0] == 1 else pattern.movedim(0, -1)
    elif pattern.dim() != 2:
        pattern = pattern.flatten().unsqueeze(0)
    return pattern.detach().cpu().numpy()


def is_binary(patterns: Tensor) -> bool:
    """True if all entries are 0 or 1."""
    return bool(((patterns == 0) | (patterns == 1)).all())


def value_range(patterns: Tensor) -> tuple[float, float]:
    """0 and 1, or the smallest and largest entry if they are outside."""
    return min(0.0, patterns.min().item()), max(1.0, patterns.max().item())


def tile(pattern: Tensor, limits: tuple[float, float], ink: bool) -> NDArray[Any]:
    """A pattern in colors (height, width, 3) from 0 to 1; ``limits`` are the values of black and of white.

    Of images of one channel ``ink`` shows 1 as black.
    """
    low, high = limits
    picture = ((as_picture(pattern) - low) / (high - low)).clip(0, 1)
    if picture.ndim == 3:
        return picture
    return np.repeat((1 - picture if ink else picture)[..., None], 3, -1)


def check_drawn(caller: str, patterns: Tensor, **counts: int) -> None:
    """:raises ValueError: if there are no patterns to draw, or a count is below 1."""
    check_at_least(caller, 1, **counts)
    if not patterns.numel():
        raise ValueError(f"{caller}: patterns have shape {tuple(patterns.shape)}; expected at least one pattern.")


def mosaic(rows: Sequence[Sequence[NDArray[Any]]], gap: int) -> NDArray[Any]:
    """One picture of tiles (height, width) or (height, width, 3) in rows, on white, ``gap`` pixels apart."""
    height, width, *colors = rows[0][0].shape
    canvas = np.ones((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, *colors))
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = picture
    return canvas


def strips(rows: Sequence[Sequence[NDArray[Any]]], labels: Sequence[str], ax: Axes | None, below: float = 0.0) -> Axes:
    """Labeled rows of color tiles (height, width, 3), and ``below`` them as many inches for a legend."""
    height, width, _ = rows[0][0].shape
    margin = 0.3 + 0.09 * max(map(len, labels))  # inches: room for the labels
    ax = new_axes(ax, (max(0.9 * len(rows[0]) + margin, 4), 0.9 * len(rows) * height / width + below))
    ax.imshow(mosaic(rows, _GAP), interpolation="nearest")
    ax.set_yticks([i * (height + _GAP) + height / 2 for i in range(len(rows))], labels)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def image_grid(patterns: Tensor, *, columns: int = 8, ink: bool = True, ax: Axes | None = None) -> Axes:
    """Patterns (N,) + E as a grid of pictures; color images (3, height, width) in their colors.

    Entries from 0 to 1 are drawn as they are. If entries are outside, the smallest and the largest get the two ends of
    the scale.

    :param ink: True to draw images of one channel as ink on paper, 1 black and 0 white; False to draw them as
        photographs, 0 black and 1 white.
    :raises ValueError: if there are no patterns, or no columns.
    """
    check_drawn("image_grid()", patterns, columns=columns)
    limits = value_range(patterns)
    tiles = [tile(pattern, limits, ink) for pattern in patterns]
    (height, width, _), rows = tiles[0].shape, -(-len(tiles) // columns)  # rows rounded up
    tiles += [np.ones((height, width, 3))] * (rows * columns - len(tiles))  # white, to fill the last row
    ax = new_axes(ax, (0.7 * columns, 0.7 * rows * height / width))
    ax.imshow(
        mosaic([tiles[row * columns : (row + 1) * columns] for row in range(rows)], gap=2), interpolation="nearest"
    )
    ax.set_axis_off()
    return ax
