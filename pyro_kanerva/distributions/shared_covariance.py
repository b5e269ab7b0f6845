"""Gaussians that share one covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions.kl import register_kl

from pyro_kanerva._precision import full_precision
from pyro_kanerva.distributions.divergence import trace_gap


class JitNormal(dist.MultivariateNormal):
    """A ``MultivariateNormal`` whose divergence from another also works while ``torch.jit`` traces."""


class SharedCovarianceNormal(JitNormal):
    """A ``MultivariateNormal`` of T Gaussians that share one covariance, whose factor is never copied T times.

    :param loc: mean, shape ``(..., T, K)``.
    :param scale_tril: lower Cholesky factor of the covariance, shape ``(..., K, K)``.
    """

    def __init__(self, loc: Tensor, scale_tril: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(loc, scale_tril=scale_tril.unsqueeze(-3), validate_args=validate_args)
        self.shared_scale_tril = scale_tril

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> SharedCovarianceNormal:
        """The same distribution with more dimensions on the left."""
        loc = self.loc.expand(torch.Size(batch_shape) + self.event_shape)
        new = SharedCovarianceNormal(loc, self.shared_scale_tril, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @full_precision
    def rsample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Reparameterized samples, shape ``sample_shape + (..., T, K)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + noise @ self.shared_scale_tril.mT

    @full_precision
    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, shape of the batch."""
        if self._validate_args:
            self._validate_sample(value)
        factor = self.shared_scale_tril
        white = torch.linalg.solve_triangular(factor, (value - self.loc).mT, upper=False)  # (..., K, T)
        log_determinant = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        return -0.5 * (white.square().sum(-2) + factor.shape[-1] * math.log(2 * math.pi)) - log_determinant


@register_kl(JitNormal, torch.distributions.MultivariateNormal)  # type: ignore[untyped-decorator]
@full_precision
def kl_normal(q: JitNormal, p: torch.distributions.MultivariateNormal) -> Tensor:
    """KL(q || p) in nats, of the batch shape; faster if p has one covariance, as an expanded prior has."""
    p_factor, q_factor = p._unbroadcasted_scale_tril, q._unbroadcasted_scale_tril
    if p_factor.dim() > 2:
        plain = dist.MultivariateNormal(q.loc, scale_tril=q_factor, validate_args=False)
        return torch.distributions.kl_divergence(plain, p)
    identity = torch.eye(p.event_shape[0], dtype=p.loc.dtype, device=p.loc.device)
    inverse = torch.linalg.solve_triangular(p_factor, identity, upper=False)
    factor = inverse @ q_factor  # in coordinates in which p is standard normal
    squared = ((q.loc - p.loc) @ inverse.mT).square().sum(-1)
    return 0.5 * (squared + trace_gap(factor))
