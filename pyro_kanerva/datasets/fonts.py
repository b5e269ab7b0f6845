"""A data set without a download: letters, rendered from the fonts that come with matplotlib."""

import io
import os
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from pyro_kanerva._files import write_whole
from pyro_kanerva.datasets.files import Images

_SIZE, _INK = 28, 22  # pixels of an image, and of the longer side of a letter
_LEFT_OUT = ("LastResort", "cmex10", "STIXSiz")  # these fonts draw placeholders, or brackets in place of letters


def glyphs(split: Literal["train", "test"] = "train") -> Images:
    """Letters of many scripts in many fonts: a real data set without a download.

    The images show every letter (Unicode category L) that matplotlib's fonts can draw. They have 28 x 28 pixels; the
    letter is centered, its longer side 22 pixels. Labels are characters; characters with an identical drawing, such as
    Latin and Cyrillic A, share a label. The test split holds one label in five, chosen with a fixed seed, so its
    characters do not occur in the training split. The first call renders for some seconds and caches the images in
    ``$XDG_CACHE_HOME/pyro_kanerva`` (by default ``~/.cache/pyro_kanerva``).

    :raises ValueError: if ``split`` is neither "train" nor "test".
    """
    if split not in ("train", "test"):
        raise ValueError(f"glyphs(): split is {split!r}; expected 'train' or 'test'.")
    images, labels = _cached()
    num_labels = labels.max() + 1
    test = np.random.default_rng(0).permutation(num_labels)[: num_labels // 5]
    chosen = np.isin(labels, test) == (split == "test")
    return Images(torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen]))


def _cached() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    from matplotlib import __version__

    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pyro_kanerva"
    except RuntimeError:  # no home folder, as in some containers
        return _render()
    path = folder / f"glyphs-1-matplotlib-{__version__}.npz"
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as content:
            return content["images"], content["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # no cache, or a broken one: render
    images, labels = _render()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, lambda file: np.savez_compressed(file, images=images, labels=labels))
    except OSError:
        pass  # the cache cannot be written: the next process renders again
    return images, labels


def _render() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All drawings, uint8 (N, 28, 28), and their labels (N,)."""
    from matplotlib import get_data_path
    from matplotlib.ft2font import FT2Font, LoadFlags

    drawings, characters = [], []
    for path in sorted(Path(get_data_path(), "fonts", "ttf").glob("*.ttf")):
        if path.name.startswith(_LEFT_OUT):
            continue
        font = FT2Font(str(path))
        for code in sorted(font.get_charmap()):
            if not unicodedata.category(chr(code)).startswith("L"):
                continue
            font.set_size(_INK, 72)  # a first size, to measure the letter
            left, bottom, right, top = font.load_char(code, flags=LoadFlags.NO_HINTING).bbox
            extent = max(right - left, top - bottom) / 64  # FreeType counts in 1/64 pixel
            if extent <= 0:
                continue
            font.set_size(_INK * (_INK - 1) / extent, 72)  # 21 pixels long, which can touch 22 of the grid
            font.set_text(chr(code), 0.0, flags=LoadFlags.NO_HINTING)
            font.draw_glyphs_to_bitmap(antialiased=True)
            ink = np.asarray(font.get_image())
            height, width = ink.shape
            if ink.max() <= 127 or max(height, width) > _SIZE:  # binarized, it would be blank; or it does not fit
                continue
            drawing = np.zeros((_SIZE, _SIZE), np.uint8)
            row, column = (_SIZE - height) // 2, (_SIZE - width) // 2
            drawing[row : row + height, column : column + width] = ink
            drawings.append(drawing)
            characters.append(code)
    images = np.stack(drawings)
    return images, _join_look_alikes(images, np.array(characters))


def _join_look_alikes(images: np.ndarray[Any, Any], characters: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Labels 0, 1, ... of the characters, equal for characters that share a drawing in some font."""
    # Union-find: equality is transitive, so a label is a connected component of characters.
    parent = {int(character): int(character) for character in characters}

    def root(character: int) -> int:
        while parent[character] != character:
            parent[character] = parent[parent[character]]
            character = parent[character]
        return character

    first: dict[bytes, int] = {}
    for image, character in zip(images, characters.tolist(), strict=True):
        parent[root(character)] = root(first.setdefault(image.tobytes(), character))
    return np.unique([root(character) for character in characters.tolist()], return_inverse=True)[1]
