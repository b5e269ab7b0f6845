"""A run: its folder, configuration, data and machine."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_kanerva.datasets import Episodes, glyphs, load_images
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.training import load_checkpoint
from pyro_kanerva.weights import build_machine, pretrained, pretrained_card

#: The folder of a run, where ``--run`` is not given.
DEFAULT_RUN = Path("kanerva-run")

#: The options of ``train`` that config.json keeps.
CONFIG = (
    "data", "held_out", "held_out_where", "episode_length", "batch_size",
    "slots", "address_prior", "network", "width", "code_size", "code_scale", "memory_scale",
    "steps", "learning_rate", "autoencoder_weight", "memory_kl_weight", "seed",
)  # fmt: skip


def find_device(name: str) -> torch.device:
    """The device ``name``; "auto" is a GPU if there is one.

    :raises ValueError: if the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}). Try auto.") from error


def load_split(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Training and held-out images."""
    if config["data"] == "glyphs":
        if config["held_out"] is not None or config["held_out_where"] is not None:
            raise ValueError("--held-out goes with --data PATH; the glyphs are split by character.")
        return glyphs("train").images, glyphs("test").images
    if config["held_out_where"] is not None:
        return split_by_label(config["data"], config["held_out_where"], config["held_out"])
    images = load_images(config["data"]).images
    held_out = len(images) // 4 if config["held_out"] is None else config["held_out"]
    if not 0 < held_out < len(images):
        raise ValueError(f"--held-out is {held_out}; expected 1 to {len(images) - 1}, fewer than there are images.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config["seed"]))
    return images[order[held_out:]], images[order[:held_out]]


def split_by_label(data: str, where: str, held_out: int | None) -> tuple[Tensor, Tensor]:
    """Training and held-out images by a label: ``where`` is "NAME=VALUE"."""
    if held_out is not None:
        raise ValueError("--held-out and --held-out-where are two ways to hold images out; pass one of them.")
    name, _, value = where.partition("=")
    if not value.lstrip("-").isdigit():
        raise ValueError(f"--held-out-where is {where}; expected NAME=VALUE with an integer VALUE, as in split=1.")
    images, labels = load_images(data, name)
    chosen = torch.zeros(0, dtype=torch.bool) if labels is None else labels == int(value)  # no labels: choose none
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


def load_config(run: Path) -> dict[str, Any]:
    path = run / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError:
        config = {}
    except FileNotFoundError:
        raise ValueError(f"{run} holds no run; make one with: pyro-kanerva train --run {run}") from None
    if set(config) != set(CONFIG):
        raise ValueError(f"{path} is broken or of another version; restore it, or train anew in another folder.")
    return config


def open_run(run: Path, device_name: str) -> tuple[dict[str, Any], KanervaMachine, Tensor, torch.device]:
    """The configuration, trained machine, held-out images and device of a run."""
    device = find_device(device_name)
    config = load_config(run)
    images = load_split(config)[1]
    machine = build_machine(config, (1, *images.shape[1:])).to(device)
    load_checkpoint(run, machine)
    return config, machine, images, device


def open_machine(options: argparse.Namespace) -> tuple[dict[str, Any], KanervaMachine, Tensor, torch.device]:
    """The same of ``--pretrained``, on held-out letters or the images of ``--data``; without it, of the run."""
    if options.pretrained is None:
        if options.data is not None or options.data_where is not None:
            raise ValueError("--data goes with --pretrained; a run has the images that it held out.")
        return open_run(options.run, options.device)
    device = find_device(options.device)
    config: dict[str, Any] = pretrained_card(options.pretrained)["config"]
    machine = pretrained(options.pretrained).to(device)
    images = _images_of(options)
    if (1, *images.shape[1:]) != machine.event_shape:
        raise ValueError(
            f"--data has images of {tuple(images.shape[1:])} pixels; {options.pretrained} expects "
            f"{tuple(machine.event_shape or ())[1:]}. Resize them."
        )
    if options.run == DEFAULT_RUN:
        options.run = Path(f"kanerva-{Path(options.pretrained).stem}")
    if (options.run / "config.json").exists():
        raise ValueError(f"{options.run} holds a run of its own; pass another folder with --run for the pictures.")
    options.run.mkdir(parents=True, exist_ok=True)
    return config, machine, images, device


def _images_of(options: argparse.Namespace) -> Tensor:
    """The images of ``--data``, by default the held-out letters."""
    if options.data in (None, "glyphs"):
        if options.data_where is not None:
            raise ValueError("--data-where goes with --data PATH; the glyphs are split by character.")
        return glyphs("test").images
    if options.data_where is not None:
        return split_by_label(options.data, options.data_where, None)[1]
    return load_images(options.data).images
