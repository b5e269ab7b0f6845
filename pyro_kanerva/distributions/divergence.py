"""Kullback-Leibler divergences."""

import torch
from torch import Tensor


def divergence(q: torch.distributions.Distribution, p: torch.distributions.Distribution, value: Tensor) -> Tensor:
    """KL(q || p) in nats: the registered closed form, or an estimate from ``value`` ~ q if there is none."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(value) - p.log_prob(value)


def trace_gap(factor: Tensor) -> Tensor:
    """``tr(F F^T) - n - log |F F^T|``, (...), of lower triangular F (..., n, n), as a sum without negative terms.

    A difference of the three terms would lose the digits of a small divergence, and could be negative.
    """
    log_squared = 2 * factor.diagonal(dim1=-2, dim2=-1).log()  # y; its term is e^y - 1 - y
    return factor.tril(-1).square().sum((-2, -1)) + (log_squared.expm1() - log_squared).sum(-1)
