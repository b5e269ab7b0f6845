"""What an energy is."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from pyro_kanerva.priors import Coordinates


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
