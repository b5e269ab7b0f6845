"""The folder of a run: its configuration, machine and episodes."""

import io
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyro_kanerva import _files
from pyro_kanerva._files import PathLike, regular_file
from pyro_kanerva._repr import short_repr
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.runs.data import CONFIG, digest, images_of, load_split
from pyro_kanerva.runs.images import event_shape
from pyro_kanerva.training import load_checkpoint
from pyro_kanerva.training.checkpoint import read_settings
from pyro_kanerva.weights import ADDED_KEYS, build_machine

CONFIG_FILE, EPISODES_FILE = "config.json", "episodes.npz"

#: The key of config.json for the digest of the images of a file; the glyphs and older runs have none.
DIGEST = "data_digest"


def load_config(folder: PathLike) -> dict[str, Any]:
    """The options of a run: those of config.json, or what a checkpoint of :func:`fit` knows of them.

    :raises ValueError: if there is no run, or its machine was not built from a configuration.
    """
    path = Path(folder, CONFIG_FILE)
    if not path.exists():
        return _config_of_checkpoint(folder)
    try:
        config = {**ADDED_KEYS, **_files.read_json(path)}
    except ValueError:
        config = {}
    whole = set(config) - {DIGEST} == set(CONFIG)
    if not whole or not isinstance(config["data"], str) or not isinstance(config["steps"], int):
        raise ValueError(f"{path} is broken or of another version; restore it, or train anew in another folder.")
    with suppress(FileNotFoundError):  # before the first checkpoint
        trained = read_settings(folder).get("config") or {}
        fixed = [name for name in CONFIG if name in trained and name not in ("data", "steps")]  # data may move
        changed = [name for name in fixed if trained[name] != config[name]]
        if changed:
            changes = "; ".join(f"{name} is {config[name]!r}, in the checkpoint {trained[name]!r}" for name in changed)
            raise ValueError(f"{path} is not of the checkpoint beside it: {changes}. Restore one of the two.")
    return config


def _config_of_checkpoint(folder: PathLike) -> dict[str, Any]:
    try:
        settings = read_settings(folder)
    except FileNotFoundError:
        raise ValueError(f"{folder} holds no run; make one with: pyro-kanerva train --run {folder}") from None
    if settings.get("config") is None:
        raise ValueError(
            f"{folder} holds the checkpoint of a machine that was built in Python from its parts, which are not in the "
            "folder. Open it in Python: build that machine, and call "
            f"pyro_kanerva.training.load_checkpoint({str(folder)!r}, machine)."
        )
    known = {name: value for name, value in settings.items() if name in CONFIG and name != "seed"}
    built = {name: value for name, value in {**ADDED_KEYS, **settings["config"]}.items() if name in CONFIG}
    # The machine may have been built, or trained before, for other data: fit() does not know where its own came from.
    return {**dict.fromkeys(CONFIG), **built, **known, "data": None, "held_out": None, "held_out_where": None}


@short_repr
class Run(NamedTuple):
    """A run that was opened.

    ``machine``: the trained machine. ``config``: the options of ``pyro-kanerva train``, by name; ``config["data"]`` is
    None for a run of :func:`fit`. ``held_out``: the images that training did not use, for :class:`Episodes`; None if
    the data are not there. ``episodes`` (2, T) + E: the episode that the pictures of the run show, and the one whose
    memory is the "other memory" there; None if the run keeps none.
    """

    machine: KanervaMachine
    config: dict[str, Any]
    held_out: Tensor | None
    episodes: Tensor | None


def load_run(folder: PathLike, data: PathLike | None = None, device: torch.device | str = "cpu") -> Run:
    """Open a run of ``pyro-kanerva train``, or a folder of :func:`fit` whose machine has a config.

    :param data: the new place of the data, if they have moved; for a run of :func:`fit`, any images that training did
        not use, or "glyphs". By default the data are where the run found them, or are not loaded.
    :param device: of the machine and the episodes.
    :raises ValueError: if there is no run, a file of it is broken, its machine was not built from a configuration, or
        the data are not those of the run.
    :raises FileNotFoundError: if ``data`` is given and is not there, or there is no checkpoint.
    """
    config, folder = load_config(folder), Path(folder)
    images = _held_out_images(config, data)
    shape = read_settings(folder).get("event_shape")  # older checkpoints have none
    if shape is None:
        if images is None:
            raise ValueError(missing_data(folder, config))
        shape = event_shape(images)
    machine = build_machine(config, shape).to(device)
    load_checkpoint(folder, machine)
    if images is not None:
        check_size(images, machine, folder)
    episodes = _load_episodes(folder / EPISODES_FILE, tuple(shape))
    return Run(machine, config, images, None if episodes is None else episodes.to(device))


def _held_out_images(config: dict[str, Any], data: PathLike | None) -> Tensor | None:
    if config["data"] is None:
        return None if data is None else images_of(config, data)
    if data is None:
        data = config["data"]
        if data != "glyphs" and not Path(data).exists():
            return None
    train, held_out = load_split({**config, "data": str(data)})
    if config.get(DIGEST) not in (None, digest(train, held_out)):
        raise ValueError(
            f"{data} holds other images than those of the run, which were in {config['data']}. Pass the file or folder "
            "that the run was trained on: --data PATH, or data= in Python."
        )
    return held_out


def missing_data(folder: PathLike, config: dict[str, Any]) -> str:
    """What to do about a run without its data."""
    if config["data"] is None:
        return (
            f"{folder} is a run of fit(), which does not know where its images came from. Pass images that training "
            "did not use: --data PATH, or --data glyphs for letters."
        )
    return (
        f"{config['data']} is not there, and {folder} was trained on it. Pass its new place: --data PATH, or data= in "
        "Python."
    )


def check_size(images: Tensor, machine: KanervaMachine, name: PathLike) -> None:
    """:raises ValueError: if the machine expects images of another size."""
    if event_shape(images) != machine.event_shape:
        raise ValueError(
            f"--data has images of shape {event_shape(images)}; {name} expects {machine.event_shape}, channels, height "
            "and width. Pass images of this shape."
        )


def save_episodes(folder: PathLike, episodes: Tensor) -> None:
    """Keep ``episodes`` (2, T) + E, those that the pictures of a run show."""
    content = episodes.numpy(force=True)
    _files.write_whole(Path(folder, EPISODES_FILE), lambda file: np.savez_compressed(file, patterns=content))


def _load_episodes(path: Path, event_shape: tuple[int, ...]) -> Tensor | None:
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(regular_file(path).read_bytes()), allow_pickle=False) as content:
            patterns = torch.from_numpy(content["patterns"])
        if len(patterns) != 2 or patterns.shape[2:] != event_shape or not patterns.is_floating_point():
            raise ValueError
        return patterns
    except Exception as error:  # numpy raises many types of errors for broken files
        raise ValueError(
            f"{path} is broken ({type(error).__name__}). Delete it, or run pyro-kanerva evaluate."
        ) from error
