"""Kullback-Leibler divergences."""

import torch
from torch import Tensor


def divergence(q: torch.distributions.Distribution, p: torch.distributions.Distribution, value: Tensor) -> Tensor:
    """KL(q || p) in nats: the registered closed form, or an estimate from ``value`` ~ q if there is none."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(value) - p.log_prob(value)
