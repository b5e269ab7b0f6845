"""Files of machines: their parameters, and what a machine must be to take them."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyro_kanerva import _files
from pyro_kanerva._files import PathLike
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution

_MOST = 5  # differences that an error names


def save_machine(path: PathLike, parts: Parts, config: Mapping[str, Any] | None) -> None:
    """Write a file of a machine, whole or not at all."""
    state = {"tensors": dict(parts.state_dict()), "constants": _constants(parts)}
    _files.save(path, "machine", {"config": config, "machine": _description(parts)}, state)


def read_config(path: PathLike) -> tuple[dict[str, Any] | None, list[int] | None]:
    """The configuration of the machine in a file of :func:`save_machine`, and its event shape E."""
    header, _ = _files.load(path, "machine")
    return header["config"], header["machine"]["event_shape"]


def load_machine(path: PathLike, parts: Parts) -> None:
    """Load a file of :func:`save_machine` into ``parts``; with an error, they do not change.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is broken, of another kind or version, unsafe, or of other parts.
    """
    header, state = _files.load(path, "machine", parts.log_code_scale.device)
    differences = [
        f"{name} is {header['machine'].get(name)!r} in the file, {here!r} in this machine"
        for name, here in _description(parts).items()
        if header["machine"].get(name) != here
    ]
    differences += _tensors_that_differ(state["tensors"], parts.state_dict())
    there, here = state["constants"], _constants(parts)
    differences += [
        f"{name} has other values in the file" for name in here if name in there and not _close(there[name], here[name])
    ]
    if differences:
        more = f"; and {len(differences) - _MOST} more" if len(differences) > _MOST else ""
        raise ValueError(
            f"{path} is of another machine: {'; '.join(differences[:_MOST])}{more}. Build the machine with the parts "
            "and sizes of the one that was saved."
        )
    parts.load_state_dict(state["tensors"])


def _description(parts: Parts) -> dict[str, Any]:
    """Sizes, and the kinds of the parts that say what the parameters mean."""
    return {
        "num_slots": parts.num_slots,
        "code_size": parts.code_size,
        "event_shape": None if parts.event_shape is None else list(parts.event_shape),
        "memory_prior": type(as_distribution(parts.memory_prior)).__name__,
        "address_prior": type(as_distribution(parts.address_prior)).__name__,
        "likelihood": type(parts.likelihood).__name__,
        "code_posterior": None if parts.code_posterior is None else type(parts.code_posterior).__name__,
    }


def _constants(parts: Parts) -> dict[str, Tensor]:
    """Buffers of priors and likelihood that are not in the ``state_dict``, such as the scale of an address prior."""
    owners = ("memory_prior.", "address_prior.", "likelihood.")
    learned = parts.state_dict()
    return {name: value for name, value in parts.named_buffers() if name.startswith(owners) and name not in learned}


def _close(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other.float())


def _tensors_that_differ(there: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> list[str]:
    differences = [f"{name} is not in the file" for name in here if name not in there]
    differences += [f"{name} is in the file alone" for name in there if name not in here]
    return differences + [
        f"{name} has shape {tuple(there[name].shape)} in the file, {tuple(value.shape)} in this machine"
        for name, value in here.items()
        if name in there and there[name].shape != value.shape
    ]
