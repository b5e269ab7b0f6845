"""The Pyro programs of a machine: its generative model and its guide."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn

from pyro_kanerva._precision import full_precision
from pyro_kanerva.priors import as_distribution

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine


class Program(nn.Module):
    """A Pyro model or guide that is also a module, so that ELBO modules and DDP find its parameters."""

    def __init__(self, machine: KanervaMachine, program: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.machine, self.program, self.options = machine, program, options

    @full_precision
    def forward(self, patterns: Tensor) -> Any:
        return self.program(self.machine, patterns, **self.options)


def _weight(weight: float) -> Any:
    return poutine.scale(scale=weight) if weight else poutine.mask(mask=False)  # Pyro has no scale of 0


def _episodes(memory: Tensor) -> Tensor:
    """A "memory" site (..., B, 1, K, C) without the singleton of the pattern plate."""
    if memory.dim() < 4 or memory.shape[-3] != 1:
        raise ValueError(
            f'The site "memory" has shape {tuple(memory.shape)}; expected (..., B, 1, K, C). Insert the dimension of '
            "the pattern plate with .unsqueeze(-3)."
        )
    return memory.squeeze(-3)


def _address(distribution: dist.TorchDistribution) -> Tensor:
    """The site "address" (B, T, K); a discrete one is summed out by ``TraceEnum_ELBO``."""
    return pyro.sample(
        "address", distribution, infer={"enumerate": "parallel"} if distribution.has_enumerate_support else {}
    )


def model(machine: KanervaMachine, patterns: Tensor, memory_kl_weight: float = 1.0) -> None:
    patterns = machine.check_patterns(patterns, "model()")
    pyro.module(machine._key, machine)
    with pyro.plate("episode", patterns.shape[0], dim=-2):
        with _weight(memory_kl_weight):
            memory = pyro.sample("memory", as_distribution(machine.memory_prior))  # (B, 1, K, C)
        with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
            address = _address(as_distribution(machine.address_prior))
            code = address @ _episodes(memory)  # (B, T, C)
            if machine.code_posterior is not None:
                code = pyro.sample("code", machine.code_prior(code))
            pyro.sample("pattern", machine.decode(code, tuple(patterns.shape[2:])), obs=patterns)


def guide(
    machine: KanervaMachine,
    patterns: Tensor,
    autoencoder_weight: float = 0.0,
    memory_kl_weight: float = 1.0,
    cue_channel: Callable[[Tensor], Tensor] | None = None,
) -> None:
    patterns = machine.check_patterns(patterns, "guide()")
    pyro.module(machine._key, machine)
    codes = machine.encode(patterns)
    cue_codes = codes if cue_channel is None else machine.encode(cue_channel(patterns))
    posterior = machine.write_patterns(patterns, codes).memory
    with pyro.plate("episode", patterns.shape[0], dim=-2):
        with _weight(memory_kl_weight):
            memory = pyro.sample("memory", posterior.unsqueeze(-1))  # (B, 1, K, C)
        with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
            _address(machine.read_codes(cue_codes, _episodes(memory)))
            if machine.code_posterior is not None:
                pyro.sample("code", machine.read_code_posterior(codes))
            if autoencoder_weight:
                log_prob = machine.decode(codes, tuple(patterns.shape[2:])).log_prob(patterns)
                pyro.factor("autoencoder", -autoencoder_weight * log_prob, has_rsample=True)
