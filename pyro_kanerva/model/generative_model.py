"""The generative model of a Kanerva machine."""

from contextlib import AbstractContextManager
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from pyro_kanerva._precision import autocast_off
from pyro_kanerva.model.parts import Parts
from pyro_kanerva.priors import as_distribution


def generative_model(parts: Parts, patterns: Tensor, memory_kl_weight: float = 1.0) -> None:
    """``M ~ p(M)``, ``w_t ~ p(w)``, ``x_t ~ p(x | decoder(M^T w_t))``, see :class:`~pyro_kanerva.KanervaMachine`.

    :param memory_kl_weight: multiplies log p(M), as in the guide.
    """
    patterns = parts.check_patterns(patterns, "model()")
    with pyro.plate("episode", patterns.shape[0], dim=-2):
        with autocast_off(patterns), weighted(memory_kl_weight):
            memory = pyro.sample("memory", as_distribution(parts.memory_prior))  # (B, 1, K, C)
        with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
            with autocast_off(patterns):
                address = sample_address(as_distribution(parts.address_prior))  # (B, T, K)
                code = parts.code(address, matrix_of_site(memory))  # (B, T, C)
                if parts.code_posterior is not None:
                    code = pyro.sample("code", parts.code_prior(code))
            pyro.sample("pattern", parts.decode(code, tuple(patterns.shape[2:])), obs=patterns)


def weighted(weight: float) -> AbstractContextManager[Any]:
    """Multiplies the log probability of the sites inside."""
    return poutine.scale(scale=weight) if weight else poutine.mask(mask=False)  # Pyro has no scale of 0


def sample_address(distribution: dist.TorchDistribution) -> Tensor:
    """The site "address" (B, T, K); ``TraceEnum_ELBO`` sums out a discrete one."""
    return pyro.sample(
        "address", distribution, infer={"enumerate": "parallel"} if distribution.has_enumerate_support else {}
    )


def matrix_of_site(memory: Tensor) -> Tensor:
    """M (..., B, K, C) of the site "memory" (..., B, 1, K, C), which has a singleton for the pattern plate."""
    if memory.dim() < 4 or memory.shape[-3] != 1:
        raise ValueError(
            f'The site "memory" has shape {tuple(memory.shape)}; expected (..., B, 1, K, C). Insert the dimension of '
            "the pattern plate with .unsqueeze(-3)."
        )
    return memory.squeeze(-3)
