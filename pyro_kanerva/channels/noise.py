"""Channels with one kind of damage for all entries: flips, salt and pepper, replacement, Gaussian noise."""

from __future__ import annotations

import copy
import math
from typing import TypeVar

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.nn.functional import logsigmoid, one_hot

from pyro_kanerva._checks import check_at_least, check_dense, check_positive
from pyro_kanerva.distributions import DiscretizedLogistic, NoisyLevels
from pyro_kanerva.distributions.clamped_normal import normal_log_density

_Distribution = TypeVar("_Distribution", bound=dist.TorchDistribution)


def as_prediction(channel: object, prediction: dist.TorchDistribution, *kinds: type[_Distribution]) -> _Distribution:
    """``prediction``, if it is of one of the ``kinds``. Known patterns, a ``Delta``, become one of the first kind.

    :raises ValueError: if it is of another kind.
    """
    if isinstance(prediction, dist.Delta):
        prediction = _known(channel, prediction.v, kinds[0])
    if not isinstance(prediction, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"{channel!r} damages entries of a {names} likelihood; this one is {type(prediction).__name__}. Choose a "
            "channel that fits the likelihood."
        )
    return prediction


def _known(channel: object, patterns: Tensor, kind: type) -> dist.TorchDistribution:
    """``patterns`` with probability 1."""
    if kind is dist.Bernoulli:
        _check_binary(channel, patterns)
        return dist.Bernoulli(
            logits=torch.where(patterns == 1, torch.inf, -torch.inf).to(patterns), validate_args=False
        )
    if isinstance(channel, Replace):
        if channel.num_classes is None:
            raise ValueError(f"{channel!r}: num_classes is None; known patterns (Delta) need it. Pass num_classes.")
        channel.check_classes(patterns, channel.num_classes)
        logits = one_hot(patterns.long(), channel.num_classes).to(patterns).log()
        return dist.Categorical(logits=logits, validate_args=False)
    return dist.Normal(patterns, torch.zeros_like(patterns), validate_args=False)


def _check_binary(channel: object, patterns: Tensor) -> None:
    if is_validation_enabled() and bool(((patterns != 0) & (patterns != 1)).any()):
        raise ValueError(f"{channel!r}: patterns have entries other than 0 and 1. Binarize them before.")


def _uniform(patterns: Tensor, generator: torch.Generator | None) -> Tensor:
    dtype = patterns.dtype if patterns.is_floating_point() else torch.get_default_dtype()
    return torch.rand(patterns.shape, generator=generator, dtype=dtype, device=patterns.device)


def scale_like(scale: float | Tensor, like: Tensor) -> Tensor:
    """``scale`` of the dtype and device of ``like``; a number keeps its precision in float64."""
    return torch.as_tensor(scale, dtype=like.dtype, device=like.device)


