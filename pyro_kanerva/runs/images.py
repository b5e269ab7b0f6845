"""Images as the machine of a configuration gets them: grey or color, inverted, binary or with their levels."""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from pyro_kanerva._files import PathLike
from pyro_kanerva.datasets import Images, load_images
from pyro_kanerva.datasets.episodes import to_levels


def image_mode(config: Mapping[str, Any]) -> Literal["L", "RGB"]:
    """The mode of :func:`load_images`."""
    return "RGB" if config["color"] else "L"


def is_binary(config: Mapping[str, Any]) -> bool:
    """True if the machine of ``config`` gets binary images."""
    return config["likelihood"] == "bernoulli"


def read_images(config: Mapping[str, Any], data: PathLike, labels: str = "labels") -> Images:
    """The images at the path ``data`` as the machine of ``config`` gets them, see :func:`prepare`."""
    images, found = load_images(data, labels, image_mode(config))
    return Images(prepare(config, images), found)


def prepare(config: Mapping[str, Any], images: Tensor) -> Tensor:
    """uint8 images, inverted if the configuration says so; as levels 0 to 1 if the likelihood is not binary."""
    images = 255 - images if config["invert"] else images
    return images if is_binary(config) else to_levels(images)


def event_shape(images: Tensor) -> tuple[int, ...]:
    """E, (channels, height, width), of images (N, height, width) or (N, channels, height, width)."""
    return (1, *images.shape[1:]) if images.dim() == 3 else tuple(images.shape[1:])


def describe(config: Mapping[str, Any], images: Tensor) -> str:
    """What the machine of ``config`` gets, in words."""
    channels, height, width = event_shape(images)
    kinds = {
        "bernoulli": "binarized at 128: ink is above",
        "logistic": "256 levels from 0 to 1",
        "normal": "real levels from 0 to 1",
    }
    color, inverted = "grey" if channels == 1 else "color", "inverted, " if config["invert"] else ""
    return f"{color} images of {height} x {width}, {inverted}{kinds[config['likelihood']]}"
