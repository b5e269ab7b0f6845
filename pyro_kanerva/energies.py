r"""Energies of a query: how the address enters the free energy that retrieval lowers.

With ``V(w) = -log p(c | w, M)`` for a cue under a channel, or ``-log p(x | w, M)`` without one:

- :class:`PointEnergy`: ``V(w) - log p(w)``, of a single address;
- :class:`VariationalEnergy`: ``E_q(w)[V(w)] + KL(q(w) || p(w))``, of a Gaussian ``q(w)``.
"""

from __future__ import annotations

from typing import Protocol

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva.priors import Coordinates, divergence


class Energy(Protocol):
    """What a query needs of an energy."""

    def deviations(self, scale_tril: Tensor, num_cues: int) -> Tensor:
        """Where V is evaluated, relative to the address, in real coordinates: (S, B, Q, n), or broadcastable to it.

        ``scale_tril`` (B, n, n) is the Cholesky factor of the covariance of q(w | x, M).
        """

    def divergence(self, points: Tensor, scale_tril: Tensor, where: Coordinates) -> Tensor:
        """The term of the address in nats, (B, Q); ``points`` (S, B, Q, n) are coordinates around their mean."""


class PointEnergy:
    """A single address w: ``-log p(c | w, M) - log p(w)``, its negative log posterior up to a constant."""

    def deviations(self, scale_tril: Tensor, num_cues: int) -> Tensor:
        """Zero, (1, 1, 1, 1)."""
        return scale_tril.new_zeros(1, 1, 1, 1)

    def divergence(self, points: Tensor, scale_tril: Tensor, where: Coordinates) -> Tensor:
        """``-log p(w)``."""
        return -where.log_density(points[0])


class VariationalEnergy:
    r"""A Gaussian q(w) instead of a point, the paper's variational energy (in nats)::

        E_q(w)[-log p(c | w, M)] + KL(q(w) || p(w)) >= -log p(c | M)

    The covariance of q(w) is that of q(w | x, M) in the linear-Gaussian surrogate, its mean is what the
    query moves. The expectation is a mean over ``num_samples`` deviations in opposite pairs, drawn once for
    a query, so that the energy stays one function of the mean and descent holds exactly. They belong to a
    cue's place among the cues: the same cue elsewhere has others.

    :param num_samples: even; each costs a decoder pass.
    :param seed: of the deviations.
    :raises ValueError: if ``num_samples`` is not an even positive number.

    Source: Wu et al. 2018 (arXiv 1811.09556), section 3.4.
    """

    def __init__(self, num_samples: int = 8, seed: int = 0) -> None:
        if num_samples < 2 or num_samples % 2:
            raise ValueError(f"VariationalEnergy: num_samples is {num_samples}; expected an even number, 2 or more.")
        self.num_samples, self.seed = num_samples, seed

    def deviations(self, scale_tril: Tensor, num_cues: int) -> Tensor:
        """``+-scale_tril @ noise``, (S, B, Q, K)."""
        batch, slots = scale_tril.shape[0], scale_tril.shape[-1]
        generator = torch.Generator(scale_tril.device).manual_seed(self.seed)
        shape = (self.num_samples // 2, batch, num_cues, slots)
        noise = torch.randn(shape, generator=generator, dtype=scale_tril.dtype, device=scale_tril.device)
        half = noise @ scale_tril.mT
        return torch.cat((half, -half))

    def divergence(self, points: Tensor, scale_tril: Tensor, where: Coordinates) -> Tensor:
        """KL(q(w) || p(w)), in closed form for a Gaussian prior, else over the samples."""
        q = dist.MultivariateNormal(points.mean(0), scale_tril=scale_tril.unsqueeze(1), validate_args=False)
        if where.base is not None:
            return divergence(q, where.base, points)
        return (q.log_prob(points) - where.log_density(points)).mean(0)
