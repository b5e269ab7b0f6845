"""Writing a stream of chunks, of any length, in constant memory."""

import itertools
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from tqdm import tqdm

from pyro_kanerva.conjugate import NaturalParameters
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.memory.records import Record, StreamRecord

SAVE_EVERY = 10  # chunks between two saves, by default


def write_chunks(
    posterior: MatrixNormal,
    record: StreamRecord,
    chunks: Iterable[Tensor],
    write_chunk: Callable[[MatrixNormal, Tensor], tuple[MatrixNormal, NaturalParameters, int]],
    save: Callable[[MatrixNormal, StreamRecord], None],
    save_every: int,
    progress: bool,
) -> tuple[MatrixNormal, StreamRecord]:
    """Write ``chunks`` into ``posterior``, without those that ``record`` already counts.

    :param write_chunk: returns q(M) after a chunk, the statistics that the chunk added, and its number of patterns.
    :param save: called after every ``save_every`` chunks, and at the end.
    :raises ValueError: if there are no chunks, or one is not a tensor.
    """
    with tqdm(unit=" patterns", unit_scale=True, initial=record.num_patterns, disable=not progress) as bar:
        for chunk in itertools.islice(chunks, record.num_chunks, None):
            if not isinstance(chunk, Tensor):
                raise ValueError(f"write(): a chunk of the stream is a {type(chunk).__name__}; expected a tensor.")
            posterior, part, num_patterns = write_chunk(posterior, chunk)
            record = record.extended(part, num_patterns)
            bar.update(num_patterns)
            if record.num_chunks % save_every == 0:
                save(posterior, record)
    if record.num_chunks == 0:
        raise ValueError("write(): the stream has no chunks; expected at least one.")
    save(posterior, record)
    return posterior, record


def is_continued(found: Sequence[Record], start: Sequence[Record]) -> bool:
    """True if the records ``found`` are those of ``start`` and one stream more."""
    before = found[:-1]
    same = len(before) == len(start) and all(map(_equal, before, start))
    return same and bool(found) and isinstance(found[-1], StreamRecord)


def _equal(one: Record, other: Record) -> bool:
    return type(one) is type(other) and all(
        left.equal(right) if isinstance(left, Tensor) and isinstance(right, Tensor) else left == right
        for left, right in zip(one, other, strict=True)
    )
