"""Images from files: NumPy archives, IDX files, folders of pictures."""

import gzip
import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_kanerva._files import PathLike
from pyro_kanerva._repr import short_repr

_PICTURES = (".png", ".jpg", ".jpeg")
_GZIP, _IDX_OF_BYTES = b"\x1f\x8b", b"\x00\x00\x08"  # the first bytes of such files


@short_repr
class Images(NamedTuple):
    """Grey ``images``, uint8 (N, height, width), and their ``labels``, int64 (N,), or None if there are none."""

    images: Tensor
    labels: Tensor | None


def load_images(path: PathLike, labels: str = "labels") -> Images:
    """Grey images of a file or folder.

    - ``.npz``: the array ``images``, or the only array of three dimensions; labels from the integer array ``labels``.
    - ``.npy``: one array.
    - MNIST-style IDX, also ``.gz``, recognized by its first bytes.
    - a folder of PNG and JPEG pictures of one size. If it has subfolders, each is a label, in sorted order.

    Arrays of shape (N, height, width) may be uint8, bool or floating in [0, 1]; the latter are scaled to 0 ... 255.

    :param labels: the name of the label array in an ``.npz`` file.
    :return: :class:`Images`, in the order of the file.
    :raises FileNotFoundError: if there is nothing at ``path``.
    :raises ValueError: if the file is of another type, cut off, or holds no images; pickled arrays are never loaded.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix in (".npz", ".npy"):
        return _load_numpy(path, labels)
    with open(path, "rb") as file:
        start = file.read(4)
    if start[:2] == _GZIP or start[:3] == _IDX_OF_BYTES:
        return Images(_as_images(path, _load_idx(path)), None)
    raise ValueError(
        f"{path} is no image file of a known type; expected .npz, .npy, MNIST-style IDX (also .gz), or a folder of "
        "PNG or JPEG files."
    )


def _as_images(path: Path, array: np.ndarray[Any, Any]) -> Tensor:
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"{path} holds an array of shape {array.shape}; expected images of shape (N, height, width). Reduce "
            "colors to grey first."
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{path} holds floating images outside [0, 1] or not finite; rescale them to [0, 1].")
        array = np.rint(array * 255).astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise ValueError(f"{path} holds images of dtype {array.dtype}; expected uint8, bool, or floating in [0, 1].")
    return torch.from_numpy(array.copy())  # contiguous and writable


def _load_numpy(path: Path, labels: str) -> Images:
    file = io.BytesIO(path.read_bytes())
    try:
        content = np.load(file, allow_pickle=False)
        single = isinstance(content, np.ndarray)
        arrays = {"images": content} if single else {name: content[name] for name in content.files}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole NumPy file of plain arrays: it is cut off, or holds pickled objects, which are "
            f"never loaded ({error}). Save or download it again."
        ) from error
    candidates = [name for name, array in arrays.items() if array.ndim == 3]
    name = "images" if "images" in arrays else candidates[0] if len(candidates) == 1 else None
    if name is None:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise ValueError(f"{path} holds arrays {shapes}; expected one called 'images' of shape (N, height, width).")
    images = _as_images(path, arrays[name])
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


def _load_idx(path: Path) -> np.ndarray[Any, Any]:
    content = path.read_bytes()
    if content[:2] == _GZIP:
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
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


def _load_folder(path: Path) -> Images:
    from PIL import Image

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _PICTURES)
    if not files:
        raise ValueError(f"{path} is a folder without PNG or JPEG files; expected at least one.")
    arrays = []
    for file in files:
        try:
            with Image.open(file) as picture:
                arrays.append(np.asarray(picture.convert("L")))
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{file} is not a whole picture ({error}). Remove or replace it.") from error
        if arrays[-1].shape != arrays[0].shape:
            raise ValueError(
                f"{file} has height and width {arrays[-1].shape}; expected {arrays[0].shape}, those of {files[0]}. "
                "Resize the pictures to one size."
            )
    folders = sorted({file.parent for file in files})
    labels = torch.tensor([folders.index(file.parent) for file in files]) if len(folders) > 1 else None
    return Images(_as_images(path, np.stack(arrays)), labels)
