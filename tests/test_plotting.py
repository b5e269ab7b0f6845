"""Every figure draws into the axes it is given, or new ones, and labels what it shows."""

import pytest
import torch
from matplotlib.figure import Figure

from pyro_kanerva import Flip, plotting


@pytest.fixture
def retrieval(make_machine, patterns):
    return make_machine().write(patterns).query(Flip(0.2)(patterns), num_steps=5, channel=Flip(0.2))


def axes():
    return Figure().add_subplot()


def test_recall_strips(retrieval, patterns):
    ax = plotting.recall_strips(retrieval, patterns, num_cues=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cue", "step 1", "step 2", "step 5", "stored"]
    (image,) = ax.get_images()
    assert image.get_array().shape == (5 * 8 - 3, 3 * 10 - 3, 3)
    shown = image.get_array()[:5, :7]
    wrong = (retrieval.patterns[0, 0, 0, 0] != patterns[0, 0, 0]).numpy()
    assert ((shown[..., 0] != shown[..., 2]) == wrong).all()  # colored where wrong, grey elsewhere
    given = axes()
    assert plotting.recall_strips(retrieval, patterns, steps=[5], ax=given) is given


def test_energy_descent(retrieval):
    given = axes()
    assert plotting.energy_descent(retrieval, ax=given) is given
    assert len(given.get_lines()) == 24 + 1
    assert "nats" in given.get_ylabel()
    plotting.energy_descent(retrieval)


def test_training_curve():
    ax = plotting.training_curve([1, 2, 3], [-300.0, -200.0, -150.0], [-250.0, -180.0, -140.0])
    assert "nats" in ax.get_ylabel()
    assert len(ax.get_lines()) == 2


def test_image_grid():
    ax = plotting.image_grid(torch.rand(10, 1, 5, 7), columns=4)
    assert ax.get_images()[0].get_array().shape == (3 * 7 - 2, 4 * 9 - 2)
