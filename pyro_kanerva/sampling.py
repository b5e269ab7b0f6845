"""Draws from what a memory says about a cue: Gibbs-style chains, and importance weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel, fit
from pyro_kanerva.priors import as_distribution
from pyro_kanerva.retrieval import check_channel, check_observed

if TYPE_CHECKING:
    from pyro_kanerva.memory import Memory


class Draws(NamedTuple):
    """A chain of S draws: ``patterns`` (S, B, Q) + E and ``address`` (S, B, Q, K)."""

    patterns: Tensor
    address: Tensor


@torch.no_grad()
def gibbs(
    memory: Memory,
    cues: Tensor,
    num_samples: int,
    burn_in: int,
    channel: Channel | None,
    observed: Tensor | None,
    sample_memory: bool,
) -> Draws:
    """The chain behind :meth:`pyro_kanerva.Memory.sample`."""
    check_channel(channel, "sample()")
    clamped = observed is not None
    observed = torch.ones_like(cues, dtype=torch.bool) if observed is None else check_observed(observed, cues)
    machine, matrix, patterns = memory.machine, memory.posterior.loc, cues
    kept: list[tuple[Tensor, Tensor]] = []
    for sweep in range(burn_in + num_samples):
        if sample_memory:
            matrix = memory.posterior.sample()
        address = machine.read_codes(machine.encode(patterns), matrix).sample()
        code = machine.draw_code(address @ matrix)
        prediction = machine.decode(code, memory.event_shape).base_dist
        if channel is None:
            patterns = prediction.sample()
            if clamped:
                patterns = torch.where(observed, cues, patterns)
        else:
            fitted = fit(channel, cues, prediction, observed, tuple(range(2, cues.dim())))
            patterns = torch.where(observed, fitted.posterior(cues, prediction).sample(), prediction.sample())
        patterns = patterns.to(cues.dtype)
        if sweep >= burn_in:
            kept.append((patterns, address))
    return Draws(*(torch.stack(parts) for parts in zip(*kept, strict=True)))


def log_weights(memory: Memory, patterns: Tensor) -> Tensor:
    """``log p(x | w, M) p(w) / q(w | x, M)`` at one draw of M ~ q(M) and w ~ q(w | x, M), (B, Q), in nats."""
    machine, matrix = memory.machine, memory.posterior.sample()
    codes = machine.encode(patterns)
    reader = machine.read_codes(codes, matrix)
    address = reader.sample()
    code = address @ matrix
    weight = as_distribution(machine.address_prior).log_prob(address) - reader.log_prob(address)
    if machine.code_posterior is not None:
        p, q = machine.code_prior(code), machine.read_code_posterior(codes)
        code = q.sample()
        weight = weight + p.log_prob(code) - q.log_prob(code)
    return weight + machine.decode(code, memory.event_shape).log_prob(patterns)
