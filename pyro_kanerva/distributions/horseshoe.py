"""A sparse density in closed form."""

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