def mean_of_observed(values: Tensor, observed: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The mean of the observed ``values`` along ``dims``, 0 if there are none."""
    observed = observed.expand(values.shape)
    return (values * observed).sum(dims, keepdim=True) / observed.sum(dims, keepdim=True).clamp(min=1)


def _log_probabilities(p: float | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """log (1 - p) and log p, computed in float64 because p may be tiny."""
    p = torch.as_tensor(p, dtype=torch.float64)
    return (-p).log1p().to(like), p.log().to(like)


class Mixture:
    """Base class: the channel damages an entry with probability p, the level, and keeps it with 1 - p."""

    def __init__(self, p: float | Tensor) -> None:
        level = torch.as_tensor(p, dtype=torch.float64)
        if not bool(((level > 0) & (level < 1)).all()):
            raise ValueError(f"{type(self).__name__}: p is {p}; expected a probability in (0, 1).")
        #: The level: a number, or a tensor with one level per query from :meth:`UnknownLevel.resolve`.
        self.p = p

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.p})"

    @property
    def level(self) -> float | Tensor:
        """p."""
        return self.p

    def _log_odds_of_damage(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(damaged | c) - log p(not damaged | c) of every entry."""
        raise NotImplementedError

    def _refit(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> Mixture:
        """The M-step: p becomes the expected share of damaged entries."""
        damaged = self._log_odds_of_damage(cues, prediction).sigmoid()
        # A NaN prediction has NaN evidence at any level; p must stay legal.
        share = mean_of_observed(damaged, observed, dims).nan_to_num(0.5)
        channel = copy.copy(self)
        channel.p = share.clamp(1e-6, 1 - 1e-6)
        return channel


class Flip(Mixture):
    r"""Binary entries, each flipped with probability p: ``p(c | x) = 1 - p if c == x else p``.

    :raises ValueError: if p is outside (0, 1).

    For a prediction ``x ~ Bernoulli(sigmoid(l))`` and the sign ``s = 2 c - 1``::

        logit p(x = 1 | c) = l + s log((1 - p) / p),    p(c) = (1 - p) sigmoid(s l) + p sigmoid(-s l)
    """

    @property
    def flip_probability(self) -> float | Tensor:
        """f, the probability that an entry of the cue differs from the pattern."""
        return self.p

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of binary ``patterns``, of equal shape; ``generator`` lives on their device.

        :raises ValueError: if the patterns are not binary.
        """
        check_dense(f"{self!r}: patterns", patterns)
        _check_binary(self, patterns)
        f = self.flip_probability
        f = f.to(patterns) if isinstance(f, Tensor) else f
        return torch.where(_uniform(patterns, generator) < f, 1 - patterns, patterns)

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.Bernoulli:
        """p(x | c) of every entry, for x ~ ``prediction``, a ``Bernoulli``."""
        logits = as_prediction(self, prediction, dist.Bernoulli).logits
        stays, flips = _log_probabilities(self.flip_probability, logits)
        return dist.Bernoulli(logits=logits + (2 * cues - 1) * (stays - flips), validate_args=False)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``, a ``Bernoulli``."""
        agreement = self._agreement(cues, prediction)
        stays, flips = _log_probabilities(self.flip_probability, agreement)
        return torch.logaddexp(logsigmoid(agreement) + stays, logsigmoid(-agreement) + flips)

    def _agreement(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """The log-odds of x == c under ``prediction``."""
        return (2 * cues - 1) * as_prediction(self, prediction, dist.Bernoulli).logits

    def _log_odds_of_damage(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        agreement = self._agreement(cues, prediction)
        stays, flips = _log_probabilities(self.p, agreement)
        return flips - stays - agreement  # damaged: p P(x != c); intact: (1 - p) P(x == c)


class SaltAndPepper(Flip):
    """Binary entries, each replaced with probability p by a fair coin: an entry flips with probability p / 2.

    :raises ValueError: if p is outside (0, 1).
    """

    @property
    def flip_probability(self) -> float | Tensor:
        """Half of p."""
        return self.p / 2

    def _log_odds_of_damage(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        agreement = self._agreement(cues, prediction)
        stays, replaced = _log_probabilities(self.p, agreement)
        return replaced - math.log(2) - stays - logsigmoid(agreement)  # damaged: p / 2; intact: (1 - p) P(x == c)


class Replace(Mixture):
    r"""Entries of n classes, each replaced with probability p by a class drawn uniformly from all n.

    ``p(c | x) = (1 - p) [c == x] + p / n``, so that ``p(c) = (1 - p) pi_c + p / n`` for ``x ~ Categorical(pi)``.

    :param num_classes: n, used to damage patterns; by default their largest class plus 1. A query takes n from the
        likelihood.
    :raises ValueError: if p is outside (0, 1), or ``num_classes < 2``.
    """

    def __init__(self, p: float | Tensor, num_classes: int | None = None) -> None:
        super().__init__(p)
        if num_classes is not None:
            check_at_least("Replace", 2, num_classes=num_classes)
        self.num_classes = num_classes

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of ``patterns``, float or int64, of equal shape and dtype.

        :param generator: lives on their device.
        :raises ValueError: if an entry is not a class 0 ... n - 1.
        """
        check_dense(f"{self!r}: patterns", patterns)
        if not patterns.numel():
            return patterns.clone()
        num_classes = int(patterns.nan_to_num().max()) + 1 if self.num_classes is None else self.num_classes
        self.check_classes(patterns, num_classes)
        other = (_uniform(patterns, generator) * num_classes).floor().clamp(max=num_classes - 1)  # may round to n
        p = _log_probabilities(self.p, other)[1].exp()
        return torch.where(_uniform(patterns, generator) < p, other.to(patterns.dtype), patterns)

    def check_classes(self, patterns: Tensor, num_classes: int) -> None:
        """:raises ValueError: if an entry is not a class 0 ... n - 1."""
        if bool(((patterns < 0) | (patterns >= num_classes) | (patterns != patterns.round())).any()):
            raise ValueError(f"{self!r}: patterns have entries other than the classes 0 ... {num_classes - 1}.")

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.Categorical:
        """p(x | c) of every entry, for x ~ ``prediction``, a ``Categorical``."""
        logits = as_prediction(self, prediction, dist.Categorical).logits
        # A tensor of levels needs a last dimension for the classes.
        stays, replaced = (log.unsqueeze(-1) if log.dim() else log for log in _log_probabilities(self.p, logits))
        num_classes = logits.shape[-1]
        replaced = replaced - math.log(num_classes)
        gain = torch.logaddexp(stays, replaced) - replaced  # log p(c | x = c) - log p(c | x != c)
        return dist.Categorical(logits=logits + gain * one_hot(cues.long(), num_classes), validate_args=False)

    def _agreement(self, cues: Tensor, prediction: dist.TorchDistribution) -> tuple[Tensor, int]:
        """log P(x = c) of every entry under ``prediction``, and n."""
        logits = as_prediction(self, prediction, dist.Categorical).logits
        index = cues.long().expand(logits.shape[:-1]).unsqueeze(-1)
        return logits.gather(-1, index).squeeze(-1), logits.shape[-1]

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``, a ``Categorical``."""
        agreement, num_classes = self._agreement(cues, prediction)
        stays, replaced = _log_probabilities(self.p, agreement)
        return torch.logaddexp(stays + agreement, replaced - math.log(num_classes))

    def _log_odds_of_damage(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        agreement, num_classes = self._agreement(cues, prediction)
        stays, replaced = _log_probabilities(self.p, agreement)
        return replaced - math.log(num_classes) - stays - agreement  # damaged: p / n; intact: (1 - p) P(x = c)


class GaussianNoise:
    r"""Real entries or levels plus noise: ``c ~ Normal(x, scale)``.

    For a prediction ``x ~ Normal(m, s)``: ``p(c) = Normal(m, sqrt(s^2 + scale^2))``, and p(x | c) has the precision
    ``1 / s^2 + 1 / scale^2``. For a :class:`~pyro_kanerva.distributions.DiscretizedLogistic` prediction both are sums
    over all levels, see :class:`~pyro_kanerva.distributions.NoisyLevels`. Cues of levels are not levels themselves.

    :param scale: a positive standard deviation.
    :raises ValueError: if ``scale`` is not positive.
    """

    def __init__(self, scale: float | Tensor) -> None:
        check_positive("GaussianNoise", scale=scale)
        #: The standard deviation: a number, or a tensor with one per query from :meth:`UnknownLevel.resolve`.
        self.scale = scale

    def __repr__(self) -> str:
        return f"GaussianNoise({self.scale})"

    @property
    def level(self) -> float | Tensor:
        """``scale``."""
        return self.scale

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of ``patterns``, of equal shape; ``generator`` lives on their device."""
        check_dense(f"{self!r}: patterns", patterns)
        if not patterns.is_floating_point():
            raise ValueError(f"{self!r}: patterns have dtype {patterns.dtype}; expected real numbers. Use .float().")
        noise = torch.randn(patterns.shape, generator=generator, dtype=patterns.dtype, device=patterns.device)
        return patterns + scale_like(self.scale, patterns) * noise

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.Normal | NoisyLevels:
        """p(x | c) of every entry, for x ~ ``prediction``, a ``Normal`` or ``DiscretizedLogistic``."""
        prediction = self._expect(prediction)
        if isinstance(prediction, DiscretizedLogistic):
            return self._given(cues, prediction)
        prior, noise = prediction.scale**2, scale_like(self.scale, prediction.loc) ** 2
        loc = prediction.loc + (cues - prediction.loc) * (prior / (prior + noise))  # the precision-weighted mean
        return dist.Normal(loc, (prior * noise / (prior + noise)) ** 0.5, validate_args=False)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``, a ``Normal`` or ``DiscretizedLogistic``."""
        prediction = self._expect(prediction)
        if isinstance(prediction, DiscretizedLogistic):
            return self._given(cues, prediction).log_evidence
        scale = (prediction.scale**2 + scale_like(self.scale, prediction.loc) ** 2) ** 0.5
        return dist.Normal(prediction.loc, scale, validate_args=False).log_prob(cues)

    def _expect(self, prediction: dist.TorchDistribution) -> dist.Normal | DiscretizedLogistic:
        return as_prediction(self, prediction, dist.Normal, DiscretizedLogistic)

    def _given(self, cues: Tensor, prediction: DiscretizedLogistic) -> NoisyLevels:
        return NoisyLevels(prediction, cues, scale_like(self.scale, prediction.loc), normal_log_density)

    def _refit(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> GaussianNoise:
        """The M-step: the variance becomes E[(c - x)^2]."""
        posterior = self.posterior(cues, prediction)
        squared = (cues - posterior.mean) ** 2 + posterior.variance  # (c - E[x])^2 + Var[x]
        variance = mean_of_observed(squared, observed, dims).nan_to_num(1.0, posinf=1.0)
        return GaussianNoise(variance.clamp(min=1e-10).sqrt())
