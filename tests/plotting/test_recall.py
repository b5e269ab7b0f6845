"""Figures of queries and draws."""

import numpy as np
import pytest
import torch
from helpers import tick_labels

from pyro_kanerva import Draws, plotting


def test_recall_strips(retrieval, patterns, new_ax):
    ax = plotting.recall_strips(retrieval, patterns, num_cues=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cue", "step 1", "step 2", "step 5", "stored"]
    (image,) = ax.get_images()
    assert image.get_array().shape == (5 * 8 - 3, 3 * 10 - 3, 3)
    shown = image.get_array()[:5, :7]
    wrong = (retrieval.patterns[0, 0, 0, 0] != patterns[0, 0, 0]).numpy()
    assert ((shown[..., 0] != shown[..., 2]) == wrong).all()  # colored where wrong, grey elsewhere
    assert plotting.recall_strips(retrieval, patterns, steps=[5], ax=new_ax) is new_ax


def test_uncertainty(patterns, new_ax):
    draws = Draws((torch.rand(6, *patterns.shape) < 0.5).float(), torch.zeros(6, 3, 8, 2))
    ax = plotting.uncertainty(draws, patterns, num_cues=4, ax=new_ax)
    assert ax is new_ax
    assert tick_labels(ax.yaxis) == ["mean", "deviation", "stored"]
    assert ax.figure.axes[-1].get_ylabel() == "standard deviation"
    canvas = ax.get_images()[0].get_array()
    assert canvas.shape == (3 * 8 - 3, 4 * 10 - 3, 3)
    assert np.asarray(canvas[16:21, :7, 0]) == pytest.approx(1 - patterns[0, 0, 0].numpy())
    assert np.asarray(canvas[:5, :7, 0]) == pytest.approx(1 - draws.patterns[:, 0, 0, 0].mean(0).numpy(), abs=0.01)
    with pytest.raises(ValueError, match=r"uncertainty\(\): 1 draws; expected at least 2"):
        plotting.uncertainty(Draws(draws.patterns[:1], draws.address[:1]), patterns)
