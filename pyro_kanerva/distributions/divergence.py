"""Kullback-Leibler divergence, in closed form or estimated."""

import torch
from torch import Tensor


def divergence(q: torch.distributions.Distribution, p: torch.distributions.Distribution, value: Tensor) -> Tensor:
    """KL(q || p) in nats: in closed form where Pyro knows it, else estimated from ``value`` ~ q."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(value) - p.log_prob(value)
