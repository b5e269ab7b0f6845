"""Figures; every function draws into ``ax``, or a new figure, and returns the Axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pyro_kanerva.retrieval import Retrieval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # distinguishable to color-blind readers, and in grey


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").add_subplot()


def _image(pattern: Tensor) -> Tensor:
    """A pattern of shape E as a picture (height, width)."""
    if pattern.dim() == 3 and pattern.shape[0] == 1:
        return pattern[0]
    return pattern if pattern.dim() == 2 else pattern.flatten().unsqueeze(0)


def recall_strips(
    retrieval: Retrieval,
    stored: Tensor,
    *,
    steps: Sequence[int] | None = None,
    num_cues: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """One column per cue of the first memory: the cue, chosen iterates, and the stored pattern below.

    Entries that differ from the stored pattern are orange: full where ink is too much, pale where it is
    missing.

    :param stored: the patterns (B, Q) + E that the cues came from.
    :param steps: which iterates to show; by default 1, 2 and the last.
    """
    last = len(retrieval.patterns) - 1
    steps = sorted({0, 1, 2, last}) if steps is None else [0, *steps]
    steps = [step for step in steps if step <= last]
    num_cues = min(num_cues, stored.shape[1])
    rows = [retrieval.patterns[step, 0, :num_cues] for step in steps] + [stored[0, :num_cues]]
    labels = [f"step {step}" if step else "cue" for step in steps] + ["stored"]
    height, width = _image(stored[0, 0]).shape
    gap = 3
    canvas = np.ones((len(rows) * (height + gap) - gap, num_cues * (width + gap) - gap, 3))
    too_much, missing = np.array([0.84, 0.37, 0.0]), np.array([1.0, 0.75, 0.5])
    for i, row in enumerate(rows):
        for j in range(num_cues):
            image, target = (_image(pattern).cpu().numpy() for pattern in (row[j], stored[0, j]))
            tile = np.repeat(0.93 * (1 - image)[..., None], 3, -1)
            tile[(image > target)] = too_much
            tile[(image < target)] = missing
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = tile
    ax = _axes(ax, (0.9 * num_cues + 0.8, 0.9 * len(rows) * height / width))
    ax.imshow(canvas, interpolation="nearest")
    ax.set_yticks([i * (height + gap) + height / 2 for i in range(len(rows))], labels)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def energy_descent(retrieval: Retrieval, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """The energy of every query by step: a thin line for each, a thick one for the mean."""
    energy = retrieval.energy.flatten(1).cpu().numpy()
    ax = _axes(ax, (5, 3.2))
    ax.plot(energy, color=_BLUE, alpha=0.15, linewidth=0.6)
    ax.plot(energy.mean(-1), color=_ORANGE, linewidth=2, label=label or f"mean of {energy.shape[1]} queries")
    ax.set_xlabel("step")
    ax.set_ylabel("energy (nats)")
    ax.set_xticks(range(0, len(energy), max(1, len(energy) // 10)))
    ax.legend(frameon=False)
    return ax


def training_curve(
    steps: Sequence[int], bound: Sequence[float], conditional_bound: Sequence[float], *, ax: Axes | None = None
) -> Axes:
    """Negative bound and negative conditional bound of the training episodes by step."""
    ax = _axes(ax, (5, 3.2))
    ax.plot(steps, -np.asarray(bound), color=_BLUE, label="negative bound")
    ax.plot(steps, -np.asarray(conditional_bound), color=_ORANGE, linestyle="--", label="without the memory KL")
    ax.set_xlabel("training step")
    ax.set_ylabel("nats per pattern")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter("{x:.0f}")
    ax.yaxis.set_minor_formatter("{x:.0f}")
    ax.legend(frameon=False)
    return ax


def image_grid(patterns: Tensor, *, columns: int = 8, ax: Axes | None = None) -> Axes:
    """Patterns (N,) + E as a grid of pictures, ink black on white."""
    images = [_image(pattern).cpu().numpy() for pattern in patterns]
    (height, width), gap = images[0].shape, 2
    rows = -(-len(images) // columns)
    canvas = np.zeros((rows * (height + gap) - gap, columns * (width + gap) - gap))
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        canvas[top : top + height, left : left + width] = image
    ax = _axes(ax, (0.7 * columns, 0.7 * rows * height / width))
    ax.imshow(1 - canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax
