"""Patterns as pictures."""

import numpy as np
import pytest
import torch

from pyro_kanerva import plotting


def test_image_grid():
    ax = plotting.image_grid(torch.rand(10, 1, 5, 7), columns=4)
    assert ax.get_images()[0].get_array().shape == (3 * 7 - 2, 4 * 9 - 2, 3)


@pytest.mark.parametrize("ink", [True, False])
def test_grey_levels_are_drawn_without_loss(ink):
    patterns = torch.arange(70).view(2, 1, 5, 7) / 69
    (image,) = plotting.image_grid(patterns, columns=2, ink=ink).get_images()
    shown = image.get_array()[:, 9:, 0]
    expected = patterns[1, 0].numpy()
    assert np.asarray(shown) == pytest.approx(1 - expected if ink else expected)


def test_entries_outside_of_0_to_1_are_scaled():
    (image,) = plotting.image_grid(torch.linspace(-1, 3, 35).view(1, 1, 5, 7), columns=1, ink=False).get_images()
    assert np.asarray(image.get_array()[..., 0]) == pytest.approx(np.linspace(0, 1, 35).reshape(5, 7), abs=1e-6)


def test_color_images_are_drawn_in_their_colors():
    patterns = torch.rand(2, 3, 5, 7)
    (image,) = plotting.image_grid(patterns, columns=2).get_images()
    assert np.asarray(image.get_array()[:, :7]) == pytest.approx(patterns[0].movedim(0, -1).numpy())


def test_an_empty_grid():
    with pytest.raises(ValueError, match=r"image_grid\(\): patterns have shape \(0, 1, 5, 7\); expected at least one"):
        plotting.image_grid(torch.zeros(0, 1, 5, 7))
    with pytest.raises(ValueError, match=r"image_grid\(\): columns is 0; expected at least 1"):
        plotting.image_grid(torch.zeros(1, 1, 5, 7), columns=0)
