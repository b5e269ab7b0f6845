"""Figures of recalled patterns and of their uncertainty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva.memory import Draws
from pyro_kanerva.plotting.images import as_picture, check_drawn, is_binary, strips, tile, value_range
from pyro_kanerva.plotting.style import Axes, legend_above, line_styles, new_axes
from pyro_kanerva.retrieval import Retrieval

_WRONG_INK, _MISSING_INK, _HIDDEN = (0.84, 0.37, 0.0), (1.0, 0.75, 0.5), (0.55, 0.55, 0.55)
_PAPER = 0.93  # the gray of paper without ink


def recall_strips(
    retrieval: Retrieval,
    stored: Tensor,
    *,
    steps: Sequence[int] | None = None,
    num_cues: int = 8,
    ink: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """A column for every cue of the first memory: the cue, the pattern after some steps, and the stored pattern.

    Wrong entries of binary patterns are orange: dark for ink that should not be there, pale for missing ink. Real
    vectors, patterns of one dimension, are lines: the patterns stand side by side.

    :param stored: the patterns (B, Q) + E of the cues.
    :param steps: the steps to show, from 0 to the last; by default 1, 2 and the last, and of vectors only the last.
    :param ink: as for :func:`image_grid`.
    :raises ValueError: if there is nothing to draw, or a step is not one of the retrieval.
    """
    check_drawn("recall_strips()", stored, num_cues=num_cues)
    last = len(retrieval.patterns) - 1
    as_lines = _are_lines(stored)
    if steps is None:
        steps = [last] if as_lines else [step for step in (1, 2, last) if step <= last]
    if not set(steps) <= set(range(last + 1)):
        raise ValueError(f"recall_strips(): steps are {list(steps)}; expected 0 to {last}, the steps of the retrieval.")
    steps = list(dict.fromkeys((0, *steps)))
    target = stored[0, :num_cues]
    rows = {f"step {step}" if step else "cue": retrieval.patterns[step, 0, :num_cues] for step in steps}
    if as_lines:
        return _lines({"stored": target, **rows}, ax)
    shown, limits = {**rows, "stored": target}, value_range(stored)
    mark = is_binary(stored)
    tiles = [[_tile(*pair, limits, ink, mark) for pair in zip(row, target, strict=True)] for row in shown.values()]
    return strips(tiles, list(shown), ax)


def recall_comparison(
    patterns: Tensor,
    cues: Tensor,
    recalled: Mapping[str, Tensor],
    *,
    hidden: Tensor | None = None,
    num_cues: int = 8,
    ink: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """What several memories recall from the same cues: a column for every cue of the first memory.

    The rows are the stored patterns, the cues, and what is recalled, a row for each entry of ``recalled``. Wrong
    entries of recalled binary patterns are orange: dark for ink that should not be there, pale for missing ink. Real
    vectors, patterns of one dimension, are lines: the patterns stand side by side.

    :param patterns: the stored patterns (B, Q) + E.
    :param cues: their damaged copies (B, Q) + E.
    :param recalled: for each label of a row, patterns (B, Q) + E, such as ``retrieval.patterns[-1]``.
    :param hidden: bool, broadcastable to E: entries that the cues do not show, gray in their row.
    :param ink: as for :func:`image_grid`.
    :raises ValueError: if ``recalled`` is empty, or shapes differ.
    """
    check_drawn("recall_comparison()", patterns, num_cues=num_cues)
    if not recalled:
        raise ValueError("recall_comparison(): recalled is empty; expected at least one label and its patterns.")
    for name, tensor in {"cues": cues, **{f"recalled[{label!r}]": x for label, x in recalled.items()}}.items():
        if tensor.shape != patterns.shape:
            raise ValueError(
                f"recall_comparison(): {name} has shape {tuple(tensor.shape)}; expected that of the stored patterns, "
                f"{tuple(patterns.shape)}. Pass the recalled patterns of one step, such as retrieval.patterns[-1]."
            )
    from matplotlib.patches import Patch

    stored, shown = patterns[0, :num_cues], cues[0, :num_cues]
    if _are_lines(patterns):
        if hidden is not None:
            shown = shown.masked_fill(hidden.to(shown.device), torch.nan)
        return _lines({"stored": stored, "cue": shown, **{name: x[0, :num_cues] for name, x in recalled.items()}}, ax)
    limits, mark = value_range(patterns), is_binary(patterns)
    cue_tiles = [_tile(cue, cue, limits, ink) for cue in shown]
    legend = {"wrong ink": _WRONG_INK, "missing ink": _MISSING_INK} if mark else {}
    if hidden is not None:
        mask = as_picture(hidden.expand(patterns.shape[2:]))
        for picture in cue_tiles:
            picture[mask] = _HIDDEN if mask.ndim == 2 else _HIDDEN[0]
        legend["hidden"] = _HIDDEN
    rows = [[_tile(pattern, pattern, limits, ink) for pattern in stored], cue_tiles]
    for x in recalled.values():
        rows.append([_tile(*pair, limits, ink, mark) for pair in zip(x[0, :num_cues], stored, strict=True)])
    ax = strips(rows, ["stored", "cue", *recalled], ax, below=0.3 if legend else 0)
    if not legend:
        return ax
    patches = [Patch(facecolor=color, edgecolor="black", linewidth=0.5, label=name) for name, color in legend.items()]
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "ncols": len(patches)}
    ax.legend(handles=patches, frameon=False, fontsize="small", **place)
    return ax


def _tile(pattern: Tensor, stored: Tensor, limits: tuple[float, float], ink: bool, mark: bool = False) -> NDArray[Any]:
    """A color tile (height, width, 3), ink black on light gray; with ``mark`` wrong entries are orange."""
    colored = tile(pattern, limits, ink)
    picture, target = as_picture(pattern), as_picture(stored)
    if ink and picture.ndim == 2:
        colored = _PAPER * colored
    if mark and picture.ndim == 2:
        colored[picture > target] = _WRONG_INK
        colored[picture < target] = _MISSING_INK
    return colored


def _are_lines(patterns: Tensor) -> bool:
    """True if patterns (B, Q) + E are real vectors."""
    return patterns.dim() == 3 and not is_binary(patterns)


def _lines(rows: Mapping[str, Tensor], ax: Axes | None) -> Axes:
    """Vectors (N, size) as lines, the N of a row side by side: the stored ones pale and wide, cues as dots."""
    number, size = rows["stored"].shape
    ax = new_axes(ax, (1.5 + 1.5 * number, 3))
    gap = max(1, size // 8)
    x = np.arange(number * (size + gap)).reshape(number, size + gap)
    for style, (name, row) in zip(line_styles(rows, "recall_comparison()"), rows.items(), strict=True):
        y = np.full(x.shape, np.nan)  # a gap of NaN ends the line of a vector
        y[:, :size] = row.detach().cpu().numpy()
        style |= {"markersize": 3, "marker": "", "linewidth": 1.5}
        if name == "stored":
            style |= {"color": "#808080", "linewidth": 4, "alpha": 0.5}
        elif name == "cue":
            style |= {"color": "#000000", "linestyle": "", "marker": "."}
        ax.plot(x.flatten(), y.flatten(), **style)
    ax.set_xticks(x[:, size // 2], [str(index) for index in range(number)])
    ax.set(xlabel="pattern, its entries from left to right")
    legend_above(ax, len(rows))
    return ax


def uncertainty(draws: Draws, stored: Tensor, *, num_cues: int = 8, ink: bool = True, ax: Axes | None = None) -> Axes:
    """A column for every cue of the first memory: mean and standard deviation over draws, and the stored pattern.

    The deviation of a pixel of color images is the root mean square over its colors.

    :param draws: from :meth:`pyro_kanerva.Memory.sample`, two or more.
    :param stored: the patterns (B, Q) + E of the cues.
    :param ink: as for :func:`image_grid`.
    :raises ValueError: if there are fewer than two draws.
    """
    check_drawn("uncertainty()", stored, num_cues=num_cues)
    if len(draws.patterns) < 2:
        raise ValueError(f"uncertainty(): {len(draws.patterns)} draws; expected at least 2, for a standard deviation.")
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    drawn, target = draws.patterns[:, 0, :num_cues].double().cpu(), stored[0, :num_cues].double().cpu()
    mean, deviation = drawn.mean(0), drawn.std(0)
    if deviation.dim() == 4 and deviation.shape[1] == 3:
        deviation = deviation.square().mean(1, keepdim=True).sqrt()
    color = ScalarMappable(Normalize(0, max(deviation.max().item(), 1e-6)), colormaps["viridis"])
    limits = value_range(target)
    rows = [
        [tile(pattern, limits, ink) for pattern in mean],
        [color.to_rgba(as_picture(pattern))[..., :3] for pattern in deviation],
        [tile(pattern, limits, ink) for pattern in target],
    ]
    ax = strips(rows, ["mean", "deviation", "stored"], ax)
    ax.figure.colorbar(color, ax=ax, label="standard deviation", fraction=0.05, pad=0.02)
    return ax
