"""The records of a memory's writes: enough to undo each of them or a part of it, and to make the memory again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._checks import describe
from pyro_kanerva._repr import short_repr
from pyro_kanerva.conjugate import NaturalParameters, add_statistics, statistics
from pyro_kanerva.distributions import MatrixNormal


@short_repr
class WriteRecord(NamedTuple):
    """One write: ``codes`` (B, T, C) and the means ``addresses`` (B, T, K) under which they were stored.

    ``address_scale_tril`` (B, K, K) is the Cholesky factor of their covariance where it entered the update; all
    patterns of an episode share it. ``name`` and ``labels`` (B, T) are those that :meth:`Memory.write` was given.
    """

    codes: Tensor
    addresses: Tensor
    address_scale_tril: Tensor | None
    name: str | None = None
    labels: Tensor | None = None

    @property
    def num_patterns(self) -> int:
        """The patterns of the write, T in each episode."""
        return self.codes.shape[-2]

    def statistics(self, noise_scale: Tensor) -> NaturalParameters:
        """What the write added to the natural parameters of the memory, in float64."""
        return statistics(self.addresses, self.codes, noise_scale, self.address_scale_tril)


@short_repr
class StreamRecord(NamedTuple):
    """One stream of chunks: the sum of what they added to the memory, of constant size. Their codes are not kept.

    ``precision`` (B, K, K) and ``precision_loc`` (B, K, C) are :class:`~pyro_kanerva.conjugate.NaturalParameters`, in
    float64. ``name`` is the one that :meth:`Memory.write` was given.
    """

    num_chunks: int
    num_patterns: int
    precision: Tensor
    precision_loc: Tensor
    name: str | None = None

    def statistics(self, noise_scale: Tensor) -> NaturalParameters:
        """What the stream added to the natural parameters of the memory, in float64."""
        return NaturalParameters(self.precision, self.precision_loc)

    def extended(self, part: NaturalParameters, num_patterns: int) -> StreamRecord:
        """The record with one more chunk, of statistics ``part``."""
        return StreamRecord(
            self.num_chunks + 1,
            self.num_patterns + num_patterns,
            self.precision + part.precision,
            self.precision_loc + part.precision_loc,
            self.name,
        )


Record = WriteRecord | StreamRecord


def as_labels(labels: Tensor, codes: Tensor) -> Tensor:
    """``labels`` (B, T) or (T,) as (B, T), a copy on the device of the codes (B, T, C).

    :raises ValueError: if they are of another shape or no tensor.
    """
    batch, length = codes.shape[:2]
    found = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
    if found not in ((length,), (batch, length)):
        raise ValueError(
            f"write(): labels are {found}; expected a tensor of shape ({batch}, {length}) or ({length},), a label for "
            "each pattern."
        )
    return labels.detach().to(codes.device).expand(batch, length).clone()


#: Which patterns of a write: an index, several, or a mask (T,) or (B, T).
Index = int | Sequence[int] | Tensor


def without(record: Record, index: Index) -> WriteRecord | None:
    """The record of a write without the patterns at ``index``; None if no patterns are left.

    :raises ValueError: if the record is one of a stream, the index does not fit the record, or a mask marks unequal
        numbers of patterns in the episodes.
    """
    if isinstance(record, StreamRecord):
        raise ValueError(
            "erase(): the record is a StreamRecord, which keeps the sum over its patterns and not each of them. Erase "
            "the whole stream with erase(record), or write the patterns as one tensor, whose record keeps each pattern."
        )
    keep = ~_mask(index, record.codes)
    numbers = keep.sum(-1)
    if bool((numbers != numbers[0]).any()):
        raise ValueError(
            f"erase(): the mask leaves {numbers.tolist()} patterns in the episodes; expected equal numbers. Mark as "
            "many patterns in each episode."
        )
    if not numbers[0]:
        return None

    def kept(values: Tensor) -> Tensor:
        return values[keep].unflatten(0, (len(keep), -1))

    labels = None if record.labels is None else kept(record.labels)
    return record._replace(codes=kept(record.codes), addresses=kept(record.addresses), labels=labels)


def _mask(index: Index, codes: Tensor) -> Tensor:
    """The patterns at ``index`` as bool (B, T), for codes (B, T, C)."""
    batch, length = codes.shape[:2]
    try:
        chosen = torch.as_tensor(index, device=codes.device).to_dense()
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        raise ValueError(f"erase(): index is {describe(index)}; expected integers, or a bool mask.") from None
    if chosen.dtype == torch.bool:
        if chosen.shape not in ((length,), (batch, length)):
            raise ValueError(
                f"erase(): index is a mask of shape {tuple(chosen.shape)}; expected ({length},) or ({batch}, "
                f"{length}), an entry for each pattern of the write."
            )
        return chosen.expand(batch, length)
    if chosen.numel() == 0:
        chosen = chosen.long()
    if chosen.dtype not in (torch.int64, torch.int32) or chosen.dim() > 1:
        raise ValueError(
            f"erase(): index has dtype {chosen.dtype} and shape {tuple(chosen.shape)}; expected an integer, a list or "
            "vector of integers, or a bool mask."
        )
    if bool(((chosen < -length) | (chosen >= length)).any()):
        raise ValueError(f"erase(): index is {chosen.tolist()}; expected 0 to {length - 1}, the patterns of the write.")
    mask = torch.zeros(batch, length, dtype=torch.bool, device=codes.device)
    mask[:, chosen] = True
    return mask


def move(record: Record, reference: Tensor) -> Record:
    """The record on the device of ``reference``; codes and addresses also in its dtype, statistics stay in float64."""
    if isinstance(record, StreamRecord):
        device = reference.device
        return record._replace(precision=record.precision.to(device), precision_loc=record.precision_loc.to(device))
    factor, labels = record.address_scale_tril, record.labels
    return record._replace(
        codes=record.codes.to(reference),
        addresses=record.addresses.to(reference),
        address_scale_tril=None if factor is None else factor.to(reference),
        labels=None if labels is None else labels.to(reference.device),
    )


def empty_stream_record(posterior: MatrixNormal, name: str | None = None) -> StreamRecord:
    """The record of a stream of which nothing has been written into ``posterior``."""
    loc = posterior.loc
    precision = loc.new_zeros(*loc.shape[:-1], loc.shape[-2], dtype=torch.float64)
    return StreamRecord(0, 0, precision, torch.zeros_like(loc, dtype=torch.float64), name)


def posterior_from_records(prior: MatrixNormal, code_scale: Tensor, records: Sequence[Record]) -> MatrixNormal:
    """``prior`` with the statistics of ``records`` added; batch and dtype are those of ``prior``."""
    return add_statistics(prior, *(record.statistics(code_scale) for record in records)) if records else prior


def account_for(rebuilt: MatrixNormal, posterior: MatrixNormal) -> bool:
    """True if ``rebuilt``, a memory made from its records, is the ``posterior`` within 1e-3, the error of float32."""
    pairs = (rebuilt.loc, posterior.loc), (rebuilt.row_covariance, posterior.row_covariance)
    return all(bool((found - expected).abs().max() <= 1e-3 * expected.abs().max()) for found, expected in pairs)
