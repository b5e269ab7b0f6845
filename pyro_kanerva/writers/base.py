"""What a writer is, what it returns, and what it may add."""

from typing import NamedTuple, Protocol

from torch import Tensor

from pyro_kanerva.conjugate import NaturalParameters
from pyro_kanerva.distributions import MatrixNormal


class WriteResult(NamedTuple):
    """What a writer returns: q(M) and the addresses under which the patterns were stored.

    ``memory`` has batch (B,) and event (K, C); ``addresses`` (B, T, K) are the means E[w_t], and
    ``address_scale_tril`` (B, K, K) the Cholesky factor of their covariance where it entered the update.
    ``statistics`` is what they added to the natural parameters, if the writer has computed it.
    """

    memory: MatrixNormal
    addresses: Tensor
    address_scale_tril: Tensor | None = None
    statistics: NaturalParameters | None = None


class Writer(Protocol):
    """How an episode becomes q(M), the amortized variational guide of the memory: any callable of this signature.

    Two attributes are optional, see :func:`continues` and :func:`needs_distinct_slots`.
    """

    def __call__(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor, /) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``, of batch shape () or (B,) and event shape (K, C).

        ``code_scale`` is sigma, a standard deviation, shape ().
        """


def continues(writer: Writer) -> bool:
    """False for a writer with ``continues = False``: it does not keep what a memory already holds. Default: True."""
    return bool(getattr(writer, "continues", True))


def check_continues(writer: Writer) -> None:
    """:raises ValueError: if the writer does not keep what a memory already holds."""
    if not continues(writer):
        raise ValueError(
            f"write(): {type(writer).__name__} starts anew with every write and would lose what came before. Write all "
            "patterns at once, or build the machine with OnlineWriter(8, 1)."
        )


def needs_distinct_slots(writer: Writer) -> bool:
    """True for a writer with ``needs_distinct_slots = True``: it cannot address slots of equal mean. Default: False."""
    return bool(getattr(writer, "needs_distinct_slots", False))
