"""Writing from several processes into one memory, on ``torch.distributed``."""

import hashlib
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_kanerva.conjugate import NaturalParameters, add_statistics
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.memory.memory import Memory
from pyro_kanerva.memory.records import account_for, empty_stream_record
from pyro_kanerva.memory.storage import fingerprint
from pyro_kanerva.writers import check_continues


@torch.no_grad()
def write(memory: Memory, chunks: Iterable[Tensor], *, group: dist.ProcessGroup | None = None) -> Memory:
    r"""The memory after writing the chunks of all processes; every process gets the same one.

    ::

        in each round, with one chunk of every process that has chunks left:
            each:       the addresses of its chunk, from the common memory by the machine's writer
            together:   U^-1 += sum over processes of E[w w^T] / sigma^2,   U^-1 R += the sum of E[w] z^T / sigma^2

    The result is that of :meth:`pyro_kanerva.Memory.write` on a stream whose chunks are the joined chunks of each
    round, if the addresses of a joined chunk are computed together: for ``OnlineWriter(block_size)`` with blocks of
    that length, for :class:`~pyro_kanerva.FrameWriter` and for :class:`~pyro_kanerva.AmortizedWriter`. With smaller
    blocks, the addresses of a round do not depend on what the other processes write in it. Numbers and lengths of
    chunks may differ.

    :param memory: the same on all processes, of equal machines.
    :param chunks: of this process, each (B, T) + E, or (T,) + E.
    :param group: of processes; by default all.
    :raises ValueError: as :meth:`pyro_kanerva.Memory.write`, if no process has a chunk, if the memories differ, if
        there is no process group, or if the memory of the writer is not the sum of its statistics.
    :raises RuntimeError: if another process failed, ended, or did not answer within the timeout of the group.
    """
    if not dist.is_initialized():
        raise ValueError(
            "distributed.write(): there is no process group; call torch.distributed.init_process_group() first, or use "
            "memory.write(chunks)."
        )
    _check_equal(memory, group)
    check_continues(memory.machine.writer)
    posterior, record, iterator = memory.posterior, empty_stream_record(memory.posterior), iter(chunks)
    while True:
        part = NaturalParameters(torch.zeros_like(record.precision), torch.zeros_like(record.precision_loc))
        num_patterns, error = 0, None
        try:
            chunk = next(iterator, None)
            if chunk is not None:
                found, part, num_patterns = memory.write_chunk(posterior, chunk)
                part = NaturalParameters(*(sum_.double() for sum_ in part))
                _check_sum(memory, add_statistics(posterior, part), found)
        except Exception as caught:  # the other processes must know, or they would wait
            error = caught
        counts = torch.tensor(
            [num_patterns, num_patterns > 0, error is not None], dtype=torch.float64, device=part.precision.device
        )
        sums = torch.cat([counts, *(sum_.double().flatten() for sum_ in part)])
        _all_reduce(sums, group)
        if error is not None:
            raise error
        total, active, failed = (int(count) for count in sums[:3].tolist())
        if failed:
            raise RuntimeError("distributed.write(): another process failed; see its error.")
        if not active:
            break
        precision, precision_loc = sums[3:].split([sum_.numel() for sum_ in part])
        part = NaturalParameters(precision.view_as(part.precision), precision_loc.view_as(part.precision_loc))
        record = record.extended(part, total)
        posterior = add_statistics(posterior, part)
    if not record.num_chunks:
        raise ValueError("distributed.write(): no process has a chunk; expected at least one.")
    return Memory(memory.machine, posterior, memory.event_shape, (*memory.records, record))


def _check_sum(memory: Memory, expected: MatrixNormal, found: MatrixNormal) -> None:
    """:raises ValueError: if ``found``, what the writer made of a chunk, is not the sum of its statistics."""
    if not account_for(expected, found):
        raise ValueError(
            f"distributed.write(): the memory of {type(memory.machine.writer).__name__} is not the sum of the "
            "statistics of its patterns, so the writes of several processes do not add up. Write on one process, or "
            "build the machine with OnlineWriter(8, 1)."
        )


def _check_equal(memory: Memory, group: dist.ProcessGroup | None) -> None:
    hashed = hashlib.sha256(f"{fingerprint(memory.machine)} {type(memory.machine.writer).__qualname__}".encode())
    for tensor in (memory.posterior.loc, memory.posterior.scale_tril_row):
        hashed.update(tensor.cpu().contiguous().numpy().tobytes())
    digest = int.from_bytes(hashed.digest()[:7])
    extremes = torch.tensor([digest, -digest], device=memory.posterior.loc.device)
    _all_reduce(extremes, group, dist.ReduceOp.MAX)
    if extremes.tolist() != [digest, -digest]:
        raise ValueError(
            "distributed.write(): the memories or machines of the processes differ. Build the machine from one seed or "
            "one checkpoint, and start from the same memory everywhere."
        )


def _all_reduce(
    tensor: Tensor, group: dist.ProcessGroup | None, op: dist.ReduceOp.RedOpType = dist.ReduceOp.SUM
) -> None:
    try:
        dist.all_reduce(tensor, op, group)
    except RuntimeError as error:
        raise RuntimeError(
            f"distributed.write(): rank {dist.get_rank(group)} lost another process, which ended or did not answer "
            "within the timeout of init_process_group(). See its last output, and start all processes again."
        ) from error
