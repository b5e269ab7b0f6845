"""Figures of the diagnostics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyro.distributions as dist
import torch

from pyro_kanerva.diagnostics import CalibrationRanks, rank_counts
from pyro_kanerva.plotting.style import BLUE, ORANGE, Axes, legend_above, new_axes


def rank_plot(ranks: CalibrationRanks, name: str, *, num_bins: int = 20, ax: Axes | None = None) -> Axes:
    """Histogram of the ranks of one statistic, and a 99% band for the counts if ranks are uniform.

    The band holds for a single bin: with 20 bins, at least one lies outside in about 18% of figures even if the guide
    is exact. High bins at both ends show a guide that is too narrow, high bins in the middle one that is too wide.

    :param name: one of ``ranks.names``.
    :param num_bins: a divisor of ``ranks.num_draws + 1``.
    :raises ValueError: if there is no such statistic, or the bins do not divide the ranks.
    """
    if name not in ranks.names:
        raise ValueError(f'rank_plot(): name is "{name}"; expected one of {", ".join(ranks.names)}.')
    counts = rank_counts(ranks, num_bins)[ranks.names.index(name)].cpu().numpy()
    num_simulations = len(ranks.ranks)
    # Under uniform ranks the count of a bin is binomial: the band ends at its 0.5% and 99.5% quantiles.
    binomial = dist.Binomial(num_simulations, torch.tensor(1 / num_bins, dtype=torch.double))
    cumulative = binomial.log_prob(torch.arange(num_simulations + 1, dtype=torch.double)).exp().cumsum(0)
    low, high = torch.searchsorted(cumulative, torch.tensor([0.005, 0.995], dtype=torch.double)).tolist()
    width = (ranks.num_draws + 1) / num_bins
    edges = width * np.arange(num_bins + 1) - 0.5  # an edge lies between two integer ranks
    ax = new_axes(ax, (5.0, 3.5))
    ax.axhspan(low, high, color="black", alpha=0.18, linewidth=0, zorder=2, label="99% band if uniform")
    ax.axhline(num_simulations / num_bins, color="black", linewidth=1, zorder=2)
    inside = (low <= counts) & (counts <= high)
    style: dict[str, Any] = {"align": "edge", "alpha": 0.6, "edgecolor": "white", "linewidth": 0.8}
    for chosen, color, hatch, label in ((inside, BLUE, None, "bin inside"), (~inside, ORANGE, "///", "bin outside")):
        if chosen.any():
            ax.bar(edges[:-1][chosen], counts[chosen], width, color=color, hatch=hatch, label=label, **style)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(0, 1.08 * max(high, counts.max())))
    ax.set(xlabel=f"rank of {name} among {ranks.num_draws} draws", ylabel="simulations")
    legend_above(ax, 3)
    return ax
