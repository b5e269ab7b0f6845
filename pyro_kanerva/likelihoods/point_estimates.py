"""Means and modes of patterns."""

import pyro.distributions as dist
import torch
from torch import Tensor


def mean_and_mode(entries: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean and mode of every entry.

    A ``Categorical`` has no mean: its mode replaces the mean. If a mode is not implemented or not finite, the mean
    replaces it.
    """
    if isinstance(entries, dist.MaskedMixture):
        mask = torch.as_tensor(entries.mask)
        return _where(mask, mean_and_mode(entries.component1), mean_and_mode(entries.component0))
    if isinstance(entries, dist.Bernoulli):  # its mode in torch is NaN at logit 0
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


def _where(mask: Tensor, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and mode of a ``MaskedMixture`` from those of its components."""
    return torch.where(mask, one[0], other[0]), torch.where(mask, one[1], other[1])


def expected_and_mode(entries: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean and mode of every entry under the mixture of S equally likely distributions, (S, ...) to (...).

    If S > 1 and the distributions are neither Bernoulli nor Categorical, the mean replaces the mode.
    """
    mean, mode = mean_and_mode(entries)
    if len(mean) == 1:
        return mean[0], mode[0]
    if isinstance(entries, dist.MaskedMixture):
        mask = torch.as_tensor(entries.mask)[0]  # all S masks are equal
        return _where(mask, expected_and_mode(entries.component1), expected_and_mode(entries.component0))
    if isinstance(entries, dist.Categorical):
        mode = entries.probs.mean(0).argmax(-1).to(mode.dtype)
        return mode, mode
    mean = mean.mean(0)
    return mean, (mean > 0.5).to(mean.dtype) if isinstance(entries, dist.Bernoulli) else mean


def joint_mode(entries: dist.TorchDistribution) -> Tensor:
    """The entries x that maximize ``sum_s log p_s(x)`` over S distributions, (S, ...) to (...).

    :raises ValueError: if S > 1 and the distributions are not Bernoulli, Categorical or Normal.
    """
    if entries.batch_shape[0] == 1:
        return mean_and_mode(entries)[1][0]
    # The sum is linear in x with the mean logits, or, for Normal, quadratic around the precision-weighted mean.
    if isinstance(entries, dist.Bernoulli):
        return (entries.logits.mean(0) > 0).to(entries.logits.dtype)
    if isinstance(entries, dist.Categorical):
        return entries.logits.mean(0).argmax(-1).to(entries.logits.dtype)
    if isinstance(entries, dist.Normal):
        precision = entries.scale**-2
        return (precision * entries.loc).sum(0) / precision.sum(0)
    raise ValueError(
        "query(): without a channel, an energy that averages over addresses needs a Bernoulli, Categorical or Normal "
        f"likelihood; this one is {type(entries).__name__}. Use PointEnergy(), or a channel."
    )
