"""What a memory knows of its writes: enough to undo each of them, and to make it anew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from pyro_kanerva.conjugate import NaturalParameters, add_evidence, evidence
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.priors import gaussian_memory

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine


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


def of_records(machine: KanervaMachine, like: MatrixNormal, records: Sequence[Record]) -> MatrixNormal:
    """The memory prior with the evidence of ``records``, in float64 and then in the batch and dtype of ``like``."""
    posterior = gaussian_memory(machine.memory_prior).expand(like.batch_shape)
    if not records:
        return posterior
    prior = MatrixNormal(posterior.loc.double(), posterior.scale_tril_row.double(), validate_args=False)
    found = add_evidence(prior, *(record.evidence(machine.code_scale) for record in records))
    return MatrixNormal(found.loc.to(like.loc), found.scale_tril_row.to(like.loc), validate_args=False)


def check_evidence(rebuilt: MatrixNormal, posterior: MatrixNormal, machine: KanervaMachine, caller: str) -> None:
    """That the records account for a memory; float32 writes stay within 1e-3 of float64.

    :raises ValueError: if they do not.
    """
    for found, expected in (
        (rebuilt.loc, posterior.loc),
        (rebuilt.row_covariance, posterior.row_covariance),
    ):
        if not bool((found - expected).abs().max() <= 1e-3 * expected.abs().max()):
            raise ValueError(
                f"{caller}: the memory is not the memory prior with the evidence of its records, so that its "
                f"writes cannot be told apart: {type(machine.writer).__name__} does not add evidence up "
                "(OnlineWriter does), the machine was trained since, or the memory did not start from its prior. "
                "Write the patterns that are to stay."
            )
