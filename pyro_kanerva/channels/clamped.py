"""Gaussian noise on grey levels and colors that stay in [0, 1]."""

from __future__ import annotations

from functools import partial

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_kanerva._checks import check_positive, checks_values
from pyro_kanerva.channels.noise import as_prediction, mean_of_observed, scale_like
from pyro_kanerva.distributions import DiscretizedLogistic, NoisyLevels, NormalGivenClamped
from pyro_kanerva.distributions.clamped_normal import clamped_log_density, clamped_moments


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
    counts as the nearest end. For grey levels each evidence is a sum over all of them, so that a query takes longer.

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

    @property
    def level(self) -> float | Tensor:
        """``scale``."""
        return self.scale

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

        :return: a ``Bernoulli`` for a ``Bernoulli``, :class:`~pyro_kanerva.distributions.NoisyLevels` for grey levels,
            :class:`~pyro_kanerva.distributions.NormalGivenClamped` for a ``Normal``.
        """
        prediction = self._expect(prediction)
        if isinstance(prediction, dist.Bernoulli):
            one, zero = self._given_bits(cues, prediction)
            return dist.Bernoulli(logits=prediction.logits + one - zero, validate_args=False)
        if isinstance(prediction, DiscretizedLogistic):
            return self._given_levels(cues, prediction)
        return NormalGivenClamped(prediction, self._scale(prediction.loc), cues, self.folded)

    def log_evidence(self, cues: Tensor, prediction: dist.TorchDistribution) -> Tensor:
        """log p(c) of every entry in nats, for x ~ ``prediction``: a log density, at a point mass a log probability."""
        prediction = self._expect(prediction)
        if isinstance(prediction, dist.Bernoulli):
            one, zero = self._given_bits(cues, prediction)
            return torch.logaddexp(logsigmoid(prediction.logits) + one, logsigmoid(-prediction.logits) + zero)
        if isinstance(prediction, DiscretizedLogistic):
            return self._given_levels(cues, prediction).log_evidence
        scale = (prediction.scale**2 + self._scale(prediction.loc) ** 2).sqrt()
        return clamped_log_density(cues, prediction.loc, scale, self.folded)

    def _scale(self, like: Tensor) -> Tensor:
        return scale_like(self.scale, like)

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
        scale, one = self._scale(prediction.logits), torch.ones_like(prediction.logits)
        given_one, given_zero = (clamped_log_density(cues, x, scale, self.folded) for x in (one, 0 * one))
        return given_one, given_zero

    def _given_levels(self, cues: Tensor, prediction: DiscretizedLogistic) -> NoisyLevels:
        """The levels given the cues."""
        log_likelihood = partial(clamped_log_density, folded=self.folded)
        return NoisyLevels(prediction, cues, self._scale(prediction.loc), log_likelihood)

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

        def given(cues: Tensor, patterns: Tensor, scale: Tensor) -> Tensor:
            mean, variance = clamped_moments(cues, patterns, scale, self.folded)
            return mean**2 + variance

        if isinstance(posterior, NoisyLevels):
            return posterior.expectation(given)
        one, scale = torch.ones_like(posterior.mean), self._scale(posterior.mean)
        return posterior.mean * given(cues, one, scale) + (1 - posterior.mean) * given(cues, 0 * one, scale)
