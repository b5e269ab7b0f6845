"""Likelihoods: the distribution of a pattern given the output of the decoder.

A likelihood is any callable from decoder output to a Pyro distribution of the pattern's entries; the
machine declares the dimensions of a pattern as event dimensions.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class BernoulliLikelihood(nn.Module):
    """Binary patterns: ``x ~ Bernoulli(sigmoid(output))``; the decoder returns logits of the pattern's shape."""

    def forward(self, output: Tensor) -> dist.Bernoulli:
        """``Bernoulli`` with the shape of ``output``."""
        return dist.Bernoulli(logits=output, validate_args=False)


class NormalLikelihood(nn.Module):
    """Real patterns: ``x ~ Normal(output, scale)``; the decoder returns means of the pattern's shape.

    :param scale: where the learned standard deviation starts, a positive number.
    :raises ValueError: if ``scale`` is not positive.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"NormalLikelihood: scale is {scale}; expected a positive standard deviation.")
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def forward(self, output: Tensor) -> dist.Normal:
        """``Normal`` with the shape of ``output``."""
        return dist.Normal(output, self.log_scale.exp(), validate_args=False)


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


def expected_and_mode(entries: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean and mode of every entry under the equal mixture over the first dimension, (S, ...) to (...).

    Classes have no mean: both are the mode. Of a mixture of other distributions the mode is its mean.
    """
    if isinstance(entries, dist.MaskedMixture):
        # a mask that differs between the members of the mixture would have no meaning: it is that of the entries
        pairs = zip(expected_and_mode(entries.component1), expected_and_mode(entries.component0), strict=True)
        mask = torch.as_tensor(entries.mask)[0]
        expected, mode = (torch.where(mask, one, other) for one, other in pairs)
        return expected, mode
    if isinstance(entries, dist.Bernoulli):
        expected = entries.probs.mean(0)
        alone = entries.batch_shape[0] == 1  # torch's own mode is NaN at logit 0
        return expected, ((entries.logits[0] > 0) if alone else (expected > 0.5)).to(expected.dtype)
    if isinstance(entries, dist.Categorical):
        mode = entries.probs.mean(0).argmax(-1).to(entries.probs.dtype)
        return mode, mode
    expected = entries.mean.mean(0)
    if isinstance(entries, dist.Delta) or entries.batch_shape[0] > 1:
        return expected, expected
    return expected, entries.mode[0]


def joint_mode(entries: dist.TorchDistribution) -> Tensor:
    """The entries x that maximize the sum of ``log p_s(x)`` over the first dimension, (S, ...) to (...).

    :raises ValueError: for several members that are neither Bernoulli, Categorical nor Normal.
    """
    if entries.batch_shape[0] == 1:
        return expected_and_mode(entries)[1]
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
