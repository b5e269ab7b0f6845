"""Figures of the diagnostics."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import torch

from pyro_kanerva.diagnostics import CalibrationRanks, rank_counts
from pyro_kanerva.plotting.style import BLUE, ORANGE, Axes, legend_above, new_axes


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
    ax = new_axes(ax, (5.0, 3.5))
    ax.axhspan(low, high, color="black", alpha=0.18, linewidth=0, zorder=2, label="99% band if uniform")
    ax.axhline(number / num_bins, color="black", linewidth=1, zorder=2)
    inside = (low <= counts) & (counts <= high)
    for chosen, color, hatch, label in ((inside, BLUE, None, "bin inside"), (~inside, ORANGE, "///", "bin outside")):
        if chosen.any():
            ax.bar(
                edges[:-1][chosen], counts[chosen], width, align="edge", color=color, alpha=0.6, hatch=hatch,
                edgecolor="white", linewidth=0.8, label=label,
            )  # fmt: skip
    ax.set_xlim(edges[0], edges[-1])
    ax.set_ylim(0, 1.08 * max(high, counts.max()))
    ax.set_xlabel(f"rank of {name} among {ranks.num_draws} draws")
    ax.set_ylabel("simulations")
    legend_above(ax, 3)
    return ax
