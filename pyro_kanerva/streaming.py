"""Writing a stream of chunks, of any length, with constant memory use."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_kanerva.conjugate import NaturalParameters
from pyro_kanerva.records import Record, StreamRecord

if TYPE_CHECKING:
    from pyro_kanerva.memory import Memory


@torch.no_grad()
def write_stream(
    memory: Memory,
    chunks: Iterable[Tensor],
    path: str | os.PathLike[str] | None,
    save_every: int,
    resume: bool,
    progress: bool,
) -> Memory:
    """:meth:`pyro_kanerva.Memory.write` of an iterable of chunks."""
    if save_every < 1:
        raise ValueError(f"write(): save_every is {save_every}; expected at least 1.")
    if getattr(memory.machine.writer, "forgets", False):
        raise ValueError(
            f"write(): {type(memory.machine.writer).__name__} starts anew with every chunk and would lose what came "
            "before. Write all patterns at once, or build the machine with OnlineWriter(8, 1)."
        )
    start = memory
    if resume:
        memory = _resume(start, path)
    elif path is not None and Path(path).exists():
        raise ValueError(f"write(): {path} exists already. Go on from it with resume=True, or take another file.")
    record = memory.records[-1] if resume else empty_record(memory)
    assert isinstance(record, StreamRecord)
    with tqdm(unit=" patterns", unit_scale=True, initial=record.num_patterns, disable=not progress) as bar:
        for chunk in itertools.islice(chunks, record.num_chunks, None):
            if not isinstance(chunk, Tensor):
                raise ValueError(f"write(): a chunk of the stream is a {type(chunk).__name__}; expected a tensor.")
            codes, result = memory.encode_and_write(chunk)
            part = memory.evidence_of(codes, result)
            record = extend(record, part, codes.shape[-2])
            memory = memory.with_posterior(result.memory, (*start.records, record))
            bar.update(codes.shape[-2])
            if path is not None and record.num_chunks % save_every == 0:
                memory.save(path)
    if record.num_chunks == 0:
        raise ValueError("write(): the stream has no chunks; expected at least one.")
    if path is not None:
        memory.save(path)
    return memory


def empty_record(memory: Memory) -> StreamRecord:
    """The record of a stream of which nothing has been written."""
    loc = memory.posterior.loc
    precision = loc.new_zeros(*loc.shape[:-1], loc.shape[-2], dtype=torch.float64)
    return StreamRecord(0, 0, precision, torch.zeros_like(loc, dtype=torch.float64))


def extend(record: StreamRecord, part: NaturalParameters, num_patterns: int) -> StreamRecord:
    """The record with one more chunk of evidence ``part``."""
    return StreamRecord(
        record.num_chunks + 1,
        record.num_patterns + num_patterns,
        record.precision + part.precision,
        record.precision_loc + part.precision_loc,
    )


def _resume(memory: Memory, path: str | os.PathLike[str] | None) -> Memory:
    if path is None:
        raise ValueError("write(): resume=True without a path; pass the file that holds the memory.")
    found = type(memory).load(path, memory.machine)
    before, last = found.records[:-1], found.records[-1] if found.records else None
    shapes = [(other.event_shape, other.posterior.batch_shape) for other in (found, memory)]
    same = len(before) == len(memory.records) and all(map(_equal, before, memory.records))
    if not isinstance(last, StreamRecord) or not same or shapes[0] != shapes[1]:
        raise ValueError(
            f"write(): {path} does not hold this memory with part of a stream written; resume from the file and with "
            "the memory of the first call, or take another file."
        )
    return found


def _equal(one: Record, other: Record) -> bool:
    return type(one) is type(other) and all(
        torch.equal(left, right) if isinstance(left, Tensor) and isinstance(right, Tensor) else left == right
        for left, right in zip(one, other, strict=True)
    )
