"""What a query returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Retrieval(NamedTuple):
    """The path of a query of S steps, for B memories with Q cues each.

    ``patterns`` (S + 1, B, Q) + E: the cue first, then the mode of q_n(x). ``energy`` (S + 1, B, Q): in nats,
    never rises along dim 0. ``address`` (S + 1, B, Q, K): of the energy's q(w) the mean. ``converged`` (B, Q),
    bool: in the last step no entry changed, or the energy fell by at most the tolerance; False where the networks
    returned only NaN or infinite values. A converged query stops once its energy falls by less than 0.01 nats.
    """

    patterns: Tensor
    energy: Tensor
    address: Tensor
    converged: Tensor
