"""What a memory knows of its writes: enough to undo each of them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyro_kanerva.conjugate import NaturalParameters, evidence


class WriteRecord(NamedTuple):
    """One write: ``codes`` (B, T, C) and the means ``addresses`` (B, T, K) under which they were stored.

    ``address_scale_tril`` (B, K, K) is the Cholesky factor of their covariance where it entered the update.
    """

    codes: Tensor
    addresses: Tensor
    address_scale_tril: Tensor | None

    @property
    def num_patterns(self) -> int:
        """T."""
        return self.codes.shape[-2]

    def evidence(self, noise_scale: Tensor) -> NaturalParameters:
        """What the write added to the natural parameters of the memory, in float64."""
        factor = None if self.address_scale_tril is None else self.address_scale_tril.double()
        return evidence(self.addresses.double(), self.codes.double(), noise_scale.double(), factor)


class StreamRecord(NamedTuple):
    """One stream of chunks, whose codes are not kept: what they added to the memory, whatever their number.

    ``precision`` (B, K, K) and ``precision_loc`` (B, K, C) are :class:`~pyro_kanerva.conjugate.NaturalParameters`, in
    float64.
    """

    num_chunks: int
    num_patterns: int
    precision: Tensor
    precision_loc: Tensor

    def evidence(self, noise_scale: Tensor) -> NaturalParameters:
        """What the stream added to the natural parameters of the memory, in float64."""
        return NaturalParameters(self.precision, self.precision_loc)


Record = WriteRecord | StreamRecord
