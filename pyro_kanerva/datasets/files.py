"""Images from files: NumPy archives, IDX files, folders of pictures."""

import gzip
import io
import math
import os
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_kanerva._files import PathLike, regular_file
from pyro_kanerva._repr import short_repr

_PICTURES = (".png", ".jpg", ".jpeg")
_GZIP, _IDX_OF_BYTES = b"\x1f\x8b", b"\x00\x00\x08"  # the first bytes of such files
# Compressed images become at most so many times larger; up to so many bytes, files may hold anything.
_EXPANSION, _ANY_SIZE = 200, 10**8


@short_repr
class Images(NamedTuple):
    """``images``, uint8, and their ``labels``, int64 (N,), or None if there are none.

    Grey images have the shape (N, height, width), color images (N, 3, height, width).
    """

    images: Tensor
    labels: Tensor | None


def load_images(path: PathLike, labels: str = "labels", mode: Literal["L", "RGB"] = "L") -> Images:
    """Images of a file or folder, with their 256 levels.

    - ``.npz``: the array ``images``, or the only array of three or four dimensions; labels from the integer array
      ``labels``.
    - ``.npy``: one array.
    - MNIST-style IDX, also ``.gz``, recognized by its first bytes.
    - a folder of PNG and JPEG pictures of one size. If it has subfolders, each is a label, in sorted order. Names that
      begin with a dot are left out. A transparent ground becomes white, or black if all of the picture is light.
      Pictures of 16 bits are scaled to 8.

    Arrays of grey images have the shape (N, height, width), of color images (N, height, width, 3) or (N, 3, height,
    width). They may be uint8, bool or floating in [0, 1]; the latter are scaled to 0 ... 255. :class:`Episodes`
    binarizes images unless it is told not to.

    :param labels: the name of the label array in an ``.npz`` file.
    :param mode: as in PIL, "L" for grey images or "RGB" for color. "L" turns color pictures of a folder into grey ones,
        and refuses color arrays. With "RGB" grey images get three equal channels.
    :return: :class:`Images`, in the order of the file.
    :raises FileNotFoundError: if there is nothing at ``path``.
    :raises ValueError: if the file is of another type, cut off, holds no images, or would become far larger than images
        do; pickled arrays are never loaded.
    """
    if mode not in ("L", "RGB"):
        raise ValueError(f"load_images(): mode is {mode!r}; expected 'L' for grey or 'RGB' for color.")
    path = Path(path)
    if labels != "labels" and path.suffix != ".npz":
        raise ValueError(f"{path} has no labels {labels!r}; only the arrays of .npz files have names. Use 'labels'.")
    if path.is_dir():
        return _load_folder(path, mode)
    if path.suffix in (".npz", ".npy"):
        return _load_numpy(path, labels, mode)
    with open(regular_file(path), "rb") as file:
        start = file.read(4)
    if start[:2] == _GZIP or start[:3] == _IDX_OF_BYTES:
        return Images(_as_images(path, _load_idx(path), mode), None)
    raise ValueError(
        f"{path} is no image file of a known type; expected .npz, .npy, MNIST-style IDX (also .gz), or a folder of "
        "PNG or JPEG files."
    )


def read_picture(path: PathLike, mode: str, size: tuple[int, int] | None = None) -> np.ndarray[Any, Any]:
    """A picture as uint8 (height, width), or (height, width, 3) with the mode "RGB".

    A transparent ground becomes white, or black if all of the picture is light: else a white drawing would vanish.

    :param size: (height, width): the picture is resized to it and padded with the color of its first pixel. None keeps
        its size.
    :raises ValueError: if there is no such file, or it is not a whole picture.
    """
    from PIL import Image, ImageOps

    if not os.path.lexists(path):
        raise ValueError(f"{path}: there is no such picture.")
    try:
        with Image.open(regular_file(path)) as file:
            picture: Image.Image = file
            if file.mode.startswith("I"):  # 16 bits, which PIL would clip
                picture = Image.fromarray((np.asarray(file).clip(0, 65535) / 257).round().astype(np.uint8))
            elif file.has_transparency_data:
                colors = file.convert("RGBA")
                grounds = [Image.new("RGBA", file.size, name) for name in ("white", "black")]
                on_white, on_black = (Image.alpha_composite(ground, colors).convert("RGB") for ground in grounds)
                picture = on_white if np.asarray(on_white.convert("L")).min() <= 127 else on_black
            picture = picture.convert(mode)
    except Exception as error:  # PIL raises many types of errors for broken files and for very large ones
        raise ValueError(f"{path} is not a whole picture ({error}). Remove or replace it.") from error
    if size is not None and picture.size != size[::-1]:
        ground: Any = picture.getpixel((0, 0))
        picture = ImageOps.pad(picture, size[::-1], Image.Resampling.LANCZOS, color=ground)
    return np.asarray(picture)


