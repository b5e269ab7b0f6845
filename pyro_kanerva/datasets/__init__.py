"""Images from files or fonts, and episodes of patterns drawn from them."""

from pyro_kanerva.datasets.episodes import Episodes, binarize
from pyro_kanerva.datasets.files import Images, load_images
from pyro_kanerva.datasets.fonts import glyphs

__all__ = ["Episodes", "Images", "binarize", "glyphs", "load_images"]
