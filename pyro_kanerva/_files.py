"""Files: written completely or not at all, verified when they are read, and read without running code in them."""

import hashlib
import io
import json
import os
import pickle
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
_LOCKED: dict[str, int] = {}  # the folders that threads of this process have locked, and the threads


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
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk is told without a name
    finally:
        temporary.unlink(missing_ok=True)


def _lock(file: IO[bytes]) -> None:
    """Lock ``file`` until it is closed or its process ends; raises OSError if another process holds the lock."""
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: PathLike) -> Iterator[None]:
    """Lock a folder until the block or its process ends, against all but the same thread; else a ``ValueError``."""
    path, thread = os.path.realpath(folder), threading.get_ident()
    if fcntl is None or not os.path.isdir(path) or _LOCKED.get(path) == thread:
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ValueError(
            f"{folder}: another training is running there. Wait for it, or pass another folder."
        ) from error
    except OSError:
        pass  # some network file systems do not lock folders
    _LOCKED[path] = thread
    try:
        yield
    finally:
        del _LOCKED[path]
        os.close(handle)  # which ends the lock


def regular_file(path: PathLike) -> Path:
    """``path``, or a ``ValueError`` if a folder, a pipe or a device is there: to read those may never end."""
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"{path} is no regular file; pipes, devices and folders are not read. Pass a regular file.")
    return Path(path)


def read_json(path: PathLike) -> dict[str, Any]:
    """The mapping in a JSON file, or a ``ValueError``."""
    text = regular_file(path).read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON file ({error}). Restore it from a copy.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} has a {type(content).__name__}; expected values by name. Restore it from a copy.")
    return content


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
    file = regular_file(path).read_bytes()
    if hashlib.sha256(file[:-_DIGEST_SIZE]).digest() != file[-_DIGEST_SIZE:]:
        raise ValueError(
            f"{path} is not a whole {wanted} file: it is damaged, cut off, of another program, or of an older version. "
            "Use another copy, or write it anew."
        )
    try:
        content = torch.load(io.BytesIO(file), map_location=device, weights_only=True)
        found, version = content["kind"], content["version"]
        as_wanted = (found, version) == (wanted, VERSION)
        header, state = (dict(json.loads(content["header"])), content["state"]) if as_wanted else ({}, None)
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
