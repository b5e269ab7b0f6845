"""Files of trained machines: tensors in float16, the configuration, and a card that says how they were made."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pyro_kanerva import _files
from pyro_kanerva._files import PathLike
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.machine.storage import read_config
from pyro_kanerva.weights.build import ADDED_KEYS, build_machine

_FOLDER = Path(__file__).parent
_SMALL = 1024  # tensors of fewer entries stay in float32

#: The machines that come with the package.
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def export_machine(
    path: PathLike, machine: KanervaMachine, config: Mapping[str, Any], event_shape: Sequence[int], card: Any
) -> None:
    """Write a machine of :func:`build_machine` to one file, whole or not at all; matrices in float16.

    :param card: what :func:`pretrained_card` shall return; of plain values.
    :raises ValueError: if a parameter is NaN, infinite, or beyond the range of float16.
    """
    tensors = {}
    for name, tensor in machine.state_dict().items():
        half = tensor.detach().cpu().contiguous()
        half = half.clone() if half.numel() < _SMALL else half.half()  # parts may share a tensor
        if not bool(half.isfinite().all()):
            raise ValueError(f"export_machine(): parameter {name} is NaN, infinite or beyond the range of float16.")
        tensors[name] = half
    metadata = {"config": json.dumps(dict(config)), "event_shape": json.dumps(list(event_shape))}
    metadata["card"] = json.dumps(card)
    content = save(tensors, {**metadata, "digest": _digest(metadata, tensors)})
    _files.write_whole(path, lambda file: file.write(content))


def pretrained(name: PathLike) -> KanervaMachine:
    """A trained machine, in float32 on the CPU.

    :param name: of a machine that comes with the package, one of ``pyro_kanerva.weights.NAMES``, or the path of a file
        that ``pyro-kanerva export`` wrote, or :meth:`KanervaMachine.save` of a machine with a config.
    :raises ValueError: if there is no machine of that name, the file is broken or of another program, or the machine
        in it has no config.
    """
    config, event_shape, _, tensors = _read(name)
    try:
        machine = build_machine(config, event_shape)
        if tensors is None:
            return machine.load(name)
        machine.load_state_dict({key: tensor.float() for key, tensor in tensors.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"pretrained(): {name} is of another version ({error}); export the machine anew.") from error
    return machine


def pretrained_card(name: PathLike) -> dict[str, Any]:
    """How a trained machine was made, and what it reached.

    ``config``: the options of ``pyro-kanerva train``, with data, split, steps and seed; ``source`` of the data;
    ``license``; ``evaluation``: bounds, and recall with its control, on held-out data. A file of
    :meth:`KanervaMachine.save` has ``config`` alone. Arguments and errors as for :func:`pretrained`.
    """
    config, _, card, _ = _read(name)
    return {"config": {**ADDED_KEYS, **config}, **card}


def _read(name: PathLike) -> tuple[dict[str, Any], list[int], dict[str, Any], dict[str, torch.Tensor] | None]:
    """Configuration, event shape, card and tensors; the tensors of :meth:`KanervaMachine.save` are None here."""
    path = _FOLDER / f"{name}.safetensors" if str(name) in NAMES else Path(name)
    if not path.is_file():
        raise ValueError(f"pretrained(): there is no machine {name}; expected one of {', '.join(NAMES)}, or a file.")
    with path.open("rb") as file:
        is_saved = file.read(4) == b"PK\x03\x04"  # as torch.save begins a file
    if is_saved:
        return _read_saved(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if metadata.pop("digest") != _digest(metadata, tensors):
            raise ValueError("its content does not fit its digest")
        return (*(json.loads(metadata[key]) for key in ("config", "event_shape", "card")), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"pretrained(): {path} is not a whole file of a trained machine ({error}). Use another copy."
        ) from error


def _read_saved(path: Path) -> tuple[dict[str, Any], list[int], dict[str, Any], None]:
    try:
        config, event_shape = read_config(path)
    except ValueError as error:
        raise ValueError(f"pretrained(): {path} is not a whole file of a trained machine. {error}") from error
    if config is None or event_shape is None:
        raise ValueError(
            f"pretrained(): {path} is of a machine of your own parts, which are not in the file. Build that machine, "
            "then call machine.load()."
        )
    return config, event_shape, {}, None


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    """Of all that a file holds."""
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return digest.hexdigest()
