"""Files: written completely or not at all, verified when they are read, and read without running code in them."""

import hashlib
import io
import json
import os
import pickle
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

PathLike = str | os.PathLike[str]
VERSION = 2
_DIGEST_SIZE = 32  # bytes of SHA-256


def write_whole(path: PathLike, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` with a temporary file beside ``path``, then rename that file to ``path``.

    A symbolic link stays one, and an existing file keeps its mode. Temporary files of killed writes are removed.
    """
    path = Path(os.path.realpath(path))
    prefix = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}."  # short, however long the name is
    for left in path.parent.glob(f"{prefix}*.tmp"):
        _remove_unless_open(left)
    temporary = path.with_name(f"{prefix}{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            _lock(file)
            if path.exists():
                shutil.copymode(path, temporary)
            write(file)
            file.flush()
            os.fsync(file.fileno())  # else a crash could leave the new name with an empty file
        os.replace(temporary, path)  # atomic: a reader sees the old file or the new one
    except FileNotFoundError as error:
        if path.parent.is_dir():
            raise
        message = f"{path} cannot be written: there is no folder {path.parent}. Make it first."
        raise FileNotFoundError(message) from error
    finally:
        temporary.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> None:
    """Lock ``file`` until it is closed or its process ends; raises OSError if another process holds the lock."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _remove_unless_open(path: Path) -> None:
    """Remove a temporary file whose writer was killed; one that is being written is locked, and stays."""
    with suppress(OSError), open(path, "rb") as file:
        _lock(file)
        path.unlink()


def write_text(path: PathLike, text: str) -> None:
    """Write a text file, completely or not at all."""
    write_whole(path, lambda file: file.write(text.encode()))


def save(path: PathLike, kind: str, header: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a JSON ``header`` and the tensors of ``state``; ``kind`` is "memory", "machine" or "checkpoint".

    The file is one of ``torch.save``, a zip archive, whose comment is the digest of all that precedes it.
    """
    file = io.BytesIO()
    content = {"kind": f"pyro_kanerva {kind}", "version": VERSION, "header": json.dumps(header), "state": state}
    torch.save(content, file)
    file.seek(-2, os.SEEK_END)  # where a zip archive has the length of its comment
    file.write(_DIGEST_SIZE.to_bytes(2, "little"))
    file.write(hashlib.sha256(file.getbuffer()).digest())
    write_whole(path, lambda target: target.write(file.getbuffer()))


def load(path: PathLike, kind: str, device: torch.device | str = "cpu") -> tuple[dict[str, Any], Any]:
    """Header and state of a file that :func:`save` wrote. Code in the file is never run.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is damaged, of another kind or version, or holds more than tensors and plain values.
    """
    wanted = f"pyro_kanerva {kind}"
    file = Path(path).read_bytes()
    if hashlib.sha256(file[:-_DIGEST_SIZE]).digest() != file[-_DIGEST_SIZE:]:
        raise ValueError(
            f"{path} is not a whole {wanted} file: it is damaged, cut off, of another program, or of an older version. "
            "Use another copy, or write it anew."
        )
    try:
        content = torch.load(io.BytesIO(file), map_location=device, weights_only=True)
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
            f"{path} is not a whole {wanted} file; it is of another program. Use another copy, or "
            f"write it anew. ({type(error).__name__})"
        ) from error
    if not as_wanted:
        raise ValueError(
            f"{path} is a file of kind {found!r}, version {version}; expected {wanted!r}, version {VERSION}. Pass "
            "a file of that kind, or write it anew with this version of pyro_kanerva."
        )
    return header, state
