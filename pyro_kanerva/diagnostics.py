"""Can the guide be trusted? Importance weights and k-hat, and export to ArviZ.

All of it reads the traces of ``machine.guide`` and ``machine.model``, and so works for every choice of
priors, readers and writers, and for guides with further latent sites. ArviZ is imported only where used.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from pyro.infer import MCMC
from torch import Tensor

from pyro_kanerva.bound import Bound
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.retrieval import Retrieval

_ENTRIES = 2**21  # of the largest tensor of a chunk of draws, before the networks widen it
_CHAINS = 4  # pseudo-chains of independent draws
_LEAST_DRAWS = 25  # a fifth of them is the tail, and a tail of fewer than 5 has no fit
_EVENT_DIMS = {"memory": ("slot", "code"), "address": ("slot",), "code": ("code",)}


class GuideDraws(NamedTuple):
    """n draws from the guide, and the model at them.

    ``latents`` (n, B, 1 or T) + event by site; ``log_weights`` (n, B) and ``log_likelihood`` (n, B, T) in nats.
    """

    latents: dict[str, Tensor]
    log_weights: Tensor
    log_likelihood: Tensor


def sample_sites(trace: poutine.Trace) -> dict[str, Any]:
    """The sample sites with their log probabilities, without those that belong to plates."""
    trace = poutine.util.prune_subsample_sites(trace)
    trace.compute_log_prob()
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _latents(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: site["value"] for name, site in sites.items() if not site["is_observed"]}


def _by_episode(sites: Mapping[str, Any], num_episodes: int, caller: str) -> Tensor:
    """The log joint of each draw and episode, (n, B)."""
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
    """Chunks of independent draws from the guide, given the sites in ``known``."""
    num_episodes, num_patterns = patterns.shape[:2]
    slots, size = machine.num_slots, machine.code_size
    largest = max(patterns.numel(), num_episodes * slots * size, num_episodes * num_patterns * (slots + size))
    chunk = max(1, _ENTRIES // largest)
    guide, model = (poutine.condition(program, data=known or {}) for program in (machine.guide, machine.model))
    for start in range(0, num_samples, chunk):
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


def importance_weights(machine: KanervaMachine, patterns: Tensor, num_samples: int) -> Tensor:
    """``log p(X, M, W) - log q(M, W)`` of draws of the memory and all addresses of an episode from the guide.

    :param patterns: (B, T) + E, or (T,) + E for a single episode.
    :param num_samples: S draws; they are made in chunks, so that their number costs time and not memory.
    :return: (S, B), in nats per episode, not per pattern.
    :raises ValueError: if the patterns do not fit the machine, ``num_samples < 1``, guide and model sample
        different sites, or a site is shared by the episodes.
    """
    if num_samples < 1:
        raise ValueError(f"importance_weights(): num_samples is {num_samples}; expected at least 1.")
    patterns = machine.check_patterns(patterns, "importance_weights()")
    return torch.cat(
        [draws.log_weights for draws in guide_draws(machine, patterns, num_samples, "importance_weights()")]
    )


def _check_weights(log_weights: Tensor, caller: str, least: int = 1) -> None:
    if log_weights.dim() != 2 or len(log_weights) < least:
        raise ValueError(
            f"{caller}: log_weights have shape {tuple(log_weights.shape)}; expected (samples, episodes) with at least "
            f"{least} samples, as importance_weights() returns them."
        )
    # -inf is a draw that the model rules out; an episode of nothing else has no estimate
    if not bool(
        ((log_weights < math.inf) | (log_weights == -math.inf)).all() & (log_weights.amax(0) > -math.inf).all()
    ):
        raise ValueError(
            f"{caller}: log_weights have NaN or infinite entries, or an episode of weight zero throughout; expected "
            "numbers below infinity, of which -inf stands for weight zero. Check the guide of those episodes."
        )


def importance_bound(log_weights: Tensor) -> Tensor:
    """``log mean_s exp(log_weights[s])``, a lower bound on ``log p(X)`` that rises to it with the samples.

    In expectation it lies between the evidence lower bound, which is the mean of the log weights, and
    ``log p(X)``. One estimate may lie above; where :func:`khat` exceeds 0.7 expect it far below.

    :param log_weights: (S, B), from :func:`importance_weights`.
    :return: (B,), in nats per episode; divide by T to compare with :class:`~pyro_kanerva.Bound`.
    :raises ValueError: if the shape is another, or there are NaN or infinite weights.

    Source: Burda, Grosse, Salakhutdinov 2016 (arXiv 1509.00519).
    """
    _check_weights(log_weights, "importance_bound()")
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def _arviz() -> Any:
    with warnings.catch_warnings():  # 0.23 announces 1.0 at its first import, which is no news to the user here
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        return importlib.import_module("arviz")


def _is_old(arviz: Any) -> bool:
    return int(arviz.__version__.split(".")[0]) < 1


def _psis(log_weights: NDArray[Any]) -> Any:
    """Pareto k-hat along the last axis."""
    arviz = _arviz()
    if _is_old(arviz):
        return arviz.psislw(log_weights)[1]
    # 1.x takes log likelihoods, and makes weights of them by the opposite sign
    return importlib.import_module("arviz_stats.base").array_stats.psislw(-log_weights)[1]


def khat(log_weights: Tensor) -> Tensor:
    """The Pareto shape k-hat of each episode's importance weights: how heavy their right tail is.

    Below 0.5 the weights have a finite variance and the guide is close to the posterior. Up to 0.7
    importance sampling still works, slowly. **Above 0.7 the guide is not to be trusted**: it misses mass
    of the posterior, usually because it is too narrow, and neither its intervals nor
    :func:`importance_bound` are reliable. k-hat judges the joint guide of all latent sites of an episode;
    many patterns and slots make it stricter, and a large k-hat does not say which site is to blame.

    :param log_weights: (S, B), from :func:`importance_weights`; S of 1,000 or more gives a steady figure.
    :return: (B,); 0 where all weights are equal up to rounding, as those of an exact guide are.
    :raises ValueError: if the shape is another, S is below 25, or there are NaN or infinite weights.

    Source: Yao, Vehtari, Simpson, Gelman 2018 (arXiv 1802.02538); Vehtari et al. 2024 (arXiv 1507.02646).
    """
    _check_weights(log_weights, "khat()", _LEAST_DRAWS)
    largest = log_weights.amax(0)
    shifted = (log_weights.double() - largest).clamp_min(-700.0)  # exp() of which is no longer a normal number
    result = torch.as_tensor(_psis(shifted.mT.cpu().numpy()), dtype=log_weights.dtype, device=log_weights.device)
    rounding = 32 * torch.finfo(log_weights.dtype).eps * largest.abs().clamp_min(1.0)
    return torch.where(-shifted.amin(0) <= rounding, torch.zeros_like(result), result)


def _from_dict(groups: Mapping[str, Mapping[str, Tensor]], dims: Mapping[str, Sequence[str]]) -> Any:
    """ArviZ's container of named variables: InferenceData of 0.23, DataTree of 1.x.

    ``dims`` name what comes after chain and draw; each of them counts from 0.
    """
    arviz = _arviz()
    arrays = {
        group: {name: value.detach().cpu().numpy() for name, value in variables.items()}
        for group, variables in groups.items()
    }
    named = {name: list(names) for name, names in dims.items()}
    return arviz.from_dict(**arrays, dims=named) if _is_old(arviz) else arviz.from_dict(arrays, dims=named)


def _event(event_shape: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"event_{i}" for i in range(len(event_shape)))


def _posterior(
    latents: Mapping[str, Tensor], patterns: Tensor, caller: str
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Variables and their dimensions from sites (chain, draw, B, 1 or T) + event."""
    variables, dims = {}, {"patterns": ("episode", "pattern", *_event(patterns.shape[2:]))}
    for site, value in latents.items():
        per_pattern = site != "memory"
        wanted = (patterns.shape[0], patterns.shape[1] if per_pattern else 1)
        if value.dim() < 4 or tuple(value.shape[2:4]) != wanted:
            raise ValueError(
                f'{caller}: the site "{site}" has shape {tuple(value.shape)}; expected (chains, draws, {wanted[0]}, '
                f"{wanted[1]}) + event shape for {patterns.shape[0]} episodes of {patterns.shape[1]} patterns. Pass "
                "the patterns that it was inferred from."
            )
        name = "codes" if site == "code" else site  # a variable of two dimensions cannot bear the name of one of them
        events = _EVENT_DIMS.get(site, tuple(f"{name}_dim_{i}" for i in range(value.dim() - 4)))
        variables[name] = value if per_pattern else value.squeeze(3)
        dims[name] = ("episode", "pattern", *events) if per_pattern else ("episode", *events)
    return variables, dims


