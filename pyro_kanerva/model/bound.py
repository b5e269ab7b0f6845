"""The evidence lower bound, term by term."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._precision import autocast_off
from pyro_kanerva._repr import describe, field_rows, short_repr, table
from pyro_kanerva.distributions.divergence import divergence
from pyro_kanerva.model.parts import Parts
from pyro_kanerva.priors import as_distribution


@short_repr
class Bound(NamedTuple):
    """The terms of the evidence lower bound, each (B,), in nats per pattern.

    ``reconstruction`` is E_q log p(x_t | w_t, M), ``address_kl`` E_q KL(q(w_t | x_t, M) || p(w)), ``memory_kl`` KL(q(M)
    || p(M)) / T, and ``code_kl`` E_q KL(q(z_t | x_t) || p(z_t | w_t, M)), which is zero unless the codes are latent.
    """

    reconstruction: Tensor
    address_kl: Tensor
    memory_kl: Tensor
    code_kl: Tensor = torch.zeros(())

    @property
    def bound(self) -> Tensor:
        """``reconstruction`` less all three divergences: a lower bound on ``log p(X) / T``."""
        return self.conditional_bound - self.memory_kl

    @property
    def conditional_bound(self) -> Tensor:
        """``reconstruction - address_kl - code_kl``: the bound without the memory KL. It is no bound on log p(X)."""
        return self.reconstruction - self.address_kl - self.code_kl

    def _repr_html_(self) -> str:
        """For notebooks: the terms and both bounds."""
        sums = {"bound": self.bound, "conditional_bound": self.conditional_bound}
        rows = [(name, describe(value).strip("<>")) for name, value in sums.items()]
        return table("Bound, nats per pattern", [*field_rows(self), *rows])


def lower_bound(parts: Parts, patterns: Tensor, num_particles: int) -> Bound:
    """The bound behind :meth:`pyro_kanerva.KanervaMachine.bound`, for checked patterns (B, T) + E."""
    codes = parts.encode(patterns)
    with autocast_off(codes):
        posterior = parts.write_codes(codes).memory
        matrix = posterior.rsample((num_particles,))  # (P, B, K, C)
        reader = parts.read_codes(codes, matrix)
        discrete = reader.has_enumerate_support
        if discrete:  # every slot, weighted by its probability
            address = reader.enumerate_support(expand=False)  # (K, 1, 1, 1, K)
        else:
            address = (reader.rsample() if reader.has_rsample else reader.sample()).unsqueeze(0)  # (1, P, B, T, K)
        code = parts.code(address, matrix)
        code_kl = code.new_zeros(())
        if parts.code_posterior is not None:
            q, p = parts.read_code_posterior(codes), parts.code_prior(code)
            code = q.rsample((num_particles,)).unsqueeze(0)  # (1, P, B, T, C)
            code_kl = divergence(q, p, code)
        address_kl = divergence(reader, as_distribution(parts.address_prior), address.squeeze(0))
        memory_kl = divergence(posterior, as_distribution(parts.memory_prior), matrix)
    log_prob = parts.decode(code, tuple(patterns.shape[2:])).log_prob(patterns)
    weights = reader.log_prob(address).exp() if discrete else torch.ones_like(log_prob[:1])  # (K or 1, P, B, T)
    reconstruction = (weights * log_prob).sum(0)  # (P, B, T)
    return Bound(
        reconstruction.mean((0, -1)),
        address_kl.expand(reconstruction.shape).mean((0, -1)),
        memory_kl.expand(reconstruction.shape[:-1]).mean(0) / patterns.shape[1],
        (weights * code_kl).sum(0).mean((0, -1)),
    )
