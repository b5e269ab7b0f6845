"""Export to ArviZ 0.23 and 1.x."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import MCMC
from torch import Tensor

from pyro_kanerva.diagnostics.guide_draws import guide_draws, sample_sites
from pyro_kanerva.diagnostics.importance import import_arviz, is_old
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.model import Bound
from pyro_kanerva.retrieval import Retrieval

_CHAINS = 4  # ArviZ expects chains, so independent draws are split into this many
_EVENT_DIMS = {"memory": ("slot", "code"), "address": ("slot",), "code": ("code",)}


def _from_dict(groups: Mapping[str, Mapping[str, Tensor]], dims: Mapping[str, Sequence[str]]) -> Any:
    """ArviZ's container of named variables; ``dims`` names their dimensions after chain and draw."""
    arviz = import_arviz()
    arrays = {
        group: {name: value.detach().cpu().numpy() for name, value in variables.items()}
        for group, variables in groups.items()
    }
    named = {name: list(names) for name, names in dims.items()}
    return arviz.from_dict(**arrays, dims=named) if is_old(arviz) else arviz.from_dict(arrays, dims=named)


def _event(event_shape: Sequence[int]) -> tuple[str, ...]:
    return tuple(f"event_{i}" for i in range(len(event_shape)))


def _posterior(
    latents: Mapping[str, Tensor], patterns: Tensor, caller: str
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """Variables and the names of their dimensions, from sites (chain, draw, B, 1 or T) + event."""
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
        name = "codes" if site == "code" else site  # xarray: no variable may have the name of one of its dimensions
        events = _EVENT_DIMS.get(site, tuple(f"{name}_dim_{i}" for i in range(value.dim() - 4)))
        variables[name] = value if per_pattern else value.squeeze(3)
        dims[name] = ("episode", "pattern", *events) if per_pattern else ("episode", *events)
    return variables, dims


def guide_data(machine: KanervaMachine, patterns: Tensor, num_draws: int) -> Any:
    """Draws from the guide for ArviZ.

    - Group ``posterior``: "memory" (chain, draw, episode, slot, code), "address" (chain, draw, episode, pattern, slot)
      and further latent sites; a site "code" is named "codes", (chain, draw, episode, pattern, code).
    - Group ``log_likelihood``: "patterns" (chain, draw, episode, pattern), in nats.
    - Group ``observed_data``: "patterns" (episode, pattern, event_0, ...).

    The draws are independent and split into 4 pseudo-chains, because ArviZ requires chains. **R-hat and effective
    sample sizes mean nothing here**: they are good for any guide. Use :func:`khat` instead.

    :param patterns: (B, T) + E, or (T,) + E for a single episode.
    :param num_draws: the number of draws in total, a multiple of 4 and at least 16.
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

    def chains(parts: Iterable[Tensor]) -> Tensor:
        return torch.cat(list(parts)).unflatten(0, (_CHAINS, -1))

    latents = {site: chains(draw.latents[site] for draw in draws) for site in draws[0].latents}
    variables, dims = _posterior(latents, patterns, "guide_data()")
    log_likelihood = {"patterns": chains(draw.log_likelihood for draw in draws)}
    groups = {"posterior": variables, "log_likelihood": log_likelihood, "observed_data": {"patterns": patterns}}
    return _from_dict(groups, dims)


def mcmc_data(mcmc: MCMC, patterns: Tensor) -> Any:
    """A finished Pyro ``MCMC`` run on ``machine.model`` for ArviZ, with meaningful R-hat and effective sample sizes.

    The groups ``posterior``, ``log_likelihood`` and ``observed_data`` are those of :func:`guide_data`, so that
    ``arviz.loo(data)`` and ``arviz.waic(data)`` compare machines by pattern. The log likelihood is log p(x_t | w_t, M)
    by the model of the run. Each pattern has an address of its own, so it weighs much on its own draws: read the
    Pareto k of ``arviz.loo``. One-hot addresses, which NUTS sums out, are summed out here too: log p(x_t | M). If the
    kernel counts divergent transitions, the group ``sample_stats`` has "diverging" (chain, draw).

    :param mcmc: a run in which the kernel still has its model, as ``MCMC(NUTS(machine.model), ...)`` has.
    :param patterns: (B, T) + E, the patterns of the run.
    :return: ``InferenceData`` with ArviZ 0.23, ``DataTree`` with 1.x.
    :raises ValueError: if the run has no site "memory", its sites do not fit the patterns, or its model has no observed
        site "pattern".
    """
    samples = mcmc.get_samples(group_by_chain=True)
    if "memory" not in samples:
        raise ValueError(
            f'mcmc_data(): the run has the sites {sorted(samples)}; expected "memory" among them. Run it on the model '
            "of a machine."
        )
    variables, dims = _posterior(samples, patterns, "mcmc_data()")
    log_likelihood = {"patterns": _log_likelihood(mcmc.kernel.model, samples, patterns)}
    groups = {"posterior": variables, "log_likelihood": log_likelihood, "observed_data": {"patterns": patterns}}
    chains, draws = samples["memory"].shape[:2]
    divergences = mcmc.diagnostics().get("divergences")
    if divergences is not None:
        diverging = torch.zeros(chains, draws, dtype=torch.bool)  # Pyro lists the indices of divergent draws
        for chain in range(chains):
            diverging[chain, divergences[f"chain {chain}"]] = True
        groups["sample_stats"] = {"diverging": diverging}
    return _from_dict(groups, dims)


@torch.no_grad()
def _log_likelihood(model: Callable[[Tensor], Any], samples: Mapping[str, Tensor], patterns: Tensor) -> Tensor:
    """log p(x_t | latent variables) in nats, (chain, draw, B, T); discrete addresses are summed out."""
    chains, draws, *_, slots, size = samples["memory"].shape
    at_once = max(1, 2**21 // max(patterns.numel() * (1 if "address" in samples else slots), slots * size))
    chunks = zip(*(value.flatten(0, 1).split(at_once) for value in samples.values()), strict=True)
    rows = []
    for chunk in chunks:
        known = poutine.condition(model, dict(zip(samples, chunk, strict=True)))
        # The draws are a dimension to the left of the plates of episodes (-2) and patterns (-1).
        with pyro.plate("draws", len(chunk[0]), dim=-3):
            sites = sample_sites(poutine.trace(poutine.enum(known, first_available_dim=-4)).get_trace(patterns))
        if "pattern" not in sites or not sites["pattern"]["is_observed"]:
            raise ValueError(
                f'mcmc_data(): the model of the run has the sites {sorted(sites)}; expected an observed site "pattern" '
                "for the log likelihood. Run it on the model of a machine."
            )
        log_prob = sites["pattern"]["log_prob"]
        if not sites["address"]["is_observed"]:  # enumerated, (K, 1, 1, 1), and log_prob is (K, draws, B, T)
            log_prob = (log_prob + sites["address"]["log_prob"]).logsumexp(0)
        rows.append(log_prob)
    return torch.cat(rows).unflatten(0, (chains, draws))


def retrieval_data(retrieval: Retrieval) -> Any:
    """All steps of a query for ArviZ and xarray, in the group ``constant_data`` because they are no draws.

    "patterns" (step, episode, pattern, event_0, ...), "energy" (step, episode, pattern) in nats, "address" (step,
    episode, pattern, slot) and "converged" (episode, pattern). Step 0 is the cue. If the channel was an
    ``UnknownLevel``, also "level" (episode, pattern).

    :return: ``InferenceData`` with ArviZ 0.23, ``DataTree`` with 1.x.
    """
    query = ("step", "episode", "pattern")
    dims = {
        "patterns": (*query, *_event(retrieval.patterns.shape[3:])),
        "energy": query,
        "address": (*query, "slot"),
        "converged": query[1:],
        "level": query[1:],
    }
    fields = retrieval._asdict()
    if retrieval.level is not None:
        fields["level"] = retrieval.level
    return _from_dict({"constant_data": fields}, {name: dims[name] for name in fields})


def bound_data(bound: Bound) -> Any:
    """The terms of the bound for ArviZ and xarray: group ``constant_data``, each (episode,), in nats per pattern.

    "reconstruction", "address_kl", "memory_kl", ..., and their sums "bound" and "conditional_bound".

    :return: ``InferenceData`` with ArviZ 0.23, ``DataTree`` with 1.x.
    """
    terms = {**bound._asdict(), "bound": bound.bound, "conditional_bound": bound.conditional_bound}
    # A term without latent variables, such as code_kl, may be a single zero.
    by_episode = {name: term.expand_as(bound.reconstruction) for name, term in terms.items()}
    return _from_dict({"constant_data": by_episode}, dict.fromkeys(terms, ("episode",)))
