"""Writing a stream of chunks, of any length, in constant memory."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._files import PathLike
from pyro_kanerva.conjugate import NaturalParameters
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.memory.records import Record, StreamRecord, empty_stream_record
from pyro_kanerva.memory.storage import StoredMemory, load_memory, save_memory
from pyro_kanerva.model import Parts
from pyro_kanerva.writers import check_continues

#: q(M) and a chunk -> q(M) after the chunk, the statistics that the chunk added, and its number of patterns.
WriteChunk = Callable[[MatrixNormal, Tensor], tuple[MatrixNormal, NaturalParameters, int]]


def write_stream(
    parts: Parts,
    start: StoredMemory,
    chunks: Iterable[Tensor],
    write_chunk: WriteChunk,
    path: PathLike | None,
    save_every: int,
    resume: bool,
    progress: bool,
    name: str | None,
) -> StoredMemory:
    """The stream of :meth:`pyro_kanerva.Memory.write`, written into the memory ``start``."""
    check_at_least("write()", 1, save_every=save_every)
    check_continues(parts.writer)
    posterior, record = start.posterior, empty_stream_record(start.posterior, name)
    if resume:
        posterior, record = _resumed(parts, start, path, name)
    elif path is not None and Path(path).exists():
        raise ValueError(f"write(): {path} exists already. Go on from it with resume=True, or take another file.")

    def stored() -> StoredMemory:
        return StoredMemory(posterior, start.event_shape, (*start.records, record))

    with tqdm(unit=" patterns", unit_scale=True, initial=record.num_patterns, disable=not progress) as bar:
        rest, written = iter(chunks), record.num_chunks
        skipped = sum(1 for _ in itertools.islice(rest, written))
        if skipped < written:
            raise ValueError(
                f"write(): the stream has {skipped} chunks, but {path} holds {written} of them. Pass the stream of the "
                "first call, from its beginning."
            )
        for chunk in rest:
            if not isinstance(chunk, Tensor):
                raise ValueError(f"write(): a chunk of the stream is a {type(chunk).__name__}; expected a tensor.")
            posterior, part, num_patterns = write_chunk(posterior, chunk)
            record = record.extended(part, num_patterns)
            bar.update(num_patterns)
            if path is not None and record.num_chunks % save_every == 0:
                save_memory(path, parts, stored())
    if record.num_chunks == 0:
        raise ValueError("write(): the stream has no chunks; expected at least one.")
    if path is not None:
        save_memory(path, parts, stored())
    return stored()


def _resumed(
    parts: Parts, start: StoredMemory, path: PathLike | None, name: str | None
) -> tuple[MatrixNormal, StreamRecord]:
    """q(M) and the record of the stream in ``path``, which began at ``start``."""
    if path is None:
        raise ValueError("write(): resume=True without a path; pass the file that holds the memory.")
    found = load_memory(path, parts)
    last = found.records[-1] if found.records else None
    shapes = [(memory.event_shape, memory.posterior.batch_shape) for memory in (found, start)]
    same = shapes[0] == shapes[1] and _equal(found.records[:-1], start.records)
    if not isinstance(last, StreamRecord) or not same:
        raise ValueError(
            f"write(): {path} does not hold this memory with part of a stream written; resume from the file and with "
            "the memory of the first call, or take another file."
        )
    if last.name != name:
        raise ValueError(f"write(): {path} holds a stream of name {last.name!r}, not {name!r}; pass the same name.")
    return found.posterior, last


def _equal(some: Sequence[Record], others: Sequence[Record]) -> bool:
    def same(one: object, other: object) -> bool:
        return one.equal(other) if isinstance(one, Tensor) and isinstance(other, Tensor) else one == other

    return len(some) == len(others) and all(
        type(one) is type(other) and all(map(same, one, other)) for one, other in zip(some, others, strict=True)
    )
