"""Files: written completely or not at all, and read without running code that they hold."""

import io
import json
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

PathLike = str | os.PathLike[str]
VERSION = 1


def write_whole(path: PathLike, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` with a temporary file beside ``path``, then rename that file to ``path``."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # else a crash could leave the new name with an empty file
        os.replace(temporary, path)  # atomic: a reader sees the old file or the new one
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: PathLike, text: str) -> None:
    """Write a text file, completely or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def save(path: PathLike, kind: str, header: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a JSON ``header`` and the tensors of ``state``; ``kind`` is "memory" or "checkpoint"."""
    content = {"kind": f"pyro_kanerva {kind}", "version": VERSION, "header": json.dumps(header), "state": state}
    write_whole(path, lambda file: torch.save(content, file))


def load(path: PathLike, kind: str, device: torch.device | str = "cpu") -> tuple[dict[str, Any], Any]:
    """Header and state of a file that :func:`save` wrote. Code in the file is never run.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is cut off, of another kind or version, or holds more than tensors and plain values.
    """
    wanted = f"pyro_kanerva {kind}"
    file = io.BytesIO(Path(path).read_bytes())
    try:
        content = torch.load(file, map_location=device, weights_only=True)
        found, version = content["kind"], content["version"]
        as_wanted = (found, version) == (wanted, VERSION)
        header, state = (json.loads(content["header"]), content["state"]) if as_wanted else ({}, None)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is not a {wanted} file: it holds Python objects, which are never loaded since they can run "
            f"code. Write it anew with this version of pyro_kanerva. ({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # torch raises many types of errors for broken files
        raise ValueError(
            f"{path} is not a whole {wanted} file; it may be cut off or of another program. Use another copy, or "
            f"write it anew. ({type(error).__name__})"
        ) from error
    if not as_wanted:
        raise ValueError(
            f"{path} is a file of kind {found!r}, version {version}; expected {wanted!r}, version {VERSION}. Pass "
            "a file of that kind, or write it anew with this version of pyro_kanerva."
        )
    return header, state
