"""Curves and bars: training, bounds, evaluation."""

import math

import pytest
import torch
from helpers import legend_labels, tick_labels

from pyro_kanerva import Bound, plotting
from pyro_kanerva.evaluation import ROC, Curve


def test_training_curve():
    ax = plotting.training_curve([1, 2, 3], [300.0, 200.0, 150.0], [250.0, 180.0, 140.0])
    assert ax.get_ylabel() == "nats per pattern (lower is better)"
    assert [line.get_ydata().tolist() for line in ax.get_lines()] == [[300, 200, 150], [250, 180, 140]]


@pytest.mark.parametrize("latent", [False, True])
def test_bound_terms(latent):
    code_kl = torch.full((5,), 2.0) if latent else torch.zeros(5)
    bounds = {
        name: Bound(-torch.rand(5) * 50, torch.rand(5) * 9, torch.rand(5) * 4, code_kl) for name in ("one", "other")
    }
    ax = plotting.bound_terms(bounds)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["negative reconstruction", "address KL", *["code KL"] * latent, "memory KL"]
    ends = [max(bar.get_x() + bar.get_width() for bar in bars) for bars in zip(*ax.containers, strict=True)]
    expected = [-bound.bound.mean().item() for bound in bounds.values()]
    assert ends == pytest.approx(expected, rel=1e-5)
    assert [text.get_text() for text in ax.texts] == [f"{value:.1f}" for value in expected]
    with pytest.raises(ValueError, match="at least one"):
        plotting.bound_terms({})


def curves(number):
    return {
        f"method {i}": Curve([1.0, 10.0, 100.0], [0.1, 0.2, 0.4], [0.0, 0.1, 0.3], [0.2, 0.3, 0.5])
        for i in range(number)
    }


@pytest.mark.parametrize("number", [1, 8])
def test_curves(number, new_ax):
    ax = plotting.curves(curves(number), xlabel="stored patterns", ylabel="wrong pixels", percent=True, ax=new_ax)
    assert ax is new_ax
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("stored patterns", "wrong pixels")
    assert "20%" in tick_labels(ax.yaxis)
    assert len(ax.get_lines()) == len(ax.collections) == number  # a band for each
    assert len({(line.get_color(), line.get_marker()) for line in ax.get_lines()}) == number
    assert legend_labels(ax) == list(curves(number))


def test_curves_on_log_axes():
    ax = plotting.curves(curves(2), xlabel="patterns", ylabel="error", log_x=True, log_y=True)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert {"1", "10", "100"} <= set(tick_labels(ax.xaxis))
    assert {"2", "5", "20", "50"} <= set(tick_labels(ax.xaxis, minor=True))


@pytest.mark.parametrize("number", [0, 9])
def test_curves_are_few(number):
    with pytest.raises(ValueError, match=rf"curves\(\): {number} entries; expected 1 to 8"):
        plotting.curves(curves(number), xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match=rf"roc_curve\(\): {number} entries"):
        plotting.roc_curve({str(i): ROC([0.0, 1.0], [0.0, 1.0], [math.inf, 0.0], 0.5) for i in range(number)})


def test_roc_curve(new_ax):
    roc = ROC([0.0, 0.0, 0.01, 1.0], [0.0, 0.9, 0.95, 1.0], [math.inf, 3.0, 2.0, 1.0], 0.9934)
    ax = plotting.roc_curve({"memory": roc}, ax=new_ax)
    assert ax is new_ax
    guessing, line = ax.get_lines()
    assert guessing.get_linestyle() == ":"
    assert line.get_label() == "memory (AUC 0.993)"
    assert list(line.get_xdata()) == [1e-3, 1e-3, 0.01, 1.0]  # rates of 0 are at the edge of the log axis
    assert ax.get_box_aspect() == 1
    plotting.roc_curve({"memory": roc._replace(false_positive_rate=torch.tensor(roc.false_positive_rate))})
