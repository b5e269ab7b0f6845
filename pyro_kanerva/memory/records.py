"""The records of a memory's writes: enough to undo each of them, and to make the memory again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva.conjugate import NaturalParameters, add_statistics, statistics
from pyro_kanerva.distributions import MatrixNormal


class WriteRecord(NamedTuple):
    """One write: ``codes`` (B, T, C) and the means ``addresses`` (B, T, K) under which they were stored.

    ``address_scale_tril`` (B, K, K) is the Cholesky factor of their covariance where it entered the update.
    """

    codes: Tensor
    addresses: Tensor
    address_scale_tril: Tensor | None

    @property
    def num_patterns(self) -> int:
        """The patterns of the write, T in each episode."""
        return self.codes.shape[-2]

    def statistics(self, noise_scale: Tensor) -> NaturalParameters:
        """What the write added to the natural parameters of the memory, in float64."""
        factor = None if self.address_scale_tril is None else self.address_scale_tril.double()
        return statistics(self.addresses.double(), self.codes.double(), noise_scale.double(), factor)


class StreamRecord(NamedTuple):
    """One stream of chunks: the sum of what they added to the memory, of constant size. Their codes are not kept.

    ``precision`` (B, K, K) and ``precision_loc`` (B, K, C) are :class:`~pyro_kanerva.conjugate.NaturalParameters`, in
    float64.
    """

    num_chunks: int
    num_patterns: int
    precision: Tensor
    precision_loc: Tensor

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
        )


Record = WriteRecord | StreamRecord


def empty_stream_record(posterior: MatrixNormal) -> StreamRecord:
    """The record of a stream of which nothing has been written into ``posterior``."""
    loc = posterior.loc
    precision = loc.new_zeros(*loc.shape[:-1], loc.shape[-2], dtype=torch.float64)
    return StreamRecord(0, 0, precision, torch.zeros_like(loc, dtype=torch.float64))


def add_in_float64(posterior: MatrixNormal, *parts: NaturalParameters) -> MatrixNormal:
    """``posterior`` with statistics added in float64, in its own dtype."""
    exact = MatrixNormal(posterior.loc.double(), posterior.scale_tril_row.double(), validate_args=False)
    found = add_statistics(exact, *parts)
    return MatrixNormal(found.loc.to(posterior.loc), found.scale_tril_row.to(posterior.loc), validate_args=False)


def posterior_from_records(prior: MatrixNormal, code_scale: Tensor, records: Sequence[Record]) -> MatrixNormal:
    """``prior`` with the statistics of ``records`` added; batch and dtype are those of ``prior``."""
    return add_in_float64(prior, *(record.statistics(code_scale) for record in records)) if records else prior


def account_for(rebuilt: MatrixNormal, posterior: MatrixNormal) -> bool:
    """True if ``rebuilt``, a memory made from its records, is the ``posterior`` within 1e-3, the error of float32."""
    pairs = (rebuilt.loc, posterior.loc), (rebuilt.row_covariance, posterior.row_covariance)
    return all(bool((found - expected).abs().max() <= 1e-3 * expected.abs().max()) for found, expected in pairs)
