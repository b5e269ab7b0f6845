"""Channels for hidden entries, for damage that differs between entries, and for an unknown level of damage."""

from __future__ import annotations

from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import check_at_least, check_dense
from pyro_kanerva.channels.base import Channel, Damage, log_evidence_of, posterior_of
from pyro_kanerva.channels.clamped import ClampedGaussianNoise
from pyro_kanerva.channels.noise import GaussianNoise, Mixture
from pyro_kanerva.likelihoods import mean_and_mode


class Occlusion:
    """Every entry is either hidden or seen without damage. Works with every likelihood.

    :param visible: bool, broadcastable to the patterns. Entries with False are hidden; their evidence is 0 nats.
    :raises ValueError: if ``visible`` is not a bool tensor.
    """

    def __init__(self, visible: Tensor) -> None:
        self.visible = _check_mask("Occlusion", "visible", visible)

    def __repr__(self) -> str:
        return f"Occlusion(visible of shape {tuple(self.visible.shape)})"

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Copies of ``patterns`` whose hidden entries are 0."""
        check_dense(f"{self!r}: patterns", patterns)
        return torch.where(_broadcast(self, self.visible, patterns), patterns, patterns.new_zeros(()))

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.MaskedMixture:
        """The cue for visible entries, ``prediction`` for hidden ones."""
        visible = _broadcast(self, self.visible, cues).expand(prediction.batch_shape)
        seen = dist.Delta(cues.expand(visible.shape), validate_args=False)
        return dist.MaskedMixture(visible, prediction.expand(visible.shape), seen, validate_args=False)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(x = c) in nats for visible entries, 0 for hidden ones."""
        visible = _broadcast(self, self.visible, cues)
        with torch.no_grad():  # hidden entries may lie outside the support: replace them by the mode
            legal = torch.where(visible, cues, mean_and_mode(prediction)[1])
        return torch.where(visible, prediction.log_prob(legal), 0.0)


class Where:
    """``channel`` for the entries where ``mask`` is True, ``other`` for the rest. Either may be another ``Where``.

    :param mask: bool, broadcastable to the patterns.
    :raises ValueError: if ``mask`` is not a bool tensor.
    """

    def __init__(self, mask: Tensor, channel: Channel, other: Channel) -> None:
        self.mask, self.channel, self.other = _check_mask("Where", "mask", mask), channel, other

    def __repr__(self) -> str:
        return f"Where(mask of shape {tuple(self.mask.shape)}, {self.channel!r}, {self.other!r})"

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of ``patterns``; both channels must be a :class:`Damage`."""
        check_dense(f"{self!r}: patterns", patterns)
        one, other = (cast("Damage", part)(patterns, generator) for part in (self.channel, self.other))
        return torch.where(_broadcast(self, self.mask, patterns), one, other)

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.MaskedMixture:
        """p(x | c) of every entry under its channel."""
        if has_unknown_level(self):
            return _resolve_each_query(self, cues, prediction).posterior(cues, prediction)
        mask = _broadcast(self, self.mask, cues).expand(prediction.batch_shape)
        other, one = (posterior_of(part, cues, prediction) for part in (self.other, self.channel))
        return dist.MaskedMixture(mask, other, one, validate_args=False)  # (mask, where False, where True)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, under its channel."""
        if has_unknown_level(self):
            return _resolve_each_query(self, cues, prediction).log_evidence(cues, prediction)
        one, other = (log_evidence_of(part, cues, prediction) for part in (self.channel, self.other))
        return torch.where(_broadcast(self, self.mask, cues), one, other)

    def resolve(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> Where:
        """This channel with both parts at their most likely levels, each estimated from its own entries."""
        mask = _broadcast(self, self.mask, cues)
        parts = ((self.channel, observed & mask), (self.other, observed & ~mask))
        return Where(self.mask, *(resolve(part, cues, prediction, entries, dims) for part, entries in parts))


class UnknownLevel:
    """A channel whose level of damage is unknown: each query uses its most likely level.

    ::

        memory.query(cues, channel=UnknownLevel(SaltAndPepper(0.2)))

    The energy of a query becomes ``min_p -log p(c | w, M, p) - log p(w)``. Expectation maximization finds the level:
    its M-step sets p to the expected share of damaged entries, and a variance to the expected squared difference of cue
    and pattern. Every iteration is exact and needs no further pass through the decoder.

    :param channel: :class:`Flip`, :class:`SaltAndPepper`, :class:`Replace`, :class:`GaussianNoise` or
        :class:`ClampedGaussianNoise`, with the initial level.
    :param num_iterations: iterations of expectation maximization.
    :raises ValueError: if the channel has no level, or ``num_iterations < 1``.
    """

    def __init__(self, channel: Mixture | GaussianNoise | ClampedGaussianNoise, num_iterations: int = 20) -> None:
        if not isinstance(channel, Mixture | GaussianNoise | ClampedGaussianNoise):
            raise ValueError(
                f"UnknownLevel: channel is {channel!r}; expected Flip, SaltAndPepper, Replace, GaussianNoise or "
                "ClampedGaussianNoise."
            )
        check_at_least("UnknownLevel", 1, num_iterations=num_iterations)
        self.channel, self.num_iterations = channel, num_iterations

    def __repr__(self) -> str:
        return f"UnknownLevel({self.channel!r})"

    @torch.no_grad()
    def resolve(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> Channel:
        """``channel`` at its most likely level, one level for all ``observed`` entries along ``dims``."""
        return cast("Channel", self._fit(cues, prediction, observed, dims))

    @torch.no_grad()
    def estimate(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> Tensor:
        """The level of :meth:`resolve`, of the shape of the prediction with size 1 along ``dims``."""
        return torch.as_tensor(self._fit(cues, prediction, observed, dims).level)

    def _fit(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> Mixture | GaussianNoise | ClampedGaussianNoise:
        channel = self.channel
        for _ in range(self.num_iterations):
            channel = channel._refit(cues, prediction, observed, dims)  # one iteration of EM
        return channel

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.TorchDistribution:
        """p(x | c) at the most likely level of each cue, for cues (B, Q) + E."""
        return _resolve_each_query(self, cues, prediction).posterior(cues, prediction)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) in nats at the most likely level of each cue, for cues (B, Q) + E."""
        return _resolve_each_query(self, cues, prediction).log_evidence(cues, prediction)


def _resolve_each_query(channel: Where | UnknownLevel, cues: Tensor, prediction: dist.TorchDistribution) -> Channel:
    """``channel`` with a most likely level for each of the cues (B, Q) + E."""
    pattern_dims = tuple(range(2 - cues.dim(), 0))
    return channel.resolve(cues, prediction, torch.ones_like(cues, dtype=torch.bool), pattern_dims)


def has_unknown_level(channel: object) -> bool:
    """True if ``channel`` is an :class:`UnknownLevel`, or a :class:`Where` that contains one."""
    if isinstance(channel, Where):
        return has_unknown_level(channel.channel) or has_unknown_level(channel.other)
    return isinstance(channel, UnknownLevel)


def has_real_cues(channel: object) -> bool:
    """True if cues of ``channel`` are any real numbers, whatever the patterns are: it contains Gaussian noise."""
    if isinstance(channel, Where):
        return has_real_cues(channel.channel) or has_real_cues(channel.other)
    channel = channel.channel if isinstance(channel, UnknownLevel) else channel
    return isinstance(channel, GaussianNoise | ClampedGaussianNoise)


def resolve(
    channel: Channel, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
) -> Channel:
    """``channel`` with every unknown level replaced by the most likely one, see :meth:`UnknownLevel.resolve`."""
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
