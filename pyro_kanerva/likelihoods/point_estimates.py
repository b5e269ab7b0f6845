"""Mean and mode of the entries of a pattern."""

import pyro.distributions as dist
import torch
from torch import Tensor


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
