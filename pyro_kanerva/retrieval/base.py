"""What a query is given, and what it returns."""

from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from pyro_kanerva._checks import describe
from pyro_kanerva._repr import field_rows, is_image, picture, short_repr, table
from pyro_kanerva.priors import Coordinates


@runtime_checkable
class Energy(Protocol):
    """How the address enters the free energy that a query lowers.

    With ``V(w) = -log p(c | w, M)`` for a cue under a channel, or ``-log p(x | w, M)`` without one, the energy is
    the mean of V over the points ``address + deviations``, plus the term of the address.
    """

    def deviations(self, scale_tril: Tensor, num_cues: int) -> Tensor:
        """Where V is evaluated, relative to the address, in real coordinates: (S, B, Q, n), or broadcastable to it.

        ``scale_tril`` (B, n, n) is the Cholesky factor of the covariance of q(w | x, M).
        """

    def address_term(self, points: Tensor, scale_tril: Tensor, coordinates: Coordinates) -> Tensor:
        """The term of the address in nats, (B, Q); ``points`` (S, B, Q, n) are coordinates around their mean."""


def check_energy(energy: object) -> None:
    """:raises ValueError: if ``energy`` is not an energy."""
    if isinstance(energy, type) or not isinstance(energy, Energy):
        raise ValueError(
            f"query(): energy is {describe(energy)}; expected PointEnergy(), VariationalEnergy(), or an object with "
            "the methods deviations and address_term."
        )


class _Path(NamedTuple):
    patterns: Tensor
    energy: Tensor
    address: Tensor
    converged: Tensor


@short_repr
class Retrieval(_Path):
    """The path of a query of S steps, for B memories with Q cues each.

    ``patterns`` (S + 1, B, Q) + E: the cue first, then the mode of q_n(x). ``energy`` (S + 1, B, Q): in nats,
    never rises along dim 0. ``address`` (S + 1, B, Q, K): the mean of q(w), or the point w. ``converged`` (B, Q),
    bool: in the last step no entry changed, or the energy fell by at most the tolerance; False if a
    trial gave NaN or infinite values and the energy has not fallen since. A converged query stops once its energy
    falls by at most 0.01 nats, or the tolerance. These four are the fields of the tuple.

    The attribute ``level`` (B, Q) is, with the channel :class:`~pyro_kanerva.UnknownLevel`, its estimate at the last
    address: the level p of the damage, or the ``scale`` of ``GaussianNoise``. It is None with every other channel.
    """

    level: Tensor | None = None

    def _repr_html_(self) -> str:
        """For notebooks: the first cues of the first memory, before and after the query."""
        rows = field_rows(self)
        if is_image(self.patterns.shape[3:]):
            last = len(self.patterns) - 1
            steps = {"cue": 0, "step 1": 1, f"step {last}": last} if last else {"cue": 0}
            rows = [(name, picture(self.patterns[step, 0])) for name, step in steps.items()] + rows
        return table("Retrieval", rows)
