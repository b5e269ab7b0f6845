"""Figures of the diagnostics."""

import pytest
import scipy.stats
import torch
from helpers import legend_labels
from matplotlib.colors import to_hex

from pyro_kanerva import plotting
from pyro_kanerva.diagnostics import CalibrationRanks


def test_rank_plot(new_ax):
    ranks = CalibrationRanks(torch.stack([torch.arange(2000) % 100, torch.zeros(2000).long()], -1), ("a", "b"), 99)
    ax = plotting.rank_plot(ranks, "a", ax=new_ax)
    assert ax is new_ax
    band, *bars = ax.patches
    low, high = scipy.stats.binom.ppf([0.005, 0.995], 2000, 1 / 20)
    assert (band.get_y(), band.get_y() + band.get_height()) == (low, high)
    assert [bar.get_height() for bar in bars] == [100] * 20
    assert [bar.get_x() for bar in bars[:2]] == [-0.5, 4.5]
    assert legend_labels(ax) == ["99% band if uniform", "bin inside"]
    assert ax.get_xlabel() == "rank of a among 99 draws"
    ax = plotting.rank_plot(ranks, "b", num_bins=10)
    assert sorted(bar.get_height() for bar in ax.patches[1:]) == [0] * 9 + [2000]
    assert legend_labels(ax) == ["99% band if uniform", "bin outside"]
    assert {to_hex(bar.get_facecolor()) for bar in ax.patches[1:]} == {"#d55e00"}
    with pytest.raises(ValueError, match='name is "c"; expected one of a, b'):
        plotting.rank_plot(ranks, "c")
    with pytest.raises(ValueError, match="num_bins is 7"):
        plotting.rank_plot(ranks, "a", num_bins=7)