def guide_data(machine: KanervaMachine, patterns: Tensor, num_draws: int) -> Any:
    """Draws from the guide for ArviZ.

    Group ``posterior``: "memory" (chain, draw, episode, slot, code), "address" (chain, draw, episode,
    pattern, slot), and further latent sites; a site "code" is named "codes", (chain, draw, episode,
    pattern, code). Group ``log_likelihood``: "patterns" (chain, draw, episode, pattern), in nats. Group
    ``observed_data``: "patterns" (episode, pattern, event_0, ...).

    The draws are independent, folded into 4 pseudo-chains because ArviZ asks for chains: **R-hat and
    effective sample sizes mean nothing here**, and are good whatever the guide. Ask :func:`khat` instead.

    :param patterns: (B, T) + E, or (T,) + E for a single episode.
    :param num_draws: in all, a multiple of 4 of at least 16.
    :return: ``InferenceData`` with ArviZ 0.23, ``DataTree`` with 1.x.
    :raises ValueError: if the patterns do not fit the machine, or ``num_draws`` is another number.
    """
    if num_draws < _CHAINS**2 or num_draws % _CHAINS:
        raise ValueError(
            f"guide_data(): num_draws is {num_draws}; expected a multiple of {_CHAINS} of at least {_CHAINS**2}, "
            f"since they are folded into {_CHAINS} pseudo-chains."
        )
    patterns = machine.check_patterns(patterns, "guide_data()")
    draws = list(guide_draws(machine, patterns, num_draws, "guide_data()"))
    latents, log_likelihood = (
        {site: torch.cat([draw.latents[site] for draw in draws]) for site in draws[0].latents},
        torch.cat([draw.log_likelihood for draw in draws]),
    )
    folded = {site: value.unflatten(0, (_CHAINS, -1)) for site, value in latents.items()}
    variables, dims = _posterior(folded, patterns, "guide_data()")
    groups = {
        "posterior": variables,
        "log_likelihood": {"patterns": log_likelihood.unflatten(0, (_CHAINS, -1))},
        "observed_data": {"patterns": patterns},
    }
    return _from_dict(groups, dims)


