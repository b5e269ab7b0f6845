"""Logistic distributions, weights on the simplex, and distributions of grey levels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

_CHUNK = 1 << 11  # entries whose levels are enumerated at once


class AdditiveLogistic(dist.transforms.Transform):
    """From ``u`` (..., K - 1) in R to weights ``w = softmax([u, 0])`` (..., K) on the simplex.

    Densities on the simplex are with respect to the first K - 1 weights: ``log |dw / du| = sum_k log w_k``.
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
        logits = y.clamp(min=torch.finfo(y.dtype).tiny).log()  # finite also for a weight that underflowed to 0
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
    """A logistic distribution in bins around the levels ``0, 1/(n-1), ..., 1``.

    ::

        P(x) = sigmoid((x + h - loc) / scale) - sigmoid((x - h - loc) / scale),      h = 1 / (2 (n - 1))

    The first bin starts at minus infinity and the last ends at infinity. Source: Kingma et al. 2016, "Improving
    Variational Inference with Inverse Autoregressive Flow" (arXiv 1606.04934), appendix.

    :param loc: shape of the batch.
    :param scale: positive; broadcast with ``loc``.
    :param num_levels: n.
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
        loc, scale = self.loc.expand(shape), self.scale.expand(shape)
        return DiscretizedLogistic(loc, scale, self.num_levels, validate_args=False)

    def _level(self, value: Tensor) -> Tensor:
        """The level nearest to ``value``."""
        top = self.num_levels - 1
        return (value.clamp(0, 1) * top).round() / top

    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Samples, rounded to levels."""
        with torch.no_grad():
            shape = self._extended_shape(torch.Size(sample_shape))
            uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
            return self._level(self.loc + self.scale * torch.logit(uniform, eps=torch.finfo(self.loc.dtype).tiny))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability in nats; values must be levels."""
        if self._validate_args:
            self._validate_sample(value)
        half = 0.5 / (self.num_levels - 1)  # h
        upper, lower = ((value + sign * half - self.loc) / self.scale for sign in (1, -1))
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)), which does not cancel in the tails
        inside = logsigmoid(upper) + logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
        outer = torch.where(value < half, logsigmoid(upper), logsigmoid(-lower))
        return torch.where((value < half) | (value > 1 - half), outer, inside)

    @property
    def mean(self) -> Tensor:
        """The mean, ``sum_i P(x >= i / (n - 1)) / (n - 1)`` over i = 1 ... n - 1."""
        top = self.num_levels - 1
        bounds = (torch.arange(1, top + 1, dtype=self.loc.dtype, device=self.loc.device) - 0.5) / top
        total = torch.zeros_like(self.loc)
        for bound in bounds:  # a loop, because all bounds at once take n times the memory
            total = total + ((self.loc - bound) / self.scale).sigmoid()
        return total / top

    @property
    def mode(self) -> Tensor:
        """The most probable level: the one nearest to ``loc``, or 0 or 1, whose bins contain a tail."""
        candidates = torch.stack([self._level(self.loc), torch.zeros_like(self.loc), torch.ones_like(self.loc)])
        best = self.log_prob(candidates).argmax(0, keepdim=True)
        return candidates.gather(0, best).squeeze(0)


class NoisyLevels(dist.TorchDistribution):
    """Levels x given noisy cues c, by enumeration of all levels.

    ::

        x ~ DiscretizedLogistic,    p(x | c) = P(x) p(c | x) / p(c)

    A few thousand entries are enumerated at a time, so that memory does not grow with the number of levels.

    :param prior: P(x).
    :param cues: c.
    :param noise: the level of the noise of every cue. Prior, cues and noise broadcast to the batch shape.
    :param log_likelihood: the function ``log p(c | x)`` in nats of cues, levels and noise, whose shapes broadcast.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.unit_interval

    def __init__(
        self,
        prior: DiscretizedLogistic,
        cues: Tensor,
        noise: Tensor,
        log_likelihood: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        shape = torch.broadcast_shapes(prior.batch_shape, cues.shape, noise.shape)
        self.prior, self.cues, self.noise, self.log_likelihood = prior.expand(shape), cues, noise, log_likelihood
        super().__init__(shape, validate_args=False)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> NoisyLevels:
        """The same distribution with more dimensions on the left."""
        return NoisyLevels(self.prior.expand(batch_shape), self.cues, self.noise, self.log_likelihood)

    def _chunks(self) -> Iterator[tuple[Tensor, ...]]:
        """loc, scale and cue of some entries, (R, N, 1), and their noise (R, 1, 1): N entries have the same noise."""
        shape, sizes = self.batch_shape, (1,) * (len(self.batch_shape) - self.noise.dim()) + self.noise.shape
        leading = max((dim + 1 for dim, size in enumerate(sizes) if size > 1), default=0)  # dimensions of the noise
        rows, entries = math.prod(shape[:leading]), math.prod(shape[leading:])
        tensors = [t.expand(shape).reshape(rows, entries, 1) for t in (self.prior.loc, self.prior.scale, self.cues)]
        tensors.append(self.noise.expand((*shape[:leading], *sizes[leading:])).reshape(rows, 1, 1))
        for *block, noise in zip(*(t.split(max(1, _CHUNK // max(1, entries))) for t in tensors), strict=True):
            for chunk in zip(*(t.split(_CHUNK, 1) for t in block), strict=True):
                yield *chunk, noise

    def _levels(self) -> Tensor:
        num_levels, loc = self.prior.num_levels, self.prior.loc
        return torch.arange(num_levels, dtype=loc.dtype, device=loc.device) / (num_levels - 1)

    def _log_joint(self, loc: Tensor, scale: Tensor, cues: Tensor, noise: Tensor) -> Tensor:
        """log P(x) + log p(c | x) for every level x, (R, N, n)."""
        levels, step = self._levels(), 1 / (self.prior.num_levels - 1)
        bounds = (levels[:-1] + step / 2 - loc) / scale  # between two bins, (R, N, n - 1)
        below = logsigmoid(bounds)  # log P(logistic variable < bound)
        above = below - bounds
        # The first and the last bin have one bound; the others the factor 1 - exp(-step / scale), see log_prob().
        inside = below[..., 1:] + (above[..., :-1] + torch.log(-torch.expm1(-step / scale)))
        log_prior = torch.cat((below[..., :1], inside, above[..., -1:]), -1)
        return log_prior + self.log_likelihood(cues, levels, noise)

    @property
    def log_evidence(self) -> Tensor:
        """log p(c) in nats, of the batch shape."""

        def enumerate_levels(*chunk: Tensor) -> Tensor:
            return self._log_joint(*chunk).logsumexp(-1)

        # Only a chunk's inputs are kept for the gradient.
        found = [checkpoint(enumerate_levels, *chunk, use_reentrant=False) for chunk in self._chunks()]
        return torch.cat([part.flatten() for part in found]).view(self.batch_shape)

    @torch.no_grad()
    def expectation(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """E[f(c, x, noise) | c], without gradient. ``function`` takes the same arguments as ``log_likelihood``."""
        levels, parts = self._levels(), []
        for chunk in self._chunks():
            weights = self._log_joint(*chunk).softmax(-1)
            parts.append((weights * function(chunk[2], levels, chunk[3])).sum(-1).flatten())
        return torch.cat(parts).view(self.batch_shape)

    @cached_property
    @torch.no_grad()
    def _summary(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and mode."""
        levels, parts = self._levels(), []
        for chunk in self._chunks():
            log_joint = self._log_joint(*chunk)
            weights = log_joint.softmax(-1)
            mean = weights @ levels
            variance = weights @ levels.square() - mean.square()
            mode = levels[log_joint.argmax(-1)]
            parts.append([part.flatten() for part in (mean, variance.clamp(min=0), mode)])
        mean, variance, mode = (torch.cat(part).view(self.batch_shape) for part in zip(*parts, strict=True))
        return mean, variance, mode

    @property
    def mean(self) -> Tensor:
        """E[x | c]."""
        return self._summary[0]

    @property
    def variance(self) -> Tensor:
        """Var[x | c]."""
        return self._summary[1]

    @property
    def mode(self) -> Tensor:
        """The most probable level."""
        return self._summary[2]

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Samples; levels."""
        number, levels = math.prod(sample_shape), self._levels()
        draws = [
            levels[self._log_joint(*chunk).softmax(-1).flatten(0, 1).multinomial(number, replacement=True)]
            for chunk in self._chunks()
        ]
        return torch.cat(draws).mT.reshape(self._extended_shape(torch.Size(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability in nats; values must be levels."""
        return self.prior.log_prob(value) + self.log_likelihood(self.cues, value, self.noise) - self.log_evidence
