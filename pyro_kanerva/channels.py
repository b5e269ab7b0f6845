r"""Channels: how a cue c comes from a pattern x, p(c | x).

A channel damages patterns, and tells what a cue says about an entry that the memory predicts: the
posterior p(x | c) and the evidence log p(c), exact, entry by entry.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


@runtime_checkable
class Channel(Protocol):
    """What a query needs of a channel."""

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of ``patterns``, of equal shape."""

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.TorchDistribution:
        """p(x | c) of every entry, for x ~ ``prediction``."""

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``."""


class Flip:
    r"""Binary entries, each flipped with probability p: ``p(c | x) = 1 - p if c == x else p``.

    :param p: probability of a flip, in (0, 1).
    :raises ValueError: if p is outside (0, 1).

    For a prediction ``x ~ Bernoulli(sigmoid(l))`` and the sign ``s = 2 c - 1``::

        logit p(x = 1 | c) = l + s log((1 - p) / p),    p(c) = (1 - p) sigmoid(s l) + p sigmoid(-s l)
    """

    def __init__(self, p: float) -> None:
        if not 0 < p < 1:
            raise ValueError(f"{type(self).__name__}: p is {p}; expected a probability in (0, 1).")
        self.p = self.flip_probability = float(p)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.p})"

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of binary ``patterns``, of equal shape; ``generator`` lives on their device.

        :raises ValueError: if the patterns are not binary.
        """
        if bool(((patterns != 0) & (patterns != 1)).any()):
            raise ValueError(f"{self!r}: patterns have entries other than 0 and 1. Binarize them before.")
        noise = torch.rand(patterns.shape, generator=generator, device=patterns.device)
        return torch.where(noise < self.flip_probability, 1 - patterns, patterns)

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.Bernoulli:
        """p(x | c) of every entry, for x ~ ``prediction``, a ``Bernoulli`` of the cues' shape."""
        log_odds = math.log1p(-self.flip_probability) - math.log(self.flip_probability)
        return dist.Bernoulli(logits=prediction.logits + (2 * cues - 1) * log_odds, validate_args=False)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``, a ``Bernoulli`` of the cues' shape."""
        agreeing = (2 * cues - 1) * prediction.logits  # log-odds of x == c
        return torch.logaddexp(
            logsigmoid(agreeing) + math.log1p(-self.flip_probability),
            logsigmoid(-agreeing) + math.log(self.flip_probability),
        )


class SaltAndPepper(Flip):
    """Binary entries, each replaced with probability p by a fair coin: flips with probability p / 2.

    :param p: probability of a replacement, in (0, 1).
    :raises ValueError: if p is outside (0, 1).
    """

    def __init__(self, p: float) -> None:
        super().__init__(p)
        self.flip_probability = self.p / 2
