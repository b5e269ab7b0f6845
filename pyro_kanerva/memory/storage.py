"""Files of memories: what is stored, and for which machine."""

import hashlib
from typing import NamedTuple

from pyro_kanerva import _files
from pyro_kanerva._files import PathLike
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.memory.records import Record, StreamRecord, WriteRecord, move
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution


class StoredMemory(NamedTuple):
    """What a file of a memory holds: q(M), the shape E of a pattern, and the records of its writes."""

    posterior: MatrixNormal
    event_shape: tuple[int, ...]
    records: tuple[Record, ...]


def save_memory(path: PathLike, parts: Parts, memory: StoredMemory) -> None:
    """Write a file of a memory, whole or not at all."""
    posterior, event_shape, records = memory
    state = {
        "loc": posterior.loc.contiguous(),
        "scale_tril_row": posterior.scale_tril_row.contiguous(),
        "records": [tuple(record) for record in records],
        "streams": [isinstance(record, StreamRecord) for record in records],
    }
    header = {
        "event_shape": list(event_shape),
        "memory_shape": list(posterior.event_shape),
        "machine": fingerprint(parts),
    }
    _files.save(path, "memory", header, state)


def load_memory(path: PathLike, parts: Parts) -> StoredMemory:
    """Read a file that :func:`save_memory` wrote for these parts.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is broken, of another kind or version, unsafe, or of other parts.
    """
    reference = parts.log_code_scale
    header, state = _files.load(path, "memory", reference.device)
    size = [parts.num_slots, parts.code_size]
    if header.get("machine") != fingerprint(parts) or header.get("memory_shape") != size:
        raise ValueError(
            f"{path} was written by a machine with other parameters, whose codes and addresses mean something "
            "else. Load the checkpoint of that machine, or write the patterns again with this one."
        )
    streams = state.get("streams", [False] * len(state["records"]))  # older files have neither streams nor names
    kinds = [StreamRecord if stream else WriteRecord for stream in streams]
    records = [kind(*record) for kind, record in zip(kinds, state["records"], strict=True)]
    posterior = MatrixNormal(state["loc"].to(reference), state["scale_tril_row"].to(reference))
    moved = tuple(move(record, reference) for record in records)
    return StoredMemory(posterior, tuple(header["event_shape"]), moved)


def fingerprint(parts: Parts) -> str:
    """Equal for parts of equal parameters, buffers and kinds of priors, whatever their device and precision."""
    priors = [type(as_distribution(prior)).__name__ for prior in (parts.memory_prior, parts.address_prior)]
    digest = hashlib.sha256(f"{priors} {parts.code_posterior is None}".encode())
    for name, tensor in sorted([*parts.named_parameters(), *parts.named_buffers()]):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
