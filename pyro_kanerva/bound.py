"""The evidence lower bound, term by term."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Bound(NamedTuple):
    """The terms of the evidence lower bound, each (B,), in nats per pattern.

    ``reconstruction`` is E_q log p(x_t | w_t, M), ``address_kl`` E_q KL(q(w_t | x_t, M) || p(w)),
    ``memory_kl`` KL(q(M) || p(M)) / T, and ``code_kl`` E_q KL(q(z_t | x_t) || p(z_t | w_t, M)), which is zero
    unless the codes are latent.
    """

    reconstruction: Tensor
    address_kl: Tensor
    memory_kl: Tensor
    code_kl: Tensor = torch.zeros(())

    @property
    def bound(self) -> Tensor:
        """``reconstruction`` less all three divergences, a lower bound on ``log p(X) / T``: the honest figure."""
        return self.conditional_bound - self.memory_kl

    @property
    def conditional_bound(self) -> Tensor:
        """``reconstruction - address_kl - code_kl``: as if the memory were given for free."""
        return self.reconstruction - self.address_kl - self.code_kl
