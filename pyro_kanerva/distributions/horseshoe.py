"""The horseshoe-like distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus


class HorseshoeLike(dist.TorchDistribution):
    """A sparse density in closed form: infinite at zero, with the tails of a Cauchy distribution.

    ::

        p(x) = log(1 + scale^2 / x^2) / (2 pi scale),      x = scale * u * c,  u ~ Uniform(0, 1),  c ~ Cauchy(0, 1)

    Mean and variance do not exist. To stay finite, ``log_prob(0)`` is the value at the square root of the smallest
    normal number. Source: Bhadra, Datta, Polson and Willard 2019, "The Horseshoe-Like Regularization for Feature Subset
    Selection" (arXiv 1702.07400).

    :param scale: positive, shape of the batch.
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
        shape = self._extended_shape(torch.Size(sample_shape))
        u, v = torch.rand((2, *shape), dtype=self.scale.dtype, device=self.scale.device)
        return self.scale * u * torch.tan(math.pi * (v - 0.5))  # tan of a uniform angle is Cauchy

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        if self._validate_args:
            self._validate_sample(value)
        smallest = torch.finfo(value.dtype).tiny ** 0.5
        log_squared = 2 * (value / self.scale).abs().clamp(min=smallest).log()
        # log(1 + scale^2 / x^2) = softplus(-log(x^2 / scale^2))
        return softplus(-log_squared, threshold=40).log() - (2 * math.pi * self.scale).log()
