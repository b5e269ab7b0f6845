"""The protocols of channels."""

from typing import Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import check_distribution, check_tensor


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


def check_entries(prediction: dist.TorchDistribution) -> None:
    """:raises ValueError: if ``prediction`` is not of single entries, so that no channel can work entry by entry."""
    if prediction.event_shape:
        raise ValueError(
            f"The likelihood is a joint distribution, {type(prediction).__name__} of event shape "
            f"{tuple(prediction.event_shape)}; a query or a channel expects one of independent entries. Use read(), "
            "generate() or sample() without a channel, or a likelihood of entries, such as NormalLikelihood."
        )


def posterior_of(channel: Channel, cues: Tensor, prediction: dist.TorchDistribution) -> dist.TorchDistribution:
    """``channel.posterior``, checked.

    :raises ValueError: if it is not a distribution of the entries of ``prediction``.
    """
    check_entries(prediction)
    label = f"The channel {type(channel).__name__}: posterior()"
    result = channel.posterior(cues, prediction)
    check_distribution(label, result, "p(x | c) of every entry")
    shape = torch.broadcast_shapes(cues.shape, prediction.batch_shape)
    if (result.batch_shape, result.event_shape) != (shape, ()):
        raise ValueError(
            f"{label} returned batch and event shape {tuple(result.batch_shape)}, {tuple(result.event_shape)}; "
            f"expected {tuple(shape)}, (), as the prediction. Keep the entries apart, and let the cues broadcast."
        )
    return result


def log_evidence_of(channel: Channel, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
    """``channel.log_evidence``, checked.

    :raises ValueError: if it is not a tensor of the shape of ``prediction``.
    """
    check_entries(prediction)
    label = f"The channel {type(channel).__name__}: log_evidence()"
    result = channel.log_evidence(cues, prediction)
    shape = tuple(torch.broadcast_shapes(cues.shape, prediction.batch_shape))
    check_tensor(label, result, f"log p(c) of every entry, of shape {shape}")
    if tuple(result.shape) != shape:
        raise ValueError(
            f"{label} returned shape {tuple(result.shape)}; expected {shape}, log p(c) of every entry. Do not sum over "
            "entries, and let the cues broadcast."
        )
    return result
