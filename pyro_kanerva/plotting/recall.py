"""Figures of recalled patterns and of their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva.memory import Draws
from pyro_kanerva.plotting.images import as_picture, strips
from pyro_kanerva.plotting.style import Axes
from pyro_kanerva.retrieval import Retrieval

_WRONG_INK, _MISSING_INK, _HIDDEN = (0.84, 0.37, 0.0), (1.0, 0.75, 0.5), (0.55, 0.55, 0.55)


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
    return strips([[_marked(*pair) for pair in zip(row, rows[-1], strict=True)] for row in rows], labels, ax)


def recall_comparison(
    patterns: Tensor,
    cues: Tensor,
    recalled: Mapping[str, Tensor],
    *,
    hidden: Tensor | None = None,
    num_cues: int = 8,
    ax: Axes | None = None,
) -> Axes:
    """What several memories recall from the same cues: a column for every cue of the first memory.

    The rows are the stored patterns, the cues, and what is recalled, a row for each entry of ``recalled``. Wrong
    entries of what is recalled are orange: dark for ink that should not be there, pale for missing ink.

    :param patterns: the stored patterns (B, Q) + E.
    :param cues: their damaged copies (B, Q) + E.
    :param recalled: for each label of a row, patterns (B, Q) + E, such as ``retrieval.patterns[-1]``.
    :param hidden: bool, broadcastable to E: entries that the cues do not show, gray in their row.
    :raises ValueError: if ``recalled`` is empty, or shapes differ.
    """
    if not recalled:
        raise ValueError("recall_comparison(): recalled is empty; expected at least one label and its patterns.")
    for name, tensor in {"cues": cues, **{f"recalled[{label!r}]": x for label, x in recalled.items()}}.items():
        if tensor.shape != patterns.shape:
            raise ValueError(
                f"recall_comparison(): {name} has shape {tuple(tensor.shape)}; expected that of the stored patterns, "
                f"{tuple(patterns.shape)}. Pass the recalled patterns of one step, such as retrieval.patterns[-1]."
            )
    from matplotlib.patches import Patch

    stored = patterns[0, :num_cues]
    cue_tiles = [_ink(cue) for cue in cues[0, :num_cues]]
    legend = {"wrong ink": _WRONG_INK, "missing ink": _MISSING_INK}
    if hidden is not None:
        mask = as_picture(hidden.expand(patterns.shape[2:])).cpu().numpy()
        for tile in cue_tiles:
            tile[mask] = _HIDDEN
        legend["hidden"] = _HIDDEN
    rows = [[_ink(pattern) for pattern in stored], cue_tiles]
    for x in recalled.values():
        rows.append([_marked(*pair) for pair in zip(x[0, :num_cues], stored, strict=True)])
    ax = strips(rows, ["stored", "cue", *recalled], ax, below=0.3)
    patches = [Patch(facecolor=color, edgecolor="black", linewidth=0.5, label=name) for name, color in legend.items()]
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": len(patches)}
    ax.legend(handles=patches, frameon=False, fontsize="small", **place)
    return ax


def _ink(pattern: Tensor) -> NDArray[Any]:
    """A color tile (height, width, 3), ink black on light gray."""
    image = as_picture(pattern).cpu().numpy()
    return np.repeat(0.93 * (1 - image)[..., None], 3, -1)


def _marked(pattern: Tensor, stored: Tensor) -> NDArray[Any]:
    """The same with the wrong entries in orange."""
    image, target = (as_picture(x).cpu().numpy() for x in (pattern, stored))
    colored = _ink(pattern)
    colored[image > target] = _WRONG_INK
    colored[image < target] = _MISSING_INK
    return colored


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
