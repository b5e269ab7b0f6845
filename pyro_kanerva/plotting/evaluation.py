"""Figures of training, bounds and evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pyro_kanerva.evaluation import ROC, Curve
from pyro_kanerva.model import Bound
from pyro_kanerva.plotting.style import BLUE, COLORS, ORANGE, Axes, legend, line_styles, new_axes, plain_labels

_LEAST_RATE = 1e-3  # the left end of the axis of a ROC curve


def training_curve(
    steps: Sequence[int],
    negative_bound: Sequence[float],
    negative_conditional_bound: Sequence[float],
    *,
    ax: Axes | None = None,
) -> Axes:
    """Negative bound and negative conditional bound of the training episodes as functions of the step.

    The arguments are columns of ``metrics.jsonl``, or fields of :class:`pyro_kanerva.FitStep`.
    """
    ax = new_axes(ax, (5, 3.2))
    ax.plot(steps, negative_bound, color=BLUE, label="negative bound")
    ax.plot(steps, negative_conditional_bound, color=ORANGE, linestyle="--", label="negative conditional bound")
    ax.set(xlabel="training step", ylabel="nats per pattern (lower is better)", yscale="log")
    ax.yaxis.set_major_formatter("{x:.0f}")
    ax.yaxis.set_minor_formatter("{x:.0f}")
    ax.legend(frameon=False)
    return ax


def bound_terms(bounds: Mapping[str, Bound], *, ax: Axes | None = None) -> Axes:
    """The terms of the negative bound of every entry as a stacked bar, in nats per pattern, means over episodes.

    The code KL appears only if it is not zero in some entry.

    :raises ValueError: if there are no bounds.
    """
    if not bounds:
        raise ValueError("bound_terms(): there are no bounds; expected at least one.")
    ax = new_axes(ax, (7, 1.2 + 0.45 * len(bounds)))
    parts = [
        ("negative reconstruction", BLUE, "", [-bound.reconstruction.mean().item() for bound in bounds.values()]),
        ("address KL", ORANGE, "//", [bound.address_kl.mean().item() for bound in bounds.values()]),
        ("code KL", COLORS[3], "xx", [bound.code_kl.mean().item() for bound in bounds.values()]),
        ("memory KL", COLORS[2], "..", [bound.memory_kl.mean().item() for bound in bounds.values()]),
    ]
    if not any(parts[2][3]):  # no code is latent
        del parts[2]
    names, start = list(bounds), np.zeros(len(bounds))
    for label, color, hatch, width in parts:
        ax.barh(names, width, 0.7, start, color=color, hatch=hatch, edgecolor="white", label=label)
        start = start + width
    for place, total in enumerate(start.tolist()):
        ax.annotate(f"{total:.1f}", (total, place), (3, 0), textcoords="offset points", va="center")
    ax.invert_yaxis()
    ax.margins(x=0.12)
    ax.set_xlabel("negative bound in nats per pattern (lower is better)")
    ax.legend(frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(parts))
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
    """A line with markers for every curve, and its 95% interval over episodes as a pale band.

    :param curves: up to 8, by name, for example from :mod:`pyro_kanerva.evaluation`.
    :param percent: True to label y, a share, in percent.
    :raises ValueError: if there are no curves, or more than 8.
    """
    styles = line_styles(curves, "curves()")
    ax = new_axes(ax, (7.5 if len(curves) > 4 else 5, 3.2))  # wider for a legend beside the axes
    for style, curve in zip(styles, curves.values(), strict=True):
        ax.plot(curve.x, curve.mean, markersize=4, linewidth=1.5, **style)
        ax.fill_between(curve.x, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
    ax.set(xscale="log" if log_x else "linear", yscale="log" if log_y else "linear", xlabel=xlabel, ylabel=ylabel)
    plain_labels(ax.xaxis, log=log_x)
    plain_labels(ax.yaxis, log=log_y, percent=percent)
    legend(ax, outside=len(curves) > 4)
    return ax


def roc_curve(rocs: Mapping[str, ROC], *, ax: Axes | None = None) -> Axes:
    """The true positive rate as a function of the false positive rate, on a log axis from 0.001.

    Smaller false positive rates are drawn at the left edge. The dotted line is random guessing.

    :param rocs: up to 8, by name.
    :raises ValueError: if there are no curves, or more than 8.
    """
    styles = line_styles(rocs, "roc_curve()")
    ax = new_axes(ax, (7, 3.6))
    guessing = np.geomspace(_LEAST_RATE, 1)
    ax.plot(guessing, guessing, color="grey", linestyle=":", linewidth=1, label="guessing")
    for style, roc in zip(styles, rocs.values(), strict=True):
        style |= {"label": f"{style['label']} (AUC {roc.auc:.3f})", "marker": None}  # too many points for markers
        x, y = (torch.as_tensor(rate).cpu().numpy() for rate in (roc.false_positive_rate, roc.true_positive_rate))
        ax.plot(np.maximum(x, _LEAST_RATE), y, linewidth=1.5, drawstyle="steps-post", **style)
    ax.set(xscale="log", xlim=(_LEAST_RATE, 1), ylim=(0, 1.02), box_aspect=1)
    plain_labels(ax.xaxis, log=True)
    ax.set(xlabel="unstored patterns called stored", ylabel="stored patterns called stored")
    legend(ax, outside=True)  # inside, it would hide a curve
    return ax