def _as_images(path: Path, array: np.ndarray[Any, Any], mode: str) -> Tensor:
    color = array.ndim == 4 and 3 in (array.shape[1], array.shape[3])
    if not (color or array.ndim == 3) or 0 in array.shape:
        raise ValueError(
            f"{path} holds an array of shape {array.shape}; expected images of shape (N, height, width), or color "
            "images of shape (N, height, width, 3) or (N, 3, height, width)."
        )
    if color and mode == "L":
        raise ValueError(
            f"{path} holds color images, an array of shape {array.shape}. Keep the colors with load_images(path, "
            'mode="RGB") or --color, or reduce them to grey images of shape (N, height, width) first.'
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{path} holds floating images outside [0, 1] or not finite; rescale them to [0, 1].")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ValueError(
            f"{path} has dtype {array.dtype}; expected uint8, bool, or floats in [0, 1]. Rescale to these."
        )
    if color and array.shape[3] == 3:
        array = np.moveaxis(array, 3, 1)
    elif mode == "RGB" and not color:
        array = np.repeat(array[:, None], 3, 1)
    return torch.from_numpy(array.copy())  # contiguous and writable


def _load_numpy(path: Path, labels: str, mode: str) -> Images:
    file = io.BytesIO(regular_file(path).read_bytes())
    try:
        content = np.load(file, allow_pickle=False)
        single = isinstance(content, np.ndarray)
        if not single:
            _check_expansion(len(file.getbuffer()), sum(member.file_size for member in content.zip.infolist()))
        arrays = {"images": content} if single else {name: content[name] for name in content.files}
    except Exception as error:  # NumPy and zipfile raise many types of errors for broken files
        raise ValueError(
            f"{path} is not a whole NumPy file of plain arrays: it is cut off, or holds pickled objects, which are "
            f"never loaded ({error}). Save or download it again."
        ) from error
    candidates = [name for name, array in arrays.items() if array.ndim in (3, 4)]
    name = "images" if "images" in arrays else candidates[0] if len(candidates) == 1 else None
    if name is None:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{path} holds arrays {shapes}; expected one called 'images' of shape (N, height, width).")
    images = _as_images(path, arrays[name], mode)
    if labels not in arrays:
        if labels != "labels":
            raise ValueError(f"{path} has no array {labels!r} of labels; it holds {sorted(arrays)}.")
        return Images(images, None)
    if arrays[labels].shape != (len(images),) or not np.issubdtype(arrays[labels].dtype, np.integer):
        raise ValueError(
            f"{path}: array {labels!r} is {arrays[labels].dtype} of shape {arrays[labels].shape}; expected integers "
            f"of shape ({len(images)},), one label per image."
        )
    return Images(images, torch.from_numpy(arrays[labels].astype(np.int64)))


def _check_expansion(size: int, content: int) -> None:
    """:raises ValueError: if ``size`` bytes of a file would become so many more that they hardly hold images."""
    if content > max(_EXPANSION * size, _ANY_SIZE):
        raise ValueError(f"its {size:,} bytes would become {content:,} or more")


def _load_idx(path: Path) -> np.ndarray[Any, Any]:
    content = path.read_bytes()
    if content[:2] == _GZIP:
        try:
            with gzip.open(io.BytesIO(content)) as file:
                whole = file.read(max(_EXPANSION * len(content), _ANY_SIZE) + 1)
            _check_expansion(len(content), len(whole))
            content = whole
        except (EOFError, OSError, zlib.error, ValueError) as error:
            raise ValueError(f"{path} is a cut-off or broken gzip file ({error}). Download it again.") from error
    if content[:3] != _IDX_OF_BYTES or len(content) < 4:
        raise ValueError(f"{path} is no IDX file of bytes: it does not start with 00 00 08.")
    header = 4 + 4 * content[3]  # magic number, then a big-endian size for each dimension
    shape = tuple(np.frombuffer(content[4:header].ljust(4 * content[3], b"\0"), ">u4").astype(int).tolist())
    if len(content) != header + math.prod(shape):
        raise ValueError(
            f"{path} announces an array of shape {shape} but has {len(content) - header} bytes of it; it is cut off "
            "or broken. Download it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _load_folder(path: Path, mode: str) -> Images:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PICTURES and not file.is_dir())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise ValueError(f"{path} is a folder without PNG or JPEG files; expected at least one.")
    arrays = []
    for file in files:
        arrays.append(read_picture(file, mode))
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(
                f"{file} has height and width {arrays[-1].shape[:2]}; expected {arrays[0].shape[:2]}, those of "
                f"{files[0]}. Resize the pictures to one size."
            )
    folders = sorted({file.parent for file in files})
    labels = torch.tensor([folders.index(file.parent) for file in files]) if len(folders) > 1 else None
    return Images(_as_images(path, np.stack(arrays), mode), labels)
