"""Logistic distributions, weights on the simplex, and distributions of grey levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid


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

    def log_prob_of_levels(self, start: int, stop: int) -> Tensor:
        """Log probabilities in nats of the levels ``start / (n-1) ... (stop-1) / (n-1)``, (stop - start,) + the batch.

        As :meth:`log_prob` of these levels. Neighbors share the bound between their bins, which halves the work.
        """
        top = self.num_levels - 1
        bounds = (torch.arange(start, stop + 1, dtype=self.loc.dtype, device=self.loc.device) - 0.5) / top
        z = (bounds.view(-1, *(1,) * self.loc.dim()) - self.loc) / self.scale
        below = logsigmoid(z)  # log P(x < bound)
        above = below - z  # log P(x > bound)
        levels = below[1:] + above[:-1] + torch.log(-torch.expm1(-1 / (top * self.scale)))
        if start == 0:  # its bin starts at minus infinity
            levels = torch.cat((below[1:2], levels[1:]))
        if stop == self.num_levels:  # its bin ends at infinity
            levels = torch.cat((levels[:-1], above[-2:-1]))
        return levels

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


class GreyLevels(dist.TorchDistribution):
    """A categorical distribution of the levels ``0, 1/(n-1), ..., 1``.

    :param logits: log probabilities up to a constant, shape of the batch + (n,).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}
    support = constraints.unit_interval

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits, self.num_levels = logits.log_softmax(-1), logits.shape[-1]
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> GreyLevels:
        """The same distribution with more dimensions on the left."""
        return GreyLevels(self.logits.expand(*batch_shape, self.num_levels), validate_args=False)

    @property
    def probs(self) -> Tensor:
        """The probability of every level, shape of the batch + (n,)."""
        return self.logits.exp()

    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Samples, which are levels."""
        with torch.no_grad():
            index = dist.Categorical(logits=self.logits, validate_args=False).sample(torch.Size(sample_shape))
            return index.to(self.logits) / (self.num_levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability in nats of the level nearest to ``value``."""
        if self._validate_args:
            self._validate_sample(value)
        index = (value.clamp(0, 1) * (self.num_levels - 1)).round().long()
        return dist.Categorical(logits=self.logits, validate_args=False).log_prob(index)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        levels = torch.arange(self.num_levels, dtype=self.logits.dtype, device=self.logits.device)
        return self.probs @ (levels / (self.num_levels - 1))

    @property
    def mode(self) -> Tensor:
        """The most probable level."""
        return self.logits.argmax(-1).to(self.logits) / (self.num_levels - 1)
