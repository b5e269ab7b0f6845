"""Importance weights of the guide, and their Pareto k-hat."""

import importlib
import math
import warnings
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_kanerva._checks import check_at_least
from pyro_kanerva.diagnostics.guide_draws import guide_draws
from pyro_kanerva.machine import KanervaMachine

_LEAST_DRAWS = 25  # k-hat is fitted to the largest fifth of the weights, and needs 5 of them


def importance_weights(machine: KanervaMachine, patterns: Tensor, num_samples: int) -> Tensor:
    """``log p(X, M, W) - log q(M, W)`` for draws of the memory M and all addresses W of an episode from the guide.

    :param patterns: (B, T) + E, or (T,) + E for a single episode.
    :param num_samples: S, the number of draws. They are drawn in chunks, so a large S takes time but little memory.
    :return: (S, B), in nats per episode, not per pattern.
    :raises ValueError: if the patterns do not fit the machine, ``num_samples < 1``, guide and model sample different
        sites, or a site is shared by the episodes.
    """
    check_at_least("importance_weights()", 1, num_samples=num_samples)
    patterns = machine.check_patterns(patterns, "importance_weights()")
    chunks = guide_draws(machine, patterns, num_samples, "importance_weights()")
    return torch.cat([draws.log_weights for draws in chunks])


def _check_weights(log_weights: Tensor, caller: str, least: int = 1) -> None:
    if log_weights.dim() != 2 or len(log_weights) < least:
        raise ValueError(
            f"{caller}: log_weights have shape {tuple(log_weights.shape)}; expected (samples, episodes) with at least "
            f"{least} samples, as importance_weights() returns them."
        )
    # -inf is a draw with p(X, M, W) = 0; an episode with no other draws has no estimate
    if not bool((log_weights < math.inf).all() & (log_weights.amax(0) > -math.inf).all()):
        raise ValueError(
            f"{caller}: log_weights have NaN or infinite entries, or an episode of weight zero throughout; expected "
            "numbers below infinity, of which -inf stands for weight zero. Check the guide of those episodes."
        )


def importance_bound(log_weights: Tensor) -> Tensor:
    """``log mean_s exp(log_weights[s])``, whose expectation is a lower bound on ``log p(X)``.

    The expectation rises with the number of samples, from the evidence lower bound at S = 1 to ``log p(X)``. A single
    estimate may lie above ``log p(X)``; if :func:`khat` exceeds 0.7, it is usually far below. Source: Burda, Grosse,
    Salakhutdinov 2016 (arXiv 1509.00519).

    :param log_weights: (S, B), from :func:`importance_weights`.
    :return: (B,), in nats per episode; divide by T to compare with :class:`~pyro_kanerva.Bound`.
    :raises ValueError: if ``log_weights`` have another shape, or NaN or infinite entries.
    """
    _check_weights(log_weights, "importance_bound()")
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def khat(log_weights: Tensor) -> Tensor:
    """The Pareto shape k-hat of each episode's importance weights, which measures how heavy their right tail is.

    Below 0.5 the weights have finite variance and the guide is close to the posterior. Up to 0.7 importance sampling
    still works, but slowly. **Do not trust a guide with k-hat above 0.7**: it misses mass of the posterior, usually
    because it is too narrow, and neither its intervals nor :func:`importance_bound` are reliable. k-hat tests the joint
    guide of all latent sites of an episode: more patterns or slots make the test stricter, and a large k-hat does not
    show which site is wrong. Source: Yao, Vehtari, Simpson, Gelman 2018 (arXiv 1802.02538); Vehtari et al. 2024
    (arXiv 1507.02646).

    :param log_weights: (S, B), from :func:`importance_weights`; use S of 1,000 or more for a stable figure.
    :return: (B,); 0 if all weights are equal up to rounding, as they are for an exact guide.
    :raises ValueError: if ``log_weights`` have another shape, fewer than 25 samples, or NaN or infinite entries.
    """
    _check_weights(log_weights, "khat()", _LEAST_DRAWS)
    largest = log_weights.amax(0)
    shifted = (log_weights.double() - largest).clamp_min(-700.0)  # exp(-700) is about the smallest normal number
    result = torch.as_tensor(_psis(shifted.mT.cpu().numpy()), dtype=log_weights.dtype, device=log_weights.device)
    # Equal weights differ by rounding, to which the fit of the tail would give an arbitrary k-hat.
    rounding = 32 * torch.finfo(log_weights.dtype).eps * largest.abs().clamp_min(1.0)
    return torch.where(-shifted.amin(0) <= rounding, torch.zeros_like(result), result)


def _psis(log_weights: NDArray[Any]) -> Any:
    """Pareto k-hat along the last axis."""
    arviz = import_arviz()
    if is_old(arviz):
        return arviz.psislw(log_weights)[1]
    # 1.x expects log likelihoods, whose negatives are the log weights
    return importlib.import_module("arviz_stats.base").array_stats.psislw(-log_weights)[1]


def import_arviz() -> Any:
    with warnings.catch_warnings():  # 0.23 announces 1.0 on its first import, which does not concern users here
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        return importlib.import_module("arviz")


def is_old(arviz: Any) -> bool:
    return int(arviz.__version__.split(".")[0]) < 1
