"""The protocol of writers, their result, and their optional attributes."""

from typing import NamedTuple, Protocol

from torch import Tensor

from pyro_kanerva._repr import short_repr
from pyro_kanerva.conjugate import NaturalParameters
from pyro_kanerva.distributions import MatrixNormal


@short_repr
class WriteResult(NamedTuple):
    """What a writer returns: q(M) and the addresses at which it stored the patterns.

    ``memory``: q(M), batch shape (B,) and event shape (K, C). ``addresses`` (B, T, K): the means E[w_t].
    ``address_scale_tril`` (B, K, K): the Cholesky factor of their covariance, if the update used it. ``statistics``:
    what the episode added to the natural parameters, if the writer computed it.
    """

    memory: MatrixNormal
    addresses: Tensor
    address_scale_tril: Tensor | None = None
    statistics: NaturalParameters | None = None


class Writer(Protocol):
    """Any callable of this signature; it gives q(M), the guide of the memory.

    Two attributes are optional, see :func:`continues` and :func:`needs_distinct_slots`.
    """

    def __call__(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor, /) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``, of batch shape () or (B,) and event shape (K, C).

        ``prior`` is the prior memory or one written before. ``code_scale`` is sigma, a standard deviation, shape ().
        """


def continues(writer: Writer) -> bool:
    """True if the writer keeps what ``prior`` already holds; False if it has the attribute ``continues = False``."""
    return bool(getattr(writer, "continues", True))


def check_continues(writer: Writer) -> None:
    """:raises ValueError: if the writer does not keep what ``prior`` already holds."""
    if not continues(writer):
        raise ValueError(
            f"write(): {type(writer).__name__} starts anew with every write and would lose what came before. Write all "
            "patterns at once, or build the machine with OnlineWriter(8, 1)."
        )


def needs_distinct_slots(writer: Writer) -> bool:
    """True for a writer with ``needs_distinct_slots = True``: it gives slots of equal mean equal addresses."""
    return bool(getattr(writer, "needs_distinct_slots", False))
