"""Likelihoods: the distribution of a pattern given the output of the decoder.

A likelihood is any callable from decoder output to a Pyro distribution of the pattern's entries; the
machine declares the dimensions of a pattern as event dimensions.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva.distributions import DiscretizedLogistic


class BernoulliLikelihood(nn.Module):
    """Binary patterns: ``x ~ Bernoulli(sigmoid(output))``; the decoder returns logits of the pattern's shape."""

    def forward(self, output: Tensor) -> dist.Bernoulli:
        """``Bernoulli`` with the shape of ``output``."""
        return dist.Bernoulli(logits=output, validate_args=False)


class NormalLikelihood(nn.Module):
    """Real patterns: ``x ~ Normal(output, scale)``; the decoder returns means of the pattern's shape.

    :param scale: standard deviations, positive: a number for one of all entries, or a tensor that broadcasts
        to the pattern's shape E, for one of each entry.
    :param learned: whether ``scale`` is only where learned ones start, or is kept.
    :raises ValueError: if ``scale`` is not positive.
    """

    log_scale: Tensor

    def __init__(self, scale: Tensor | float = 1.0, *, learned: bool = True) -> None:
        super().__init__()
        start = torch.as_tensor(scale, dtype=torch.get_default_dtype()).detach().clone()
        if not bool(((start > 0) & start.isfinite()).all()):
            raise ValueError(f"NormalLikelihood: scale is {scale}; expected positive standard deviations.")
        if learned:
            self.log_scale = nn.Parameter(start.log())
        else:
            self.register_buffer("log_scale", start.log())

    def forward(self, output: Tensor) -> dist.Normal:
        """``Normal`` with the shape of ``output``."""
        return dist.Normal(output, self.log_scale.exp(), validate_args=False)


class DiscretizedLogisticLikelihood(nn.Module):
    """Grey levels ``0, 1/(n-1), ..., 1``, such as 8-bit images over 255: a logistic distribution in bins.

    ``x ~ DiscretizedLogistic(sigmoid(output), scale)``, see :class:`pyro_kanerva.distributions.DiscretizedLogistic`;
    the decoder returns an array of the pattern's shape.

    :param scale: where the learned scale of the logistic distribution starts, as a share of the range.
    :param num_levels: n, 256 for 8 bits.
    :raises ValueError: if ``scale`` is not positive, or ``num_levels < 2``.
    """

    def __init__(self, scale: float = 0.1, num_levels: int = 256) -> None:
        super().__init__()
        if not 0 < scale < math.inf or num_levels < 2:
            raise ValueError(
                f"DiscretizedLogisticLikelihood: scale is {scale}, num_levels {num_levels}; expected a positive "
                "number, and at least 2."
            )
        self.num_levels = num_levels
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def forward(self, output: Tensor) -> DiscretizedLogistic:
        """``DiscretizedLogistic`` with the shape of ``output``."""
        return DiscretizedLogistic(output.sigmoid(), self.log_scale.exp(), self.num_levels, validate_args=False)


class CategoricalLikelihood(nn.Module):
    """Patterns of classes 0 ... num_classes - 1, kept in float tensors: ``x ~ Categorical(softmax(output))``.

    The decoder returns logits of the pattern's shape and, last, the classes: (N,) + E + (num_classes,).

    :raises ValueError: if ``num_classes < 2``.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"CategoricalLikelihood: num_classes is {num_classes}; expected at least 2.")
        self.num_classes = num_classes

    def forward(self, output: Tensor) -> dist.Categorical:
        """``Categorical`` with the shape of ``output`` less its last dimension.

        :raises ValueError: if that is not ``num_classes`` long.
        """
        if output.shape[-1] != self.num_classes:
            raise ValueError(
                f"CategoricalLikelihood: the decoder's output has shape {tuple(output.shape)}; expected logits of "
                f"{self.num_classes} classes in the last dimension."
            )
        return dist.Categorical(logits=output, validate_args=False)


def mean_and_mode(entries: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean and mode of every entry.

    Classes have no mean: both are the mode. Where a distribution has no mode, or an infinite one, it is the mean.
    """
    if isinstance(entries, dist.MaskedMixture):
        mask = torch.as_tensor(entries.mask)
        pairs = zip(mean_and_mode(entries.component1), mean_and_mode(entries.component0), strict=True)
        mean, mode = (torch.where(mask, one, other) for one, other in pairs)
        return mean, mode
    if isinstance(entries, dist.Bernoulli):  # torch's own mode is NaN at logit 0
        return entries.probs, (entries.logits > 0).to(entries.logits.dtype)
    if isinstance(entries, dist.Categorical):
        mode = entries.logits.argmax(-1).to(entries.logits.dtype)
        return mode, mode
    mean = entries.mean
    try:
        mode = entries.mode
    except NotImplementedError:
        return mean, mean
    return mean, torch.where(mode.isfinite(), mode, mean)


def expected_and_mode(entries: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """:func:`mean_and_mode` under the equal mixture over the first dimension, (S, ...) to (...).

    Of a mixture of several distributions that are neither Bernoulli nor Categorical the mode is the mean.
    """
    mean, mode = mean_and_mode(entries)
    if len(mean) == 1:
        return mean[0], mode[0]
    if isinstance(entries, dist.MaskedMixture):
        mask = torch.as_tensor(entries.mask)[0]  # that of the entries, the same for every member
        pairs = zip(expected_and_mode(entries.component1), expected_and_mode(entries.component0), strict=True)
        mean, mode = (torch.where(mask, one, other) for one, other in pairs)
        return mean, mode
    if isinstance(entries, dist.Categorical):
        mode = entries.probs.mean(0).argmax(-1).to(mode.dtype)
        return mode, mode
    mean = mean.mean(0)
    return mean, (mean > 0.5).to(mean.dtype) if isinstance(entries, dist.Bernoulli) else mean


def joint_mode(entries: dist.TorchDistribution) -> Tensor:
    """The entries x that maximize the sum of ``log p_s(x)`` over the first dimension, (S, ...) to (...).

    :raises ValueError: for several members that are neither Bernoulli, Categorical nor Normal.
    """
    if entries.batch_shape[0] == 1:
        return mean_and_mode(entries)[1][0]
    if isinstance(entries, dist.Bernoulli):
        return (entries.logits.mean(0) > 0).to(entries.logits.dtype)
    if isinstance(entries, dist.Categorical):
        return entries.logits.mean(0).argmax(-1).to(entries.logits.dtype)
    if isinstance(entries, dist.Normal):
        precision = entries.scale**-2
        return (precision * entries.loc).sum(0) / precision.sum(0)
    raise ValueError(
        f"query(): without a channel, an energy that averages over addresses knows the mode of Bernoulli, "
        f"Categorical and Normal likelihoods; this one is {type(entries).__name__}. Use PointEnergy(), or a channel."
    )
