"""Gaussian noise on grey levels and colors that stay in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import logsigmoid, softplus
from torch.special import erfc, erfcx, log_ndtr, ndtri
from torch.utils.checkpoint import checkpoint

from pyro_kanerva._checks import check_positive, checks_values
from pyro_kanerva.channels.noise import as_prediction, mean_of_observed
from pyro_kanerva.distributions import DiscretizedLogistic, GreyLevels

_MODE_STEPS = 20  # at most; usually 3 to 6, see `mode`
_LEVELS_AT_ONCE = 32  # of the sum over grey levels; a backward pass stores one number per block and entry


class ClampedGaussianNoise:
    r"""Entries in [0, 1] plus Gaussian noise, clamped to [0, 1]; with ``folded`` the sign is dropped before.

    ::

        y ~ Normal(x, scale),    c = clamp(y, 0, 1),    folded: c = clamp(|y|, 0, 1)

    p(c | x) has a density between 0 and 1, and point masses at the ends::

                   folded=False            folded=True
        0 < c < 1  N(c; x, scale)          N(c; x, scale) + N(-c; x, scale)
        c = 0      Phi(-x / scale)         the density 2 N(0; x, scale), no point mass
        c = 1      Phi((x - 1) / scale)    Phi((x - 1) / scale) + Phi((-1 - x) / scale)

    Evidence and posterior are exact, for a prediction that is a ``Normal``, a ``Bernoulli`` or a
    :class:`~pyro_kanerva.distributions.DiscretizedLogistic`, whose grey levels are summed. A cue outside of [0, 1]
    counts as the nearest end.

    :param scale: a positive standard deviation.
    :param folded: True for the noise of the benchmark of Millidge et al. 2022 (arXiv 2202.04557), "Universal Hopfield
        Networks".
    :raises ValueError: if ``scale`` is not positive.
    """

    def __init__(self, scale: float | Tensor, folded: bool = False) -> None:
        check_positive("ClampedGaussianNoise", scale=scale)
        #: The standard deviation: a number, or a tensor with one per query from :meth:`UnknownLevel.resolve`.
        self.scale, self.folded = scale, folded

    def __repr__(self) -> str:
        return f"ClampedGaussianNoise({self.scale}{', folded=True' if self.folded else ''})"

    def __call__(self, patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Damaged copies of ``patterns``, of equal shape; ``generator`` lives on their device.

        :raises ValueError: if entries of the patterns are outside of [0, 1].
        """
        self._check(patterns)
        noise = torch.randn(patterns.shape, generator=generator, dtype=patterns.dtype, device=patterns.device)
        noisy = patterns + self._scale(patterns) * noise
        return (noisy.abs() if self.folded else noisy).clamp(0, 1)

    def posterior(self, cues: Tensor, prediction: dist.TorchDistribution) -> dist.TorchDistribution:
        """p(x | c) of every entry, for x ~ ``prediction``.

        :return: for a ``Normal`` prediction :class:`NormalGivenClamped`, for a ``Bernoulli`` a ``Bernoulli``, for grey
            levels :class:`~pyro_kanerva.distributions.GreyLevels`.
        """
        prediction = self._expect(prediction)
        if isinstance(prediction, dist.Bernoulli):
            one, zero = self._given_bits(cues, prediction)
            return dist.Bernoulli(logits=prediction.logits + one - zero, validate_args=False)
        if isinstance(prediction, DiscretizedLogistic):
            joint = self._joint_with_levels(cues, prediction)
            logits = torch.cat([joint(*block) for block in _blocks(prediction)])
            return GreyLevels(logits.movedim(0, -1), validate_args=False)
        return NormalGivenClamped(prediction, cues, self)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``: a log density, at a point mass a log probability."""
        prediction = self._expect(prediction)
        if isinstance(prediction, dist.Bernoulli):
            one, zero = self._given_bits(cues, prediction)
            return torch.logaddexp(logsigmoid(prediction.logits) + one, logsigmoid(-prediction.logits) + zero)
        if isinstance(prediction, DiscretizedLogistic):
            joint = self._joint_with_levels(cues, prediction)
            sums = [
                checkpoint(lambda *block: joint(*block).logsumexp(0), *block, use_reentrant=False)
                for block in _blocks(prediction)
            ]
            return torch.stack(sums).logsumexp(0)
        noise = self._scale(prediction.loc)
        return self.log_density(cues, prediction.loc, (prediction.scale**2 + noise**2).sqrt())

    def log_density(self, cues: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """log p(c) of every entry in nats, for ``y ~ Normal(loc, scale)``; all shapes broadcast."""
        cues, upper = cues.clamp(0, 1), log_ndtr((loc - 1) / scale)
        between = dist.Normal(loc, scale, validate_args=False).log_prob(cues)
        if self.folded:  # log (N(c) + N(-c)) = log N(c) + log (1 + exp(-2 c loc / scale^2))
            between = between + softplus(-2 * cues * loc / scale**2)
            return torch.where(cues >= 1, torch.logaddexp(upper, log_ndtr((-1 - loc) / scale)), between)
        return torch.where(cues >= 1, upper, torch.where(cues <= 0, log_ndtr(-loc / scale), between))

    def moments(self, cues: Tensor, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of ``y - loc`` given c, for ``y ~ Normal(loc, scale)``; all shapes broadcast."""
        cues, (upper, upper_variance) = cues.clamp(0, 1), _tail((loc - 1) / scale)
        if not self.folded:
            lower, lower_variance = _tail(-loc / scale)
            mean = torch.where(cues >= 1, scale * upper, torch.where(cues <= 0, -scale * lower, cues - loc))
            variance = torch.where(cues >= 1, upper_variance, torch.where(cues <= 0, lower_variance, 0.0))
            return mean, scale**2 * variance
        lower, lower_variance = _tail((-1 - loc) / scale)
        positive = self._log_odds_of_sign(cues, loc, scale).sigmoid()
        mean = scale * (positive * upper - (1 - positive) * lower)
        variance = positive * upper_variance + (1 - positive) * lower_variance
        variance = scale**2 * (variance + positive * (1 - positive) * (upper + lower) ** 2)
        between = cues * (2 * positive - 1) - loc, 4 * cues**2 * positive * (1 - positive)  # of the points c and -c
        return torch.where(cues >= 1, mean, between[0]), torch.where(cues >= 1, variance, between[1])

    def _log_odds_of_sign(self, cues: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        """log P(y > 0) - log P(y < 0) given c, if the channel is folded."""
        ends = log_ndtr((loc - 1) / scale) - log_ndtr((-1 - loc) / scale)
        return torch.where(cues >= 1, ends, 2 * cues * loc / scale**2)

    def _scale(self, like: Tensor) -> Tensor:
        return torch.as_tensor(self.scale, dtype=like.dtype, device=like.device)

    def _check(self, patterns: Tensor) -> None:
        if checks_values() and bool(((patterns < 0) | (patterns > 1)).any()):
            raise ValueError(
                f"{self!r}: patterns have entries from {patterns.min():g} to {patterns.max():g}; expected entries in "
                "[0, 1]. Rescale them, for example divide 8-bit levels by 255, or use GaussianNoise."
            )

    def _expect(self, prediction: dist.TorchDistribution) -> dist.Normal | dist.Bernoulli | DiscretizedLogistic:
        if isinstance(prediction, dist.Delta):
            self._check(prediction.v)
        return as_prediction(self, prediction, dist.Normal, dist.Bernoulli, DiscretizedLogistic)

    def _given_bits(self, cues: Tensor, prediction: dist.Bernoulli) -> tuple[Tensor, Tensor]:
        """log p(c | x = 1) and log p(c | x = 0)."""
        one = torch.ones_like(prediction.logits)
        scale = self._scale(one)
        return self.log_density(cues, one, scale), self.log_density(cues, 0 * one, scale)

    def _joint_with_levels(self, cues: Tensor, prediction: DiscretizedLogistic) -> Callable[[int, int], Tensor]:
        """The function ``log P(x = level) + log p(c | level)`` of the levels start ... stop - 1: (N, ...)."""
        scale = self._scale(prediction.loc)

        def joint(start: int, stop: int) -> Tensor:
            levels = _levels(prediction, start, stop)
            return prediction.log_prob_of_levels(start, stop) + self.log_density(cues, levels, scale)

        return joint

    def _refit(
        self, cues: Tensor, prediction: dist.TorchDistribution, observed: Tensor, dims: tuple[int, ...]
    ) -> ClampedGaussianNoise:
        """The M-step: the variance becomes E[(y - x)^2] given c."""
        squared = self._expected_squared_noise(cues, self._expect(prediction))
        variance = mean_of_observed(squared, observed, dims).nan_to_num(1.0, posinf=1.0)
        return ClampedGaussianNoise(variance.clamp(min=1e-10).sqrt(), self.folded)

    def _expected_squared_noise(
        self, cues: Tensor, prediction: dist.Normal | dist.Bernoulli | DiscretizedLogistic
    ) -> Tensor:
        """E[(y - x)^2] of every entry given its cue."""
        posterior = self.posterior(cues, prediction)
        if isinstance(posterior, NormalGivenClamped):
            return posterior.expected_squared_noise()

        def given(pattern: Tensor) -> Tensor:
            mean, variance = self.moments(cues, pattern, self._scale(pattern))
            return mean**2 + variance

        if isinstance(posterior, dist.Bernoulli):
            one = torch.ones_like(posterior.probs)
            return posterior.probs * given(one) + (1 - posterior.probs) * given(0 * one)
        weights = posterior.probs.movedim(-1, 0)
        terms = [weights[start:stop] * given(_levels(prediction, start, stop)) for start, stop in _blocks(prediction)]
        return torch.stack([term.sum(0) for term in terms]).sum(0)


class NormalGivenClamped(dist.TorchDistribution):
    r"""p(x | c) for ``x ~ Normal(m, tau)`` and a cue c under :class:`ClampedGaussianNoise` of scale s.

    ::

        p(x | c) = N(x; m, tau) p(c | x) / p(c)
        x = m + g (y - m) + r z,    z ~ Normal(0, 1),    g = tau^2 / (tau^2 + s^2),    r^2 = g s^2

    Here y is the noisy entry before it is clamped. Its distribution given c is the point c, two points +-c, a
    truncated normal, or two of these. So x is a Normal, a mixture of two, an extended skew normal, or a mixture of two.
    ``log_prob``, ``mean``, ``variance`` and samples are exact. ``mode`` is the highest point of the density, to the
    precision of the numbers.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real

    def __init__(self, prediction: dist.Normal, cues: Tensor, channel: ClampedGaussianNoise) -> None:
        batch_shape = torch.broadcast_shapes(prediction.batch_shape, cues.shape)
        self.prediction, self.channel = prediction.expand(batch_shape), channel
        self.cues = cues.clamp(0, 1).expand(batch_shape)
        self._noise = channel._scale(prediction.loc)
        total = prediction.scale**2 + self._noise**2
        #: The standard deviation of y, g, 1 - g and r^2.
        self._scale, self._gain, self._loss = total.sqrt(), prediction.scale**2 / total, self._noise**2 / total
        self._rest = self._gain * self._noise**2
        super().__init__(batch_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> NormalGivenClamped:
        """The same distribution with more dimensions on the left."""
        return NormalGivenClamped(self.prediction.expand(batch_shape), self.cues.expand(batch_shape), self.channel)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        evidence = self.channel.log_density(self.cues, self.prediction.loc, self._scale)
        return self.prediction.log_prob(value) + self.channel.log_density(self.cues, value, self._noise) - evidence

    @property
    def mean(self) -> Tensor:
        """``m + g (E[y] - m)``."""
        loc = self.prediction.loc
        return loc + self._gain * self.channel.moments(self.cues, loc, self._scale)[0]

    @property
    def variance(self) -> Tensor:
        """``r^2 + g^2 Var[y]``."""
        return self._rest + self._gain**2 * self.channel.moments(self.cues, self.prediction.loc, self._scale)[1]

    def expected_squared_noise(self) -> Tensor:
        """``E[(y - x)^2 | c] = (1 - g)^2 E[(y - m)^2] + r^2``."""
        mean, variance = self.channel.moments(self.cues, self.prediction.loc, self._scale)
        return self._loss**2 * (mean**2 + variance) + self._rest

    @property
    def mode(self) -> Tensor:
        """The root of ``f(x) = (1 - g) (m - x) + g E[y - x | x, c]``, which is r^2 times the slope of the log density.

        ``f'(x) = g Var[y | x, c] / s^2 - 1``. Mirrored so that c is not 0, or folded so that m >= 0, the root of
        the highest mode lies right of m, or of ``(1 - g) m``. It is not right of ``mean + sqrt(3 variance)`` for y > 0
        alone, because |mode - mean| is at most that for every unimodal density.
        """
        loc, folded = self.prediction.loc, self.channel.folded
        mirrored = loc < 0 if folded else self.cues <= 0
        pivot = 0 if folded else 1  # x -> pivot - x
        loc = torch.where(mirrored, pivot - loc, loc)
        cues = self.cues if folded else torch.where(mirrored, 1.0, self.cues)
        tail, variance = _tail((loc - 1) / self._scale)
        tail, variance = self._scale * tail, torch.where(cues >= 1, self._scale**2 * variance, 0.0)
        x = loc + self._gain * torch.where(cues >= 1, tail, cues - loc)  # the mean for y > 0 alone
        low = torch.minimum(torch.minimum(loc, self._loss * loc), x)
        high = x + (3 * (self._rest + self._gain**2 * variance)).sqrt()
        tolerance = 1e-3 * self._rest.sqrt()  # Newton converges quadratically: the next step is far smaller
        for _ in range(_MODE_STEPS):  # Newton, or bisection where that leaves the interval
            mean, variance = self.channel.moments(cues, x, self._noise)
            f = self._loss * (loc - x) + self._gain * mean
            low, high = torch.where(f > 0, x, low), torch.where(f > 0, high, x)
            newton = x + f / (self._loss + self._gain * (1 - variance / self._noise**2))
            last, x = x, torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            if bool(((x - last).abs() <= tolerance).all()):
                break
        return torch.where(mirrored, pivot - x, x)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Samples of y given c, and then of x given y."""
        shape, loc = self._extended_shape(torch.Size(sample_shape)), self.prediction.loc
        upper = 1 + self._scale * _sample_tail(((loc - 1) / self._scale).expand(shape))
        if self.channel.folded:
            lower = -1 - self._scale * _sample_tail(((-1 - loc) / self._scale).expand(shape))
            positive = torch.rand(shape, dtype=loc.dtype, device=loc.device)
            positive = positive < self.channel._log_odds_of_sign(self.cues, loc, self._scale).sigmoid()
            y = torch.where(positive, self.cues, -self.cues)
            y = torch.where(self.cues >= 1, torch.where(positive, upper, lower), y)
        else:
            lower = -self._scale * _sample_tail((-loc / self._scale).expand(shape))
            y = torch.where(self.cues >= 1, upper, torch.where(self.cues <= 0, lower, self.cues))
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        return loc + self._gain * (y - loc) + self._rest.sqrt() * noise


def _tail(u: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of z given ``u + z >= 0``, for z ~ Normal(0, 1)."""
    mean = math.sqrt(2 / math.pi) / erfcx(-u / math.sqrt(2))  # N(u; 0, 1) / Phi(u), without cancellation
    return mean, (1 - mean * (u + mean)).clamp(min=0)


def _sample_tail(u: Tensor) -> Tensor:
    """Samples of u + z given ``u + z >= 0``, for z ~ Normal(0, 1)."""
    uniform, wide = 1 - torch.rand(u.shape, dtype=torch.float64, device=u.device), u.double()
    # z = -Phi^-1(uniform Phi(u)); torch's ndtr(u) is 0 in the tail, erfc is not
    inverse = wide - ndtri(uniform * 0.5 * erfc(-wide / math.sqrt(2)))
    # Below -30 the density of z is z exp(-z^2 / 2) up to a factor that changes by 1e-3 where it matters.
    far = -2 * uniform.log() / ((wide**2 - 2 * uniform.log()).sqrt() - wide)
    return torch.where(wide < -30, far, inverse).to(u)


def _blocks(prediction: DiscretizedLogistic) -> list[tuple[int, int]]:
    """(start, stop) of blocks of levels."""
    n = prediction.num_levels
    return [(start, min(start + _LEVELS_AT_ONCE, n)) for start in range(0, n, _LEVELS_AT_ONCE)]


def _levels(prediction: DiscretizedLogistic, start: int, stop: int) -> Tensor:
    """The levels start ... stop - 1, (stop - start, 1, ...)."""
    loc = prediction.loc
    index = torch.arange(start, stop, dtype=loc.dtype, device=loc.device)
    return (index / (prediction.num_levels - 1)).view(-1, *(1,) * loc.dim())
