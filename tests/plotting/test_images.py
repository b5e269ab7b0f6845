"""Patterns as pictures."""

import torch

from pyro_kanerva import plotting


def test_image_grid():
    ax = plotting.image_grid(torch.rand(10, 1, 5, 7), columns=4)
    assert ax.get_images()[0].get_array().shape == (3 * 7 - 2, 4 * 9 - 2)
