"""Figures of recalled patterns and of their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva.memory import Draws
from pyro_kanerva.plotting.images import as_picture, strips
from pyro_kanerva.plotting.style import Axes
from pyro_kanerva.retrieval import Retrieval


def recall_strips(
    retrieval: Retrieval,
    stored: Tensor,
    *,
    steps: Sequence[int] | None = None,
    num_cues: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """A column for every cue of the first memory: the cue, the pattern after some steps, and the stored pattern.

    Wrong entries are orange: dark for ink that should not be there, pale for missing ink.

    :param stored: the patterns (B, Q) + E of the cues.
    :param steps: the steps to show; by default 1, 2 and the last.
    """
    last = len(retrieval.patterns) - 1
    steps = sorted({0, 1, 2, last}) if steps is None else [0, *steps]
    steps = [step for step in steps if step <= last]
    num_cues = min(num_cues, stored.shape[1])
    rows = [retrieval.patterns[step, 0, :num_cues] for step in steps] + [stored[0, :num_cues]]
    labels = [f"step {step}" if step else "cue" for step in steps] + ["stored"]
    too_much, missing = np.array([0.84, 0.37, 0.0]), np.array([1.0, 0.75, 0.5])

    def tile(pattern: Tensor, stored: Tensor) -> NDArray[Any]:
        image, target = (as_picture(pattern).cpu().numpy() for pattern in (pattern, stored))
        colored = np.repeat(0.93 * (1 - image)[..., None], 3, -1)  # ink black on light grey
        colored[image > target] = too_much
        colored[image < target] = missing
        return colored

    return strips([[tile(*pair) for pair in zip(row, rows[-1], strict=True)] for row in rows], labels, ax)


def uncertainty(draws: Draws, stored: Tensor, *, num_cues: int = 8, ax: Axes | None = None) -> Axes:
    """A column for every cue of the first memory: mean and standard deviation over draws, and the stored pattern.

    :param draws: from :meth:`pyro_kanerva.Memory.sample`, two or more.
    :param stored: the patterns (B, Q) + E of the cues.
    :raises ValueError: if there are fewer than two draws.
    """
    if len(draws.patterns) < 2:
        raise ValueError(f"uncertainty(): {len(draws.patterns)} draws; expected at least 2, for a standard deviation.")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    drawn, target = draws.patterns[:, 0, :num_cues].double().cpu(), stored[0, :num_cues].double().cpu()
    mean, deviation = drawn.mean(0), drawn.std(0)
    ink = Normalize(min(0.0, target.min().item()), max(1.0, target.max().item()), clip=True)
    color = ScalarMappable(Normalize(0, max(deviation.max().item(), 1e-6)), colormaps["viridis"])
    grey = ScalarMappable(ink, colormaps["gray_r"])
    rows = [
        [scale.to_rgba(as_picture(pattern).numpy())[..., :3] for pattern in patterns]
        for scale, patterns in ((grey, mean), (color, deviation), (grey, target))
    ]
    ax = strips(rows, ["mean", "deviation", "stored"], ax)
    ax.figure.colorbar(color, ax=ax, label="standard deviation", fraction=0.05, pad=0.02)
    return ax
