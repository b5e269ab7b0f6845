"""The protocols of channels."""

from typing import Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import Tensor


@runtime_checkable
class Channel(Protocol):
    """A channel p(c | x) that is independent for every entry, as a query uses it.

    ``prediction`` has the shape of the cues, or more dimensions on the left. The channels of this package also take
    known patterns, ``Delta(patterns)``: their ``log_evidence`` is log p(c | x). A channel that also makes cues is a
    :class:`Damage`; evaluation needs one, and so does :func:`~pyro_kanerva.retrieval_model` without cues.
    """

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.TorchDistribution:
        """p(x | c) of every entry, for x ~ ``prediction``."""

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``."""


class Damage(Protocol):
    """A callable that makes cues from patterns."""

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of ``patterns``, of equal shape; ``generator`` lives on their device."""


def check_channel(channel: object, caller: str) -> None:
    """:raises ValueError: if ``channel`` is neither None nor a channel."""
    if isinstance(channel, type) or not (channel is None or isinstance(channel, Channel)):
        raise ValueError(
            f"{caller}: channel is {channel!r}; expected None, a channel such as Flip(p) or GaussianNoise(scale), or "
            "an object with the methods posterior and log_evidence."
        )
