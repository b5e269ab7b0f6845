"""The data of a run, and the options of ``train`` that say how they are split."""

import hashlib
import re
from typing import Any, Literal

import torch
from torch import Tensor

from pyro_kanerva._files import PathLike
from pyro_kanerva.datasets import Episodes, glyphs
from pyro_kanerva.runs.images import prepare, read_images

#: The options of ``train`` that config.json keeps.
CONFIG = (
    "data", "held_out", "held_out_where", "color", "invert", "episode_length", "batch_size",
    "slots", "address_prior", "writer", "likelihood", "network", "width", "code_size", "code_scale", "memory_scale",
    "steps", "learning_rate", "autoencoder_weight", "memory_kl_weight", "seed",
)  # fmt: skip


def load_split(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Training and held-out images, as the machine gets them."""
    if config["data"] == "glyphs":
        if config["held_out"] is not None or config["held_out_where"] is not None:
            raise ValueError("--held-out goes with --data PATH; the glyphs are split by character.")
        return _glyphs(config, "train"), _glyphs(config, "test")
    if config["held_out_where"] is not None:
        return split_by_label(config, config["data"], config["held_out_where"], config["held_out"])
    images = read_images(config, config["data"]).images
    held_out = len(images) // 4 if config["held_out"] is None else config["held_out"]
    if not 0 < held_out < len(images):
        raise ValueError(f"--held-out is {held_out}; expected 1 to {len(images) - 1}, fewer than there are images.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config["seed"]))
    return images[order[held_out:]], images[order[:held_out]]


def _glyphs(config: dict[str, Any], split: Literal["train", "test"]) -> Tensor:
    if config["color"] or config["invert"]:
        raise ValueError(
            "--color and --invert go with --data PATH; the glyphs are grey, light ink on a dark ground. Pass a file or "
            "folder of images."
        )
    return prepare(config, glyphs(split).images)


def split_by_label(config: dict[str, Any], data: PathLike, where: str, held_out: int | None) -> tuple[Tensor, Tensor]:
    """Training and held-out images by a label: ``where`` is "NAME=VALUE"."""
    if held_out is not None:
        raise ValueError("--held-out and --held-out-where are two ways to hold images out; pass one of them.")
    name, _, value = where.partition("=")
    if not re.fullmatch("-?[0-9]{1,18}", value):
        raise ValueError(f"--held-out-where is {where}; expected NAME=VALUE with an integer VALUE, as in split=1.")
    images, labels = read_images(config, data, name)
    if labels is None:
        raise ValueError(f"--held-out-where {where}: {data} has no labels. Choose a number of images: --held-out N.")
    chosen = labels == int(value)
    if not 0 < int(chosen.sum()) < len(images):
        raise ValueError(f"--held-out-where {where} holds out {int(chosen.sum())} of {len(images)} images.")
    return images[~chosen], images[chosen]


def held_out_episodes(config: dict[str, Any], images: Tensor, most: int | None = None) -> Episodes:
    """One epoch of all held-out episodes, or of at most ``most``, in equal batches of at most 16."""
    length = config["episode_length"]
    num_episodes = len(images) // length if most is None else min(most, len(images) // length)
    if num_episodes < 1:
        raise ValueError(f"{len(images)} held-out images make no episode of {length}; raise --held-out.")
    batch_size = max(size for size in range(1, 17) if num_episodes % size == 0)
    # Files are often sorted by label: take episodes from images in random order.
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config["seed"] + 1))
    return Episodes(images[order[: num_episodes * length]], length, batch_size, seed=config["seed"])


def batches_on(device: torch.device, episodes: Episodes) -> list[Tensor]:
    """The batches of one epoch, on ``device``."""
    return [patterns.to(device) for patterns in episodes]


def images_of(config: dict[str, Any], data: PathLike, where: str | None = None) -> Tensor:
    """All images of ``data``, or those that ``where``, "NAME=VALUE", chooses; of the glyphs those that are held out.

    They are as the machine of ``config`` gets them.
    """
    if data == "glyphs":
        if where is not None:
            raise ValueError("--data-where goes with --data PATH; the glyphs are split by character.")
        return _glyphs(config, "test")
    return read_images(config, data).images if where is None else split_by_label(config, data, where, None)[1]


def digest(train: Tensor, held_out: Tensor) -> str:
    """A digest of all images and of their split."""
    found = hashlib.sha256(f"{tuple(train.shape)} {tuple(held_out.shape)}".encode())
    for images in (train, held_out):
        found.update(images.contiguous().numpy(force=True).tobytes())
    return found.hexdigest()
