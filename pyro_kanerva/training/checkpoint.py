"""Checkpoints of a training run."""

import json
import warnings
from contextlib import suppress
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
    header, state = _load(folder, next(machine.parameters()).device)
    other = {name: (header.get(name), new) for name, new in (settings or {}).items() if header.get(name) != new}
    if other:
        changes = "; ".join(f"{name} was {old!r}, now {new!r}" for name, (old, new) in other.items())
        raise ValueError(f"{path} is of a run with other arguments: {changes}. Pass the same.")
    try:
        machine.load_state_dict(state["machine"])
        if optimizer is not None:
            optimizer.load_state_dict(state["optimizer"])
        return [float(loss) for loss in state["losses"]]
    except RuntimeError as error:
        raise ValueError(
            f"{path} is of a machine of another build: {error} Build the machine with the sizes of that run."
        ) from error
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} lacks a part of a checkpoint ({error}). Use another copy, or train anew.") from error


def read_settings(folder: PathLike) -> dict[str, Any]:
    """The settings that the checkpoint in ``folder`` was written with.

    :raises FileNotFoundError: if there is no checkpoint.
    :raises ValueError: if the file is broken.
    """
    return _load(folder, "cpu")[0]


def _load(folder: PathLike, device: torch.device | str) -> tuple[dict[str, Any], Any]:
    path = Path(folder, FILE)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: no checkpoint was written. Train from the start, without resume."
        )
    return _files.load(path, "checkpoint", device)


def read_metrics(path: Path) -> dict[int, dict[str, float]]:
    """The lines of metrics.jsonl by their step, without broken ones; empty if there is no file."""
    found = {}
    for text in _files.regular_file(path).read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError, TypeError, LookupError, AttributeError, RecursionError):
            line = json.loads(text)
            found[int(line["step"])] = {name: float(value) if name != "step" else value for name, value in line.items()}
    return found


def cut_metrics(path: Path, losses: list[float]) -> None:
    """Keep the lines of the steps of ``losses``; a run may have stopped after its last checkpoint.

    Lines that are missing or broken are written anew, with step and loss alone.
    """
    lines = read_metrics(path)
    lost = {step: {"step": step, "loss": loss} for step, loss in enumerate(losses, 1) if step not in lines}
    if lost:
        warnings.warn(f"{path} lacks {len(lost)} steps; it gets their losses from the checkpoint.", stacklevel=3)
    lines |= lost
    _files.write_text(path, "".join(f"{json.dumps(lines[step])}\n" for step in range(1, len(losses) + 1)))
