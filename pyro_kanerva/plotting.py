"""Figures; every function draws into ``ax``, or a new figure, and returns the Axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva.channels import Channel
from pyro_kanerva.memory import Memory
from pyro_kanerva.retrieval import Retrieval
from pyro_kanerva.sampling import Draws

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from pyro_kanerva.bound import Bound
    from pyro_kanerva.evaluation import ROC, Curve

_BLUE, _ORANGE = "#0072b2", "#d55e00"  # distinguishable to color-blind readers, and in grey
# Okabe and Ito's colors, with grey for their yellow, which is too pale for a line.
_COLORS = (_BLUE, _ORANGE, "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00", "#808080")
_LINES, _MARKERS = ("-", "--", "-.", ":"), "osD^vPX*"
_LEAST_RATE = 1e-3  # where the axis of a ROC curve starts
_GAP = 3  # pixels between pictures


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").add_subplot()


def _styles(names: Mapping[str, object], caller: str) -> list[dict[str, Any]]:
    """Color, line and marker of every entry."""
    if not 1 <= len(names) <= len(_COLORS):
        raise ValueError(f"{caller}: {len(names)} entries; expected 1 to {len(_COLORS)}, which can be told apart.")
    looks = zip(names, _COLORS, _LINES * 2, _MARKERS, strict=False)
    return [{"label": name, "color": color, "linestyle": line, "marker": mark} for name, color, line, mark in looks]


def _plain_labels(axis: Axis, *, log: bool, percent: bool = False) -> None:
    """Numbers as people write them, 0.01 or 1%; on a short log axis also at 2 and 5 times a power of ten."""

    def label(value: float, _: float = 0) -> str:
        return f"{100 * value:.6g}%" if percent else f"{value:.6g}"

    def minor(value: float, _: float = 0) -> str:
        low, high = axis.get_view_interval()
        leading = round(value / 10 ** math.floor(math.log10(value) + 1e-9), 6)
        return label(value) if leading in (2, 5) and high < 300 * low else ""

    if log or percent:
        axis.set_major_formatter(label)
    if log:
        axis.set_minor_formatter(minor)


def _legend(ax: Axes, *, outside: bool) -> None:
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if outside else {}
    ax.legend(frameon=False, fontsize="small", **place)


def _image(pattern: Tensor) -> Tensor:
    """A pattern of shape E as a picture (height, width)."""
    if pattern.dim() == 3 and pattern.shape[0] == 1:
        return pattern[0]
    return pattern if pattern.dim() == 2 else pattern.flatten().unsqueeze(0)


def _mosaic(rows: Sequence[Sequence[NDArray[Any]]], gap: int) -> NDArray[Any]:
    """Tiles (height, width) or (height, width, 3) on white."""
    height, width, *colors = rows[0][0].shape
    canvas = np.ones((len(rows) * (height + gap) - gap, len(rows[0]) * (width + gap) - gap, *colors))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = tile
    return canvas


def _strips(rows: Sequence[Sequence[NDArray[Any]]], labels: Sequence[str], ax: Axes | None) -> Axes:
    """Labeled rows of color tiles (height, width, 3)."""
    height, width, _ = rows[0][0].shape
    ax = _axes(ax, (0.9 * len(rows[0]) + 0.8, 0.9 * len(rows) * height / width))
    ax.imshow(_mosaic(rows, _GAP), interpolation="nearest")
    ax.set_yticks([i * (height + _GAP) + height / 2 for i in range(len(rows))], labels)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


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
    too_much, missing = np.array([0.84, 0.37, 0.0]), np.array([1.0, 0.75, 0.5])

    def tile(pattern: Tensor, stored: Tensor) -> NDArray[Any]:
        image, target = (_image(pattern).cpu().numpy() for pattern in (pattern, stored))
        colored = np.repeat(0.93 * (1 - image)[..., None], 3, -1)
        colored[image > target] = too_much
        colored[image < target] = missing
        return colored

    return _strips([[tile(*pair) for pair in zip(row, rows[-1], strict=True)] for row in rows], labels, ax)


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


def bound_terms(bounds: Mapping[str, Bound], *, ax: Axes | None = None) -> Axes:
    """What the negative bound of every entry consists of, stacked: nats per pattern, means over episodes.

    The code KL is shown where any codes are latent.

    :raises ValueError: if there are no bounds.
    """
    if not bounds:
        raise ValueError("bound_terms(): there are no bounds; expected at least one.")
    ax = _axes(ax, (7, 1.2 + 0.45 * len(bounds)))
    parts = [
        ("negative reconstruction", _BLUE, "", [-bound.reconstruction.mean().item() for bound in bounds.values()]),
        ("address KL", _ORANGE, "//", [bound.address_kl.mean().item() for bound in bounds.values()]),
        ("code KL", _COLORS[3], "xx", [bound.code_kl.mean().item() for bound in bounds.values()]),
        ("memory KL", _COLORS[2], "..", [bound.memory_kl.mean().item() for bound in bounds.values()]),
    ]
    if not any(parts[2][3]):
        del parts[2]
    names, start = list(bounds), np.zeros(len(bounds))
    for label, color, hatch, width in parts:
        ax.barh(names, width, 0.7, start, color=color, hatch=hatch, edgecolor="white", label=label)
        start = start + width
    for place, total in enumerate(start.tolist()):
        ax.annotate(f"{total:.1f}", (total, place), (3, 0), textcoords="offset points", va="center")
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel("negative bound in nats per pattern (low is good)")
    ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(parts))
    return ax


def image_grid(patterns: Tensor, *, columns: int = 8, ax: Axes | None = None) -> Axes:
    """Patterns (N,) + E as a grid of pictures, ink black on white."""
    tiles = [1 - _image(pattern).cpu().numpy() for pattern in patterns]
    (height, width), rows = tiles[0].shape, -(-len(tiles) // columns)
    tiles += [np.ones((height, width))] * (rows * columns - len(tiles))
    ax = _axes(ax, (0.7 * columns, 0.7 * rows * height / width))
    grid = _mosaic([tiles[row * columns : (row + 1) * columns] for row in range(rows)], gap=2)
    ax.imshow(grid, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_axis_off()
    return ax


def curves(
    curves: Mapping[str, Curve],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    percent: bool = False,
    ax: Axes | None = None,
) -> Axes:
    """A line with markers per entry, with its 95% interval over episodes as a pale band.

    :param curves: up to 8, by name, for instance from :mod:`pyro_kanerva.evaluation`.
    :param xlabel: with the unit, like ``ylabel``.
    :param percent: y is a share, and labeled in percent.
    :raises ValueError: if there are no curves, or more than 8.
    """
    styles = _styles(curves, "curves()")
    ax = _axes(ax, (7.5 if len(curves) > 4 else 5, 3.2))
    for style, curve in zip(styles, curves.values(), strict=True):
        ax.plot(curve.x, curve.mean, markersize=4, linewidth=1.5, **style)
        ax.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear", xlabel=xlabel, ylabel=ylabel)
    _plain_labels(ax.xaxis, log=log_x)
    _plain_labels(ax.yaxis, log=log_y, percent=percent)
    _legend(ax, outside=len(curves) > 4)
    return ax


def roc_curve(rocs: Mapping[str, ROC], *, ax: Axes | None = None) -> Axes:
    """How many stored patterns are recognized, by the share of false alarms, on a log axis from 0.001.

    Rates below that are drawn at the left edge; the dotted line is that of guessing.

    :param rocs: up to 8, by name.
    :raises ValueError: if there are no curves, or more than 8.
    """
    styles = _styles(rocs, "roc_curve()")
    ax = _axes(ax, (7, 3.6))
    guessing = np.geomspace(_LEAST_RATE, 1)
    ax.plot(guessing, guessing, color="grey", linestyle=":", linewidth=1, label="guessing")
    for style, roc in zip(styles, rocs.values(), strict=True):
        style |= {"label": f"{style['label']} (AUC {roc.auc:.3f})", "marker": None}
        x, y = (torch.as_tensor(rate).cpu().numpy() for rate in (roc.false_positive_rate, roc.true_positive_rate))
        ax.plot(np.maximum(x, _LEAST_RATE), y, linewidth=1.5, drawstyle="steps-post", **style)
    ax.set_xscale("log")
    _plain_labels(ax.xaxis, log=True)
    ax.set_xlim(_LEAST_RATE, 1)
    ax.set_ylim(0, 1.02)
    ax.set_box_aspect(1)
    ax.set_xlabel("unstored patterns called stored")
    ax.set_ylabel("stored patterns called stored")
    _legend(ax, outside=True)  # the curves leave no corner free
    return ax


def energy_landscape(
    memory: Memory,
    cues: Tensor,
    channel: Channel | None = None,
    *,
    retrieval: Retrieval | None = None,
    extent: float = 4.0,
    resolution: int = 81,
    ax: Axes | None = None,
) -> Axes:
    """The energy over all addresses w of a memory with two slots, and the way of queries through it.

    The landscape is that of the first cue: ``-log p(c | w, M) - log p(w)`` under ``channel``, else
    ``-log p(x | w, M) - log p(w)`` at x = c. Levels are dense near the minimum.

    :param memory: a single one, B = 1, of K = 2 slots.
    :param cues: (1, Q) + E, or (Q,) + E.
    :param retrieval: the addresses of all its queries are drawn, from a circle to a star. For the path to
        lie in this landscape it is one of the same cue, channel and energy: ``memory.query(cues[:, :1], ...)``.
        Without a channel the pattern, and with it the landscape, changes in every step; draw that of
        ``retrieval.patterns[-1]`` for where the query ended.
    :param extent: addresses from ``-extent`` to ``extent``; more where a query starts or ends beyond.
    :param resolution: addresses along each axis.
    :raises ValueError: if K is not 2 or B not 1, of the memory or the retrieval, or an argument does not fit.
    """
    (batch,), (slots, _) = memory.posterior.batch_shape, memory.posterior.event_shape
    if (batch, slots) != (1, 2):
        raise ValueError(
            f"energy_landscape(): {batch} memories of {slots} slots; expected 1 memory of 2 slots, which are the axes."
        )
    path = None if retrieval is None else retrieval.address.cpu()
    if path is not None and (path.shape[1], path.shape[3]) != (1, 2):
        raise ValueError(
            f"energy_landscape(): retrieval.address has shape {tuple(path.shape)}; expected (S + 1, 1, Q, 2)."
        )
    if not extent > 0 or resolution < 2:
        raise ValueError(f"energy_landscape(): extent is {extent}, resolution {resolution}; expected > 0, at least 2.")
    from matplotlib.colors import BoundaryNorm
    from matplotlib.patheffects import withStroke

    extent = extent if path is None else max(extent, 1.1 * path.abs().max().item())
    side = torch.linspace(-extent, extent, resolution, dtype=memory.posterior.loc.dtype)
    grid = torch.cartesian_prod(side, side).unsqueeze(0).to(memory.posterior.loc.device)
    cues = memory.machine.check_patterns(cues, "energy_landscape()", "cues", memory.event_shape)[:, :1]
    with torch.no_grad():
        energy = memory.energy(grid, cues, channel=channel).view(resolution, resolution).mT.double().cpu().numpy()
    energy = np.ma.masked_invalid(energy)
    lowest, span = float(energy.min()), max(float(np.ptp(energy)), 1e-6)
    levels = lowest + span * np.concatenate([[0.0], np.geomspace(0.005, 1, 15)])
    ax = _axes(ax, (5, 4))
    norm = BoundaryNorm(levels, 256)
    filled = ax.contourf(side, side, energy, levels=levels, norm=norm, cmap="viridis")
    bar = ax.figure.colorbar(filled, ax=ax, label="energy (nats)", ticks=levels[::3])
    bar.ax.set_yticklabels([f"{level:.{1 if span > 10 else 3}f}" for level in levels[::3]])
    if path is not None:
        outline = [withStroke(linewidth=3, foreground="black")]
        for way in path[:, 0].unbind(1):
            ax.plot(*way.T, color="white", linewidth=1.5, marker=".", markersize=4, path_effects=outline)
        start, end = path[0, 0].T, path[-1, 0].T
        shared: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "zorder": 3}
        ax.plot(*start, marker="o", markersize=8, markerfacecolor="white", label="start", **shared)
        ax.plot(*end, marker="*", markersize=14, markerfacecolor="#e69f00", label="end", **shared)
        ax.legend(fontsize="small", framealpha=0.9)
    ax.set_aspect("equal")
    ax.set_xlabel("address of slot 1")
    ax.set_ylabel("address of slot 2")
    return ax


def uncertainty(draws: Draws, stored: Tensor, *, num_cues: int = 8, ax: Axes | None = None) -> Axes:
    """Mean and standard deviation of every entry over the draws, and the stored pattern below.

    One column per cue of the first memory.

    :param draws: of :meth:`pyro_kanerva.Memory.sample`, two or more.
    :param stored: the patterns (B, Q) + E that the cues came from.
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
        [scale.to_rgba(_image(pattern).numpy())[..., :3] for pattern in patterns]
        for scale, patterns in ((grey, mean), (color, deviation), (grey, target))
    ]
    ax = _strips(rows, ["mean", "deviation", "stored"], ax)
    ax.figure.colorbar(color, ax=ax, label="standard deviation", fraction=0.05, pad=0.02)
    return ax
