"""The tables of the reports."""

import pytest
import torch

from pyro_kanerva.cli import report
from pyro_kanerva.evaluation import RecallError


def test_recall_that_is_worse_than_the_cue():
    worse, equal = (RecallError(torch.tensor([[0.1, last]]), 1.0, torch.ones(1)) for last in (0.2, 0.1))
    assert report._if_worse(worse) == "  worse than the cue"
    assert report._if_worse(equal) == ""


def test_where_queries_end(make_machine, capsys):
    """By T of half, once and twice the slots, as far as the images allow."""
    images = (torch.rand(13, 1, 5, 7) < 0.3).float()  # 6 slots: 4, 2 and 1 episodes
    table = report._attractors(make_machine(), report.HeldOut([], images, 4, 1))
    starts = ("30% salt and pepper, noise known", "30% salt and pepper, noise unknown", "random starts")
    assert list(table) == [f"{length} patterns in 6 slots, {start}" for length in (3, 6, 12) for start in starts]
    assert [row["episodes"] for row in table.values()] == [4] * 3 + [2] * 3 + [1] * 3
    for row in table.values():
        assert list(row["right"]) == list(row["empty"]) == ["own", "other", "mixture", "elsewhere"]
        assert sum(row["right"].values()) == pytest.approx(1)
        assert len(row["error"].mean) == len(row["energy"].mean) == 31
    noisy, _, random = list(table.values())[:3]
    assert noisy["error"].mean[0] == pytest.approx(0.15, abs=0.05)
    assert random["error"].mean[0] == pytest.approx(2 * 0.3 * 0.7, abs=0.08)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-9:]] == ["0.50"] * 3 + ["1.00"] * 3 + ["2.00"] * 3
    assert f"{noisy['right']['elsewhere']:.1%}" in lines[-9]
    fewer = report._attractors(make_machine(), report.HeldOut([], images[:11], 4, 1))
    assert list(fewer) == list(table)[:6]
