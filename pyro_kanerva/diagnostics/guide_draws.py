"""Draws from the guide, and the log densities of model and guide at these draws."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_kanerva._repr import short_repr
from pyro_kanerva.machine import KanervaMachine

_ENTRIES = 2**21  # entries of the largest tensor in a chunk of draws, apart from hidden layers of the networks


@short_repr
class GuideDraws(NamedTuple):
    """n draws from the guide.

    ``latents`` by site, (n, B, 1 or T) + event; ``log_weights`` (n, B) = log p(X, M, W) - log q(M, W) and
    ``log_likelihood`` (n, B, T), in nats.
    """

    latents: dict[str, Tensor]
    log_weights: Tensor
    log_likelihood: Tensor


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites of a trace with their log probabilities, without the subsampling sites of plates."""
    trace = poutine.util.prune_subsample_sites(trace)
    trace.compute_log_prob()
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _latents(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: site["value"] for name, site in sites.items() if not site["is_observed"]}


def _by_episode(sites: Mapping[str, Any], num_episodes: int, caller: str) -> Tensor:
    """The log joint density (n, B) of each draw and episode: the sum over sites and patterns."""
    for name, site in sites.items():
        if tuple(site["log_prob"].shape[-2:-1]) != (num_episodes,):
            raise ValueError(
                f'{caller}: the site "{name}" has batch shape {tuple(site["log_prob"].shape)}; expected (..., '
                f'{num_episodes}, T or 1), apart for each episode. Sample it inside the plate "episode".'
            )
    return torch.stack([site["log_prob"].sum(-1) for site in sites.values()]).sum(0)


@torch.no_grad()
def guide_draws(
    machine: KanervaMachine, patterns: Tensor, num_samples: int, caller: str, known: dict[str, Tensor] | None = None
) -> Iterator[GuideDraws]:
    """Chunks of independent draws from the guide, conditioned on the values of the sites in ``known``."""
    num_episodes, num_patterns = patterns.shape[:2]
    slots, size = machine.num_slots, machine.code_size
    largest = max(patterns.numel(), num_episodes * slots * size, num_episodes * num_patterns * (slots + size))
    chunk = max(1, _ENTRIES // largest)
    guide, model = (poutine.condition(program, data=known or {}) for program in (machine.guide, machine.model))
    for start in range(0, num_samples, chunk):
        # The draws are a dimension to the left of the plates of episodes (-2) and patterns (-1).
        with pyro.plate("particles", min(chunk, num_samples - start), dim=-3):
            guide_trace = poutine.trace(guide).get_trace(patterns)
            model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(patterns)
        q, p = sample_sites(guide_trace), sample_sites(model_trace)
        latents = _latents(q)
        if latents.keys() != _latents(p).keys():
            raise ValueError(
                f"{caller}: the guide samples the sites {sorted(latents)}, the model {sorted(_latents(p))}; expected "
                "the same. A site that only one of them has leaves the importance weights undefined."
            )
        log_weights = _by_episode(p, num_episodes, caller) - _by_episode(q, num_episodes, caller)
        yield GuideDraws(latents, log_weights, p["pattern"]["log_prob"])
