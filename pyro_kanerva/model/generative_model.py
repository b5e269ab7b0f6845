"""The generative model of a Kanerva machine."""

from contextlib import AbstractContextManager
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._precision import autocast_off
from pyro_kanerva.model.parts import Parts
from pyro_kanerva.priors import as_distribution


def generative_model(
    parts: Parts,
    patterns: Tensor | None = None,
    *,
    num_patterns: int | None = None,
    num_episodes: int | None = None,
    memory_kl_weight: float = 1.0,
) -> Tensor:
    """``M ~ p(M)``, ``w_t ~ p(w)``, ``x_t ~ p(x | decoder(M^T w_t))``, see :attr:`~pyro_kanerva.KanervaMachine.model`.

    :param memory_kl_weight: multiplies log p(M), as in the guide.
    """
    if patterns is None:
        batch, length, event_shape = _sizes(parts, num_patterns, num_episodes)
    else:
        if num_patterns is not None or num_episodes is not None:
            raise ValueError(
                f"model(): num_patterns is {num_patterns} and num_episodes {num_episodes}, and there are patterns, "
                "which have these numbers already. Pass None for the patterns to draw them."
            )
        patterns = parts.check_patterns(patterns, "model()")
        batch, length, event_shape = *patterns.shape[:2], tuple(patterns.shape[2:])
    like = parts.log_code_scale
    with pyro.plate("episode", batch, dim=-2):
        with autocast_off(like), weighted(memory_kl_weight):
            memory = pyro.sample("memory", as_distribution(parts.memory_prior))  # (B, 1, K, C)
        with pyro.plate("pattern_plate", length, dim=-1):
            with autocast_off(like):
                address = sample_address(as_distribution(parts.address_prior))  # (B, T, K)
                code = parts.code(address, matrix_of_site(memory, batch))  # (B, T, C)
                if parts.code_posterior is not None:
                    code = pyro.sample("code", parts.code_prior(code))
            return pyro.sample("pattern", parts.decode(code, event_shape), obs=patterns).to(like.dtype)


def _sizes(parts: Parts, num_patterns: int | None, num_episodes: int | None) -> tuple[int, int, tuple[int, ...]]:
    """B, T and E of patterns that are drawn."""
    if parts.event_shape is None:
        raise ValueError(
            "model(): without patterns, the encoder must state the shape of a pattern in its attribute event_shape; "
            "set it."
        )
    length = parts.num_slots if num_patterns is None else num_patterns
    batch = 1 if num_episodes is None else num_episodes
    check_at_least("model()", 1, num_patterns=length, num_episodes=batch)
    return batch, length, parts.event_shape


def weighted(weight: float) -> AbstractContextManager[Any]:
    """Multiplies the log probability of the sites inside."""
    return poutine.scale(scale=weight) if weight else poutine.mask(mask=False)  # Pyro has no scale of 0


def sample_address(distribution: dist.TorchDistribution) -> Tensor:
    """The site "address" (B, T, K); ``TraceEnum_ELBO`` sums out a discrete one."""
    return pyro.sample(
        "address", distribution, infer={"enumerate": "parallel"} if distribution.has_enumerate_support else {}
    )


def matrix_of_site(memory: Tensor, num_episodes: int) -> Tensor:
    """M (..., B, K, C) of the site "memory" (..., B, 1, K, C), which has a singleton for the pattern plate."""
    if memory.dim() < 4 or memory.shape[-3] != 1:
        raise ValueError(
            f'The site "memory" has shape {tuple(memory.shape)}; expected (..., B, 1, K, C). Insert the dimension of '
            "the pattern plate with .unsqueeze(-3)."
        )
    if memory.shape[-4] not in (1, num_episodes):
        raise ValueError(
            f'The site "memory" has shape {tuple(memory.shape)}, {memory.shape[-4]} episodes; expected {num_episodes}. '
            "Pass as many episodes of patterns, or model(None, num_episodes=...)."
        )
    return memory.squeeze(-3)
