"""Checkpoints of a training run."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyro_kanerva import _files
from pyro_kanerva._files import PathLike

FILE = "checkpoint.pt"


def save_checkpoint(
    folder: Path, machine: nn.Module, optimizer: torch.optim.Optimizer, losses: list[float], settings: dict[str, Any]
) -> None:
    """Write a checkpoint into ``folder``, completely or not at all."""
    state = {"machine": machine.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
    _files.save(folder / FILE, "checkpoint", settings, state)


def load_checkpoint(
    folder: PathLike,
    machine: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    settings: dict[str, Any] | None = None,
) -> list[float]:
    """Load the parameters of a run into ``machine`` and its state into ``optimizer``; returns the losses so far.

    :param settings: values that the settings of the run must have; ``None`` accepts all settings.
    :raises FileNotFoundError: if there is no checkpoint.
    :raises ValueError: if the file is broken, or from a run with other settings, or from a machine of other sizes.
    """
    path = Path(folder, FILE)
    header, state = _files.load(path, "checkpoint", next(machine.parameters()).device)
    other = {name: (header.get(name), new) for name, new in (settings or {}).items() if header.get(name) != new}
    if other:
        changes = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in other.items())
        raise ValueError(f"{path} is of a run with other arguments: {changes}. Pass the same.")
    try:
        machine.load_state_dict(state["machine"])
    except RuntimeError as error:
        raise ValueError(
            f"{path} is of a machine of another build: {error} Build the machine with the sizes of that run."
        ) from error
    if optimizer is not None:
        optimizer.load_state_dict(state["optimizer"])
    return state["losses"]


def read_settings(folder: PathLike) -> dict[str, Any]:
    """The settings that the checkpoint in ``folder`` was written with.

    :raises FileNotFoundError: if there is no checkpoint.
    :raises ValueError: if the file is broken.
    """
    return _files.load(Path(folder, FILE), "checkpoint")[0]


def cut_metrics(path: Path, num_steps: int) -> None:
    """Keep the lines of the first ``num_steps`` steps; a run may have stopped after its last checkpoint."""
    lines = path.read_text().splitlines(keepends=True)[:num_steps] if path.exists() else []
    _files.write_text(path, "".join(lines))
