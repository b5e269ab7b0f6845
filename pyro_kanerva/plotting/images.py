"""Figures of patterns as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva.plotting.style import Axes, new_axes

_GAP = 3  # pixels between pictures


def as_picture(pattern: Tensor) -> Tensor:
    """A pattern of shape E as a picture (height, width); one row if it is not an image of one channel."""
    if pattern.dim() == 3 and pattern.shape[0] == 1:
        return pattern[0]
    return pattern if pattern.dim() == 2 else pattern.flatten().unsqueeze(0)


def mosaic(rows: Sequence[Sequence[NDArray[Any]]], gap: int) -> NDArray[Any]:
    """One picture of tiles (height, width) or (height, width, 3) in rows, on white, ``gap`` pixels apart."""
    height, width, *colors = rows[0][0].shape
    canvas = np.ones((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, *colors))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = tile
    return canvas


def strips(rows: Sequence[Sequence[NDArray[Any]]], labels: Sequence[str], ax: Axes | None, below: float = 0.0) -> Axes:
    """Labeled rows of color tiles (height, width, 3), and ``below`` them as many inches for a legend."""
    height, width, _ = rows[0][0].shape
    margin = 0.3 + 0.09 * max(map(len, labels))  # inches: room for the labels
    ax = new_axes(ax, (0.9 * len(rows[0]) + margin, 0.9 * len(rows) * height / width + below))
    ax.imshow(mosaic(rows, _GAP), interpolation="nearest")
    ax.set_yticks([i * (height + _GAP) + height / 2 for i in range(len(rows))], labels)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def image_grid(patterns: Tensor, *, columns: int = 8, ax: Axes | None = None) -> Axes:
    """Patterns (N,) + E as a grid of pictures, ink black on white."""
    tiles = [1 - as_picture(pattern).cpu().numpy() for pattern in patterns]
    (height, width), rows = tiles[0].shape, -(-len(tiles) // columns)  # rows rounded up
    tiles += [np.ones((height, width))] * (rows * columns - len(tiles))  # white, to fill the last row
    ax = new_axes(ax, (0.7 * columns, 0.7 * rows * height / width))
    grid = mosaic([tiles[row * columns : (row + 1) * columns] for row in range(rows)], gap=2)
    ax.imshow(grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax
