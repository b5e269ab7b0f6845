"""Channels made of others: hidden entries, damage that differs between entries, and a level that is not known."""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import check_at_least
from pyro_kanerva.channels.base import Channel, Damage
from pyro_kanerva.channels.noise import GaussianNoise, Mixture
from pyro_kanerva.likelihoods import mean_and_mode


class Occlusion:
    """Entries that are hidden, or seen without damage, for every likelihood.

    :param visible: bool, broadcastable to the patterns; False entries are hidden and carry no evidence.
    :raises ValueError: if ``visible`` is not a bool tensor.
    """

    def __init__(self, visible: Tensor) -> None:
        self.visible = _check_mask("Occlusion", "visible", visible)

    def __repr__(self) -> str:
        return f"Occlusion(visible of shape {tuple(self.visible.shape)})"

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Copies of ``patterns`` with 0 where they are hidden."""
        return torch.where(_broadcast(self, self.visible, patterns), patterns, 0.0)

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.MaskedMixture:
        """The cue where it is visible, else ``prediction``."""
        visible = _broadcast(self, self.visible, cues).expand(prediction.batch_shape)
        seen = dist.Delta(cues.expand(visible.shape), validate_args=False)
        return dist.MaskedMixture(visible, prediction.expand(visible.shape), seen, validate_args=False)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(x = c) of every entry that is visible, in nats, else 0."""
        visible = _broadcast(self, self.visible, cues)
        with torch.no_grad():  # hidden entries of the cue may lie outside the support
            legal = torch.where(visible, cues, mean_and_mode(prediction)[1])
        return torch.where(visible, prediction.log_prob(legal), 0.0)


class Where:
    """Different damage of different entries: ``channel`` where ``mask``, else ``other``; they may be nested.

    :param mask: bool, broadcastable to the patterns.
    :raises ValueError: if ``mask`` is not a bool tensor.
    """

    def __init__(self, mask: Tensor, channel: Channel, other: Channel) -> None:
        self.mask, self.channel, self.other = _check_mask("Where", "mask", mask), channel, other

    def __repr__(self) -> str:
        return f"Where(mask of shape {tuple(self.mask.shape)}, {self.channel!r}, {self.other!r})"

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of ``patterns``; both channels must be able to damage."""
        one, other = (cast("Damage", part)(patterns, generator) for part in (self.channel, self.other))
        return torch.where(_broadcast(self, self.mask, patterns), one, other)

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.MaskedMixture:
        """p(x | c) of every entry under its channel."""
        if has_unknown_level(self):
            return self._resolve_each(cues, prediction).posterior(cues, prediction)
        mask = _broadcast(self, self.mask, cues).expand(prediction.batch_shape)
        other, one = (part.posterior(cues, prediction) for part in (self.other, self.channel))
        return dist.MaskedMixture(mask, other, one, validate_args=False)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, under its channel."""
        if has_unknown_level(self):
            return self._resolve_each(cues, prediction).log_evidence(cues, prediction)
        one, other = (part.log_evidence(cues, prediction) for part in (self.channel, self.other))
        return torch.where(_broadcast(self, self.mask, cues), one, other)

    def resolve(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> Where:
        """The channel with both parts at their most likely levels, each from its own entries."""
        mask = _broadcast(self, self.mask, cues)
        parts = ((self.channel, observed & mask), (self.other, observed & ~mask))
        return Where(self.mask, *(resolve(part, cues, prediction, seen, dims) for part, seen in parts))

    def _resolve_each(self, cues: Tensor, prediction: dist.TorchDistribution) -> Where:
        return self.resolve(cues, prediction, torch.ones_like(cues, dtype=torch.bool), _entry_dims(cues))


class UnknownLevel:
    r"""A channel whose level is not known: each query takes the most likely one.

    ::

        memory.query(cues, channel=UnknownLevel(SaltAndPepper(0.2)))

    The energy of a query is then ``min_p -log p(c | w, M, p) - log p(w)``. The level is found by
    expectation maximization: p becomes the expected share of damaged entries, a variance the expected squared
    difference. These steps are exact and need no further pass through the decoder.

    :param channel: :class:`Flip`, :class:`SaltAndPepper`, :class:`Replace` or :class:`GaussianNoise`; its
        level is where the search starts.
    :param num_iterations: of expectation maximization.
    :raises ValueError: if the channel has no level, or ``num_iterations < 1``.
    """

    def __init__(self, channel: Mixture | GaussianNoise, num_iterations: int = 20) -> None:
        if not isinstance(channel, Mixture | GaussianNoise):
            raise ValueError(
                f"UnknownLevel: channel is {channel!r}; expected Flip, SaltAndPepper, Replace or GaussianNoise."
            )
        check_at_least("UnknownLevel", 1, num_iterations=num_iterations)
        self.channel, self.num_iterations = channel, num_iterations

    def __repr__(self) -> str:
        return f"UnknownLevel({self.channel!r})"

    @torch.no_grad()
    def resolve(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> Channel:
        """The channel at its most likely level, one for all entries along ``dims`` that are ``observed``."""
        channel = self.channel
        for _ in range(self.num_iterations):
            channel = channel._refit(cues, prediction, observed, dims)
        return cast("Channel", channel)

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.TorchDistribution:
        """p(x | c) at the most likely level of each cue; the first two dimensions of the cues tell them apart."""
        return self._resolve_each(cues, prediction).posterior(cues, prediction)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) at the most likely level of each cue, in nats."""
        return self._resolve_each(cues, prediction).log_evidence(cues, prediction)

    def _resolve_each(self, cues: Tensor, prediction: dist.TorchDistribution) -> Channel:
        return self.resolve(cues, prediction, torch.ones_like(cues, dtype=torch.bool), _entry_dims(cues))


def _entry_dims(cues: Tensor) -> tuple[int, ...]:
    """The dimensions of a pattern in cues (B, Q) + E."""
    return tuple(range(2 - cues.dim(), 0))


def has_unknown_level(channel: object) -> bool:
    """Whether ``channel`` is, or holds, an :class:`UnknownLevel`."""
    if isinstance(channel, Where):
        return has_unknown_level(channel.channel) or has_unknown_level(channel.other)
    return isinstance(channel, UnknownLevel)


def resolve(
    channel: Channel, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
) -> Channel:
    """``channel`` itself, or at its most likely level where that is unknown."""
    if isinstance(channel, UnknownLevel | Where) and has_unknown_level(channel):
        return channel.resolve(cues, prediction, observed, dims)
    return channel


def _check_mask(owner: str, name: str, mask: Tensor) -> Tensor:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(f"{owner}: {name} is {getattr(mask, 'dtype', type(mask))}; expected a tensor of torch.bool.")
    return mask


def _broadcast(channel: object, mask: Tensor, patterns: Tensor) -> Tensor:
    try:
        return mask.to(patterns.device).expand(patterns.shape)
    except RuntimeError:
        raise ValueError(
            f"{channel!r}: the mask does not broadcast to the patterns' shape {tuple(patterns.shape)}. Give it the "
            "shape of a pattern."
        ) from None
