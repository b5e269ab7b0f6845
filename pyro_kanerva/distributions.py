"""Distributions that neither Pyro nor torch has: shared covariances, horseshoe-like, discretized logistic, ..."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl
from torch.nn.functional import logsigmoid, softplus

from pyro_kanerva._precision import full_precision


class SharedCovarianceNormal(dist.MultivariateNormal):
    """T Gaussians with one covariance: a ``MultivariateNormal`` that never copies its factor T times.

    :param loc: shape ``(..., T, K)``.
    :param scale_tril: the lower Cholesky factor of the covariance, shape ``(..., K, K)``.
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


@register_kl(SharedCovarianceNormal, torch.distributions.MultivariateNormal)  # type: ignore[untyped-decorator]
@full_precision
def kl_shared_covariance(q: SharedCovarianceNormal, p: torch.distributions.MultivariateNormal) -> Tensor:
    """KL(q || p) in nats, (..., T), for a p that is one Gaussian (K,)."""
    if p.batch_shape:
        plain = dist.MultivariateNormal(q.loc, scale_tril=q.shared_scale_tril.unsqueeze(-3), validate_args=False)
        return torch.distributions.kl_divergence(plain, p)
    identity = torch.eye(p.event_shape[0], dtype=p.loc.dtype, device=p.loc.device)
    inverse = torch.linalg.solve_triangular(p.scale_tril, identity, upper=False)
    factor = inverse @ q.shared_scale_tril  # that of q where p is standard normal
    trace = factor.square().sum((-2, -1)) - 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    squared = ((q.loc - p.loc) @ inverse.mT).square().sum(-1)
    return 0.5 * (squared + (trace - factor.shape[-1]).unsqueeze(-1))


class HorseshoeLike(dist.TorchDistribution):
    r"""A sparse density in closed form: infinitely high at zero, with the tails of a Cauchy distribution.

    ::

        p(x) = log(1 + scale^2 / x^2) / (2 pi scale),      x = scale * u * c,  u ~ Uniform(0, 1),  c ~ Cauchy(0, 1)

    :param scale: positive, shape of the batch.

    It has no mean and no variance. Its density at exactly zero is that at the root of the smallest normal number,
    so that log densities stay finite. Source: Bhadra, Datta, Polson and Willard 2019, "The Horseshoe-Like
    Regularization for Feature Subset Selection" (arXiv 1702.07400).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, scale: Tensor, validate_args: bool | None = None) -> None:
        self.scale = scale
        super().__init__(scale.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> HorseshoeLike:
        """The same distribution with more dimensions on the left."""
        return HorseshoeLike(self.scale.expand(batch_shape), validate_args=False)

    def rsample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Reparameterized samples."""
        uniform = torch.rand(
            (2, *self._extended_shape(torch.Size(sample_shape))), dtype=self.scale.dtype, device=self.scale.device
        )
        return self.scale * uniform[0] * torch.tan(math.pi * (uniform[1] - 0.5))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        smallest = torch.finfo(value.dtype).tiny ** 0.5
        log_squared = 2 * (value / self.scale).abs().clamp(min=smallest).log()
        return softplus(-log_squared, threshold=40).log() - (2 * math.pi * self.scale).log()


class AdditiveLogistic(dist.transforms.Transform):
    r"""``u`` (K - 1) in R to weights ``w = softmax([u, 0])`` (K) on the simplex, and back.

    The density on the simplex is one of the first K - 1 weights, ``log |dw / du| = sum_k log w_k``.
    """

    domain = constraints.real_vector
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AdditiveLogistic)

    def __hash__(self) -> int:
        return hash(AdditiveLogistic)

    def _call(self, x: Tensor) -> Tensor:
        return torch.cat([x, torch.zeros_like(x[..., :1])], -1).softmax(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        logits = y.clamp(min=torch.finfo(y.dtype).tiny).log()
        return logits[..., :-1] - logits[..., -1:]

    def jacobian(self, x: Tensor) -> Tensor:
        """``dw / du = (diag(w) - w w^T)[:, :K - 1]``, (..., K, K - 1)."""
        weights = self(x)
        return (weights.diag_embed() - weights.unsqueeze(-1) * weights.unsqueeze(-2))[..., :-1]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """``sum_k log w_k``, (...)."""
        return torch.cat([x, torch.zeros_like(x[..., :1])], -1).log_softmax(-1).sum(-1)

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        """(..., K - 1) -> (..., K)."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        """(..., K) -> (..., K - 1)."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


class DiscretizedLogistic(dist.TorchDistribution):
    r"""Levels ``0, 1/(n-1), ..., 1`` with the probabilities that a logistic distribution gives to their bins.

    ::

        P(x) = sigmoid((x + h - loc) / scale) - sigmoid((x - h - loc) / scale),      h = 1 / (2 (n - 1))

    where the first and last bin reach to infinity.

    :param loc: shape of the batch.
    :param scale: positive; broadcast with ``loc``.
    :param num_levels: n.

    Source: Kingma et al. 2016, "Improving Variational Inference with Inverse Autoregressive Flow"
    (arXiv 1606.04934), appendix.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, num_levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> DiscretizedLogistic:
        """The same distribution with more dimensions on the left."""
        shape = torch.Size(batch_shape)
        return DiscretizedLogistic(
            self.loc.expand(shape), self.scale.expand(shape), self.num_levels, validate_args=False
        )

    @property
    def _half(self) -> float:
        return 0.5 / (self.num_levels - 1)

    def _level(self, value: Tensor) -> Tensor:
        """The level nearest to ``value``."""
        top = self.num_levels - 1
        return (value.clamp(0, 1) * top).round() / top

    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Levels."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self._level(self.loc + self.scale * torch.logit(uniform, eps=torch.finfo(self.loc.dtype).tiny))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability in nats of values that are levels."""
        if self._validate_args:
            self._validate_sample(value)
        upper, lower = ((value + sign * self._half - self.loc) / self.scale for sign in (1, -1))
        inside = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        outer = torch.where(value < self._half, logsigmoid(upper), logsigmoid(-lower))
        return torch.where((value < self._half) | (value > 1 - self._half), outer, inside)

    @property
    def mean(self) -> Tensor:
        """The sum of ``P(x >= level)`` over the levels above the first, over n - 1."""
        top = self.num_levels - 1
        bounds = (torch.arange(1, top + 1, dtype=self.loc.dtype, device=self.loc.device) - 0.5) / top
        total = torch.zeros_like(self.loc)
        for bound in bounds:  # one after the other: all at once would be n times the memory
            total = total + ((self.loc - bound) / self.scale).sigmoid()
        return total / top

    @property
    def mode(self) -> Tensor:
        """The most probable level: that nearest to ``loc``, or an end that holds a whole tail."""
        candidates = torch.stack([self._level(self.loc), torch.zeros_like(self.loc), torch.ones_like(self.loc)])
        best = self.log_prob(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)
