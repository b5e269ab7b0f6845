"""Likelihoods: the distribution of a pattern given the output of the decoder.

A likelihood is any callable from decoder output to a Pyro distribution of the pattern's entries; the
machine declares the dimensions of a pattern as event dimensions.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class BernoulliLikelihood(nn.Module):
    """Binary patterns: ``x ~ Bernoulli(sigmoid(output))``; the decoder returns logits of the pattern's shape."""

    def forward(self, output: Tensor) -> dist.Bernoulli:
        """``Bernoulli`` with the shape of ``output``."""
        return dist.Bernoulli(logits=output, validate_args=False)


class NormalLikelihood(nn.Module):
    """Real patterns: ``x ~ Normal(output, scale)``; the decoder returns means of the pattern's shape.

    :param scale: where the learned standard deviation starts, a positive number.
    :raises ValueError: if ``scale`` is not positive.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"NormalLikelihood: scale is {scale}; expected a positive standard deviation.")
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def forward(self, output: Tensor) -> dist.Normal:
        """``Normal`` with the shape of ``output``."""
        return dist.Normal(output, self.log_scale.exp(), validate_args=False)
