"""Figures of the diagnostics; every function draws into ``ax``, or a new figure, and returns the Axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva.calibration import CalibrationRanks, rank_counts
from pyro_kanerva.plotting import _BLUE, _ORANGE, _axes
from pyro_kanerva.priors import Prior, as_distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GREY = "#808080"
_SIZE = (5.0, 3.5)
_PRIOR_DRAWS = 2000


def _variable(data: Any, group: str, name: str, caller: str, source: str) -> NDArray[Any]:
    try:
        return np.asarray(data[group][name])
    except KeyError:
        raise ValueError(f'{caller}: data has no "{name}" in its group "{group}"; expected that of {source}.') from None


def _legend_above(ax: Axes, columns: int) -> None:
    """Where it hides no data."""
    ax.legend(
        frameon=False, fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=columns, columnspacing=1.2
    )


def _whole_ticks(ax: Axes, axis: str) -> None:
    from matplotlib.ticker import MaxNLocator

    getattr(ax, axis).set_major_locator(MaxNLocator(12, integer=True))


def _quantiles(memories: NDArray[Any], code: int | None) -> NDArray[Any]:
    """5%, 25%, 50%, 75% and 95% of the norm, or of one entry, of every slot of memories (N, K, C): (5, K)."""
    shown = np.linalg.norm(memories, axis=-1) if code is None else memories[..., code]
    return np.quantile(shown, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)


def forest(
    data: Any, *, code: int | None = None, prior: Prior | None = None, episode: int = 0, ax: Axes | None = None
) -> Axes:
    """One row per slot of a memory: median, 50% interval (thick) and 90% interval (thin) of the posterior.

    Slots whose interval is that of the prior have taken in nothing of the episode.

    :param data: of :func:`~pyro_kanerva.diagnostics.guide_data` or :func:`~pyro_kanerva.diagnostics.mcmc_data`.
    :param code: shows this entry of every slot, ``M[k, code]``; by default the Euclidean norm of ``M[k]``.
    :param prior: the memory prior, whose median and 90% interval are drawn in grey behind the posterior.
    :raises ValueError: if the data hold no memory, or no such episode or code.
    """
    memory = _variable(data, "posterior", "memory", "forest()", "guide_data() or mcmc_data()")
    *_, episodes, slots, size = memory.shape
    for name, index, number in (("episode", episode, episodes), ("code", code or 0, size)):
        if not 0 <= index < number:
            raise ValueError(f"forest(): {name} is {index}; expected 0 to {number - 1}.")
    ax = _axes(ax, _SIZE)
    rows, shade = np.arange(slots), min(1.0, 16 / slots)  # many slots lie close
    drawn = _quantiles(memory[:, :, episode].reshape(-1, slots, size), code)
    ax.hlines(rows, drawn[0], drawn[4], color=_BLUE, linewidth=1.2, zorder=2)
    ax.hlines(
        rows, drawn[1], drawn[3], color=_BLUE, linewidth=1.5 + 3 * shade, zorder=2, label="posterior: median, 50%, 90%"
    )
    ax.plot(drawn[2], rows, "o", color="white", markeredgecolor=_BLUE, markersize=2.5 + 2.5 * shade, zorder=3)
    if prior is not None:
        with torch.no_grad():
            draws = as_distribution(prior).sample(torch.Size([_PRIOR_DRAWS])).cpu().numpy()
        low, _, median, _, high = _quantiles(draws, code)
        ax.barh(rows, high - low, 0.75, low, color="#cccccc", zorder=1, label="prior: median, 90%")
        ax.vlines(median, rows - 0.375, rows + 0.375, color=_GREY, linewidth=1, zorder=1)
    ax.use_sticky_edges = False  # bars would leave no margin
    _legend_above(ax, 2)
    ax.set_ylim(slots - 0.4, -0.6)
    _whole_ticks(ax, "yaxis")
    ax.set_xlabel("norm of the slot" if code is None else f"entry {code} of the slot")
    ax.set_ylabel("slot")
    return ax


def khat_plot(khat: Tensor, *, ax: Axes | None = None) -> Axes:
    """Pareto k-hat of every episode, with lines at 0.5 and at 0.7, above which the guide is not to be trusted.

    Infinite values, of too few or too uneven weights, are drawn at the top edge.

    :param khat: (B,), of :func:`~pyro_kanerva.diagnostics.khat`.
    :raises ValueError: if the shape is another, or there are no episodes, or NaN values.
    """
    if khat.dim() != 1 or not len(khat) or bool(khat.isnan().any()):
        raise ValueError(f"khat_plot(): khat has shape {tuple(khat.shape)}; expected (episodes,), and no NaN values.")
    values = khat.detach().double().cpu().numpy()
    finite = values[np.isfinite(values)]
    bottom = min(0.0, finite.min(initial=0.0)) - 0.05
    top = max(1.0, finite.max(initial=0.0)) + 0.1
    shown = np.clip(values, bottom, top)
    ax = _axes(ax, _SIZE)
    bands = (
        ("good", values <= 0.5, _BLUE, "o"),
        ("fair", (values > 0.5) & (values <= 0.7), "#e69f00", "s"),
        ("not to be trusted", values > 0.7, _ORANGE, "^"),
    )
    for label, chosen, color, marker in bands:
        ax.plot(
            np.flatnonzero(chosen), shown[chosen], marker, color=color, markersize=5, clip_on=False, zorder=3,
            label=f"{label} ({chosen.sum()})",
        )  # fmt: skip
    for threshold, style in ((0.5, ":"), (0.7, "--")):
        ax.axhline(threshold, color=_GREY, linestyle=style, linewidth=1)
        ax.annotate(f" {threshold}", (1, threshold), xycoords=ax.get_yaxis_transform(), va="center", fontsize="small")
    ax.set_ylim(bottom, top)
    ax.set_xlim(-0.5, len(values) - 0.5)
    _whole_ticks(ax, "xaxis")
    ax.set_xlabel("episode")
    ax.set_ylabel("Pareto k-hat")
    _legend_above(ax, 3)
    return ax


def rank_plot(ranks: CalibrationRanks, name: str, *, num_bins: int = 20, ax: Axes | None = None) -> Axes:
    """Histogram of the ranks of one statistic, with the band that holds a bin of uniform ranks in 99% of cases.

    The band is for each bin apart: of 20 bins one lies outside in about 18% of all figures, even if the
    guide is exact. Bins high at both ends show a guide that is too narrow, in the middle one too wide.

    :param name: one of ``ranks.names``.
    :param num_bins: a divisor of ``ranks.num_draws + 1``.
    :raises ValueError: if there is no such statistic, or the bins do not divide the ranks.
    """
    if name not in ranks.names:
        raise ValueError(f'rank_plot(): name is "{name}"; expected one of {", ".join(ranks.names)}.')
    counts = rank_counts(ranks, num_bins)[ranks.names.index(name)].cpu().numpy()
    number = len(ranks.ranks)
    binomial = dist.Binomial(number, torch.tensor(1 / num_bins, dtype=torch.double))
    cumulative = binomial.log_prob(torch.arange(number + 1, dtype=torch.double)).exp().cumsum(0)
    low, high = torch.searchsorted(cumulative, torch.tensor([0.005, 0.995], dtype=torch.double)).tolist()
    width = (ranks.num_draws + 1) / num_bins
    edges = width * np.arange(num_bins + 1) - 0.5
    ax = _axes(ax, _SIZE)
    ax.axhspan(low, high, color="black", alpha=0.18, linewidth=0, zorder=2, label="99% band if uniform")
    ax.axhline(number / num_bins, color="black", linewidth=1, zorder=2)
    inside = (low <= counts) & (counts <= high)
    for chosen, color, hatch, label in ((inside, _BLUE, None, "bin inside"), (~inside, _ORANGE, "///", "bin outside")):
        if chosen.any():
            ax.bar(
                edges[:-1][chosen], counts[chosen], width, align="edge", color=color, alpha=0.6, hatch=hatch,
                edgecolor="white", linewidth=0.8, label=label,
            )  # fmt: skip
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, 1.08 * max(high, counts.max()))
    ax.set_xlabel(f"rank of {name} among {ranks.num_draws} draws")
    ax.set_ylabel("simulations")
    _legend_above(ax, 3)
    return ax


def energy_by_step(data: Any, *, ax: Axes | None = None) -> Axes:
    """The energy of all queries by step: median, and the bands that hold 50% and 90% of the queries.

    :param data: of :func:`~pyro_kanerva.diagnostics.retrieval_data`.
    :raises ValueError: if the data hold no energy.
    """
    energy = _variable(data, "constant_data", "energy", "energy_by_step()", "retrieval_data()")
    energy = energy.reshape(len(energy), -1)
    steps = np.arange(len(energy))
    # no interpolation, so that an infinite energy does not spread
    levels = np.quantile(energy, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1, method="inverted_cdf")
    ax = _axes(ax, _SIZE)
    for (low, high), alpha, label in (((0, 4), 0.2, "90% of queries"), ((1, 3), 0.35, "50% of queries")):
        ax.fill_between(steps, levels[low], levels[high], color=_BLUE, alpha=alpha, linewidth=0, label=label)
    ax.plot(
        steps, levels[2], color=_ORANGE, linewidth=2, marker="o", markersize=4, clip_on=False, zorder=3, label="median"
    )
    _whole_ticks(ax, "xaxis")
    ax.set_xlim(0, max(len(energy) - 1, 1))
    ax.set_xlabel("step (0 is the cue)")
    ax.set_ylabel("energy (nats)")
    _legend_above(ax, 3)
    return ax
