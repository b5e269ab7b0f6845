"""A Normal that is observed after noise and a clamp to [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus
from torch.special import erfc, erfcx, log_ndtr, ndtri

_MODE_STEPS = 20  # at most; usually 3 to 6


def normal_log_density(values: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log Normal(values; loc, scale) in nats. All shapes broadcast; a small ``scale`` is not expanded before."""
    return -((values - loc) ** 2) / (2 * scale**2) - (scale.log() + 0.5 * math.log(2 * math.pi))


def clamped_log_density(cues: Tensor, loc: Tensor, scale: Tensor, folded: bool) -> Tensor:
    r"""log p(c) in nats for ``y ~ Normal(loc, scale)`` and c = clamp(y, 0, 1), or clamp(\|y\|, 0, 1) if ``folded``.

    At a point mass it is a log probability, elsewhere a log density. All shapes broadcast.
    """
    cues, upper = cues.clamp(0, 1), log_ndtr((loc - 1) / scale)
    between = normal_log_density(cues, loc, scale)
    if folded:  # log (N(c) + N(-c)) = log N(c) + log (1 + exp(-2 c loc / scale^2))
        between = between + softplus(-2 * cues * loc / scale**2)
        return torch.where(cues >= 1, torch.logaddexp(upper, log_ndtr((-1 - loc) / scale)), between)
    return torch.where(cues >= 1, upper, torch.where(cues <= 0, log_ndtr(-loc / scale), between))


def clamped_moments(cues: Tensor, loc: Tensor, scale: Tensor, folded: bool) -> tuple[Tensor, Tensor]:
    """Mean and variance of ``y - loc`` given c, as in :func:`clamped_log_density`."""
    cues, (upper, upper_variance) = cues.clamp(0, 1), _tail((loc - 1) / scale)
    if not folded:
        lower, lower_variance = _tail(-loc / scale)
        mean = torch.where(cues >= 1, scale * upper, torch.where(cues <= 0, -scale * lower, cues - loc))
        variance = torch.where(cues >= 1, upper_variance, torch.where(cues <= 0, lower_variance, 0.0))
        return mean, scale**2 * variance
    lower, lower_variance = _tail((-1 - loc) / scale)
    positive = _log_odds_of_sign(cues, loc, scale).sigmoid()
    mean = scale * (positive * upper - (1 - positive) * lower)
    variance = positive * upper_variance + (1 - positive) * lower_variance
    variance = scale**2 * (variance + positive * (1 - positive) * (upper + lower) ** 2)
    between = cues * (2 * positive - 1) - loc, 4 * cues**2 * positive * (1 - positive)  # of the points c and -c
    return torch.where(cues >= 1, mean, between[0]), torch.where(cues >= 1, variance, between[1])


def _log_odds_of_sign(cues: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """log P(y > 0) - log P(y < 0) given c, if folded."""
    ends = log_ndtr((loc - 1) / scale) - log_ndtr((-1 - loc) / scale)
    return torch.where(cues >= 1, ends, 2 * cues * loc / scale**2)


class NormalGivenClamped(dist.TorchDistribution):
    """p(x | c) for a Normal x that is observed after noise and a clamp to [0, 1].

    ::

        x ~ Normal(m, tau),    y ~ Normal(x, s),    c = clamp(y, 0, 1),    folded: c = clamp(|y|, 0, 1)
        p(x | c) = N(x; m, tau) p(c | x) / p(c)
        x = m + g (y - m) + r z,    z ~ Normal(0, 1),    g = tau^2 / (tau^2 + s^2),    r^2 = g s^2

    Given c, y is the point c, one of the two points c and -c, a truncated normal, or one of two of these. So x is a
    Normal, a mixture of two, an extended skew normal, or a mixture of two. Density, mean and variance are in closed
    form, and samples are exact. Newton steps find the mode, the highest point of the density.

    :param prediction: of x, shape of the batch.
    :param noise: s.
    :param cues: c, clamped to [0, 1]; shapes broadcast.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real

    def __init__(self, prediction: dist.Normal, noise: Tensor, cues: Tensor, folded: bool) -> None:
        batch_shape = torch.broadcast_shapes(prediction.batch_shape, cues.shape)
        self.prediction, self.noise, self.folded = prediction.expand(batch_shape), noise, folded
        self.cues = cues.clamp(0, 1).expand(batch_shape)
        total = prediction.scale**2 + self.noise**2
        #: The standard deviation of y, g, 1 - g and r^2.
        self._scale, self._gain, self._loss = total.sqrt(), prediction.scale**2 / total, self.noise**2 / total
        self._rest = self._gain * self.noise**2
        super().__init__(batch_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> NormalGivenClamped:
        """The same distribution with more dimensions on the left."""
        prediction, cues = self.prediction.expand(batch_shape), self.cues.expand(batch_shape)
        return NormalGivenClamped(prediction, self.noise, cues, self.folded)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats."""
        evidence = clamped_log_density(self.cues, self.prediction.loc, self._scale, self.folded)
        likelihood = clamped_log_density(self.cues, value, self.noise, self.folded)
        return self.prediction.log_prob(value) + likelihood - evidence

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of y - m given c."""
        return clamped_moments(self.cues, self.prediction.loc, self._scale, self.folded)

    @property
    def mean(self) -> Tensor:
        """``m + g (E[y] - m)``."""
        return self.prediction.loc + self._gain * self._moments()[0]

    @property
    def variance(self) -> Tensor:
        """``r^2 + g^2 Var[y]``."""
        return self._rest + self._gain**2 * self._moments()[1]

    def expected_squared_noise(self) -> Tensor:
        """``E[(y - x)^2 | c] = (1 - g)^2 E[(y - m)^2] + r^2``."""
        mean, variance = self._moments()
        return self._loss**2 * (mean**2 + variance) + self._rest

    @property
    def mode(self) -> Tensor:
        """The root of ``f(x) = (1 - g) (m - x) + g E[y - x | x, c]``, which is r^2 times the slope of the log density.

        ``f'(x) = g Var[y | x, c] / s^2 - 1``. By symmetry c is not 0, or, if folded, m >= 0. Then f is not negative at
        m, or at (1 - g) m. The root of the highest mode lies right of it. It does not lie right of the interval
        ``mean +- sqrt(3 variance)`` of y > 0 alone, which contains the mode of every unimodal density.
        """
        loc, folded = self.prediction.loc, self.folded
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
            mean, variance = clamped_moments(cues, x, self.noise, folded)
            f = self._loss * (loc - x) + self._gain * mean
            low, high = torch.where(f > 0, x, low), torch.where(f > 0, high, x)
            newton = x + f / (self._loss + self._gain * (1 - variance / self.noise**2))
            last, x = x, torch.where((newton >= low) & (newton <= high), newton, (low + high) / 2)
            if bool(((x - last).abs() <= tolerance).all()):
                break
        return torch.where(mirrored, pivot - x, x)

    @torch.no_grad()
    def sample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Samples of y given c, and then of x given y."""
        shape, loc = self._extended_shape(torch.Size(sample_shape)), self.prediction.loc
        upper = 1 + self._scale * _sample_tail(((loc - 1) / self._scale).expand(shape))
        if self.folded:
            lower = -1 - self._scale * _sample_tail(((-1 - loc) / self._scale).expand(shape))
            positive = torch.rand(shape, dtype=loc.dtype, device=loc.device)
            positive = positive < _log_odds_of_sign(self.cues, loc, self._scale).sigmoid()
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