def mcmc_data(mcmc: MCMC, patterns: Tensor) -> Any:
    """A finished Pyro ``MCMC`` run on ``machine.model`` for ArviZ; here R-hat and effective sizes are real.

    Groups ``posterior`` and ``observed_data`` as :func:`guide_data` has them, and ``sample_stats`` with
    "diverging" (chain, draw) where the kernel counts divergent transitions.

    :param patterns: (B, T) + E, those of the run, with all their dimensions.
    :return: ``InferenceData`` with ArviZ 0.23, ``DataTree`` with 1.x.
    :raises ValueError: if the run has no site "memory", or its sites do not fit the patterns.
    """
    samples = mcmc.get_samples(group_by_chain=True)
    if "memory" not in samples:
        raise ValueError(
            f'mcmc_data(): the run has the sites {sorted(samples)}; expected "memory" among them. Run it on the model '
            "of a machine."
        )
    variables, dims = _posterior(samples, patterns, "mcmc_data()")
    groups = {"posterior": variables, "observed_data": {"patterns": patterns}}
    chains, draws = samples["memory"].shape[:2]
    divergences = mcmc.diagnostics().get("divergences")
    if divergences is not None:
        diverging = torch.zeros(chains, draws, dtype=torch.bool)
        for chain in range(chains):
            diverging[chain, divergences[f"chain {chain}"]] = True
        groups["sample_stats"] = {"diverging": diverging}
    return _from_dict(groups, dims)


def retrieval_data(retrieval: Retrieval) -> Any:
    """What a query went through for ArviZ and xarray: group ``constant_data``, as nothing of it is a draw.

    "patterns" (step, episode, pattern, event_0, ...), "energy" (step, episode, pattern) in nats, "address"
    (step, episode, pattern, slot), and "converged" (episode, pattern). Step 0 is the cue.

    :return: ``InferenceData`` with ArviZ 0.23, ``DataTree`` with 1.x.
    """
    query = ("step", "episode", "pattern")
    dims = {
        "patterns": (*query, *_event(retrieval.patterns.shape[3:])),
        "energy": query,
        "address": (*query, "slot"),
        "converged": query[1:],
    }
    return _from_dict({"constant_data": retrieval._asdict()}, dims)


def bound_data(bound: Bound) -> Any:
    """The terms of the bound for ArviZ and xarray: group ``constant_data``, each (episode,), in nats per pattern.

    "reconstruction", "address_kl", "memory_kl", ..., and what they amount to, "bound" and "conditional_bound".

    :return: ``InferenceData`` with ArviZ 0.23, ``DataTree`` with 1.x.
    """
    terms = {**bound._asdict(), "bound": bound.bound, "conditional_bound": bound.conditional_bound}
    by_episode = {name: term.expand_as(bound.reconstruction) for name, term in terms.items()}
    return _from_dict({"constant_data": by_episode}, dict.fromkeys(terms, ("episode",)))
