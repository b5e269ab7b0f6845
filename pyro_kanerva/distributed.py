"""Writing from several processes into one memory, on ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

from pyro_kanerva.conjugate import NaturalParameters, add_evidence
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.streaming import empty_record, extend

if TYPE_CHECKING:
    from pyro_kanerva.memory import Memory


@torch.no_grad()
def write(memory: Memory, chunks: Iterable[Tensor], *, group: dist.ProcessGroup | None = None) -> Memory:
    r"""The memory after writing the chunks of all processes; every process gets the same one.

    ::

        in rounds, with one chunk of every process that has one left:
            each:       the addresses of its chunk, from the common memory by the machine's writer
            together:   U^-1 += sum over processes of E[w w^T] / sigma^2,   U^-1 R += the sum of E[w] z^T / sigma^2

    It is :meth:`Memory.write` of a stream whose chunks are those of a round put together, where addresses of a chunk
    do not wait for each other: for ``OnlineWriter(block_size)`` with blocks as long as all of them, for
    :class:`FrameWriter` and for :class:`AmortizedWriter`. With smaller blocks a process does not know, until the round
    is over, what the others write. The processes may have different numbers of chunks, of different lengths.

    :param memory: the same on all processes, of equal machines.
    :param chunks: of this process, each (B, T) + E, or (T,) + E.
    :param group: of processes; by default all.
    :raises ValueError: as :meth:`Memory.write`, if no process has a chunk, if the memories differ, or if there is no
        process group.
    :raises RuntimeError: if another process failed, is gone, or was silent for the timeout of the group.
    """
    if not dist.is_initialized():
        raise ValueError(
            "distributed.write(): there is no process group; call torch.distributed.init_process_group() first, or use "
            "memory.write(chunks)."
        )
    _check_equal(memory, group)
    records, record, iterator = memory.records, empty_record(memory), iter(chunks)
    while True:
        part, number, error = NaturalParameters(*(torch.zeros_like(sum_) for sum_ in record[2:])), 0, None
        try:
            chunk = next(iterator, None)
            if chunk is not None:
                codes, result = memory.encode_and_write(chunk)
                part, number = memory.evidence_of(codes, result), codes.shape[-2]
        except Exception as caught:  # the others must hear of it, or they would wait
            error = caught
        counts = torch.tensor(
            [number, number > 0, error is not None], dtype=torch.float64, device=part.precision.device
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
        record = extend(record, part, total)
        memory = memory.with_posterior(_add(memory.posterior, part), (*records, record))
    if not record.num_chunks:
        raise ValueError("distributed.write(): no process has a chunk; expected at least one.")
    return memory


def _add(posterior: MatrixNormal, part: NaturalParameters) -> MatrixNormal:
    exact = MatrixNormal(posterior.loc.double(), posterior.scale_tril_row.double(), validate_args=False)
    found = add_evidence(exact, part)
    return MatrixNormal(found.loc.to(posterior.loc), found.scale_tril_row.to(posterior.loc), validate_args=False)


def _check_equal(memory: Memory, group: dist.ProcessGroup | None) -> None:
    digest = memory.digest()
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
            f"distributed.write(): rank {dist.get_rank(group)} lost another process, which is gone or was silent for "
            "the timeout of init_process_group(). See what it said last, and start all of them again."
        ) from error
