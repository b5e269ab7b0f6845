"""Simulation-based calibration: does the guide find the truth as often as it says?"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_kanerva._checks import check_at_least
from pyro_kanerva.diagnostics.guide_draws import guide_draws, sample_sites
from pyro_kanerva.machine import KanervaMachine

Statistic = Callable[[Mapping[str, Tensor]], Tensor]


class CalibrationRanks(NamedTuple):
    """Ranks (N, S), integers from 0 to ``num_draws``: of N simulations, for S statistics with their ``names``."""

    ranks: Tensor
    names: tuple[str, ...]
    num_draws: int


def _corners(latents: Mapping[str, Tensor]) -> dict[str, Statistic]:
    """The first and the last entry of every site: those of slot 0, and of the last slot and pattern."""

    def entry(site: str, place: int) -> Statistic:
        return lambda values: values[site].flatten(values[site].dim() - latents[site].dim() + 1)[..., place]

    return {
        f"{site}[{', '.join([label] * (value.dim() - 1))}]": entry(site, place)
        for site, value in latents.items()
        for label, place in (("0", 0), ("-1", -1))
    }


@torch.no_grad()
def calibration_ranks(
    machine: KanervaMachine,
    num_patterns: int,
    *,
    num_simulations: int = 1000,
    num_draws: int = 99,
    known: Sequence[str] = (),
    statistics: Mapping[str, Statistic] | None = None,
    event_shape: Sequence[int] | None = None,
) -> CalibrationRanks:
    """Simulation-based calibration: where the truth falls among draws from the guide.

    ::

        M, w_1 ... w_T, x_1 ... x_T ~ model                  once per simulation
        M', w'_1 ... w'_T ~ guide(x_1 ... x_T)               num_draws times
        rank = number of draws with statistic(M', w') < statistic(M, w), ties broken at random

    With an exact posterior every rank is uniform on 0 ... num_draws. Ranks that heap at both ends come
    from a guide that is too narrow, ranks in the middle from one that is too wide, ranks at one end from
    a biased one. The simulations are the episodes of one batch.

    The simulated patterns come from the machine as it is, trained or not: this judges the guide on what
    the model believes in, not on data that it fits badly. A guide that ignores the patterns and draws from
    the prior is calibrated in every entry of the latent sites; the statistic "log_likelihood" gives it away.

    :param num_patterns: T of each simulated episode.
    :param num_simulations: N; the standard error of a bin's share is at most ``0.5 / sqrt(N)``.
    :param num_draws: L, from the guide for each simulation; best one less than a multiple of the bins.
    :param known: sites that the guide is told: ``("memory",)`` judges q(w | x, M) alone. ``ExactReader`` is
        exact where encoder and decoder are the identity and the patterns are Normal of scale ``code_scale``.
    :param statistics: by name, functions from sites to (..., N); they get the latent sites as "memory" (..., N,
        K, C) and others (..., N, T) + event, with the draws in front, the simulated patterns (N, T) + E as
        "pattern", and "log_likelihood" (..., N), in nats, that of the episode. By default the first and the
        last entry of every site that is not known, and "log_likelihood".
    :param event_shape: E, where the encoder does not state it.
    :return: :class:`CalibrationRanks`.
    :raises ValueError: if a number is below 1, the event shape is not known, ``known`` names no latent site or
        leaves none to draw, or a statistic has another shape.

    Source: Talts, Betancourt, Simpson, Vehtari, Gelman 2018 (arXiv 1804.06788); the log likelihood as a
    statistic: Modrak et al. 2023 (arXiv 2211.02383).
    """
    check_at_least(
        "calibration_ranks()", 1, num_patterns=num_patterns, num_simulations=num_simulations, num_draws=num_draws
    )
    shape = machine.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError(
            "calibration_ranks(): the encoder has no attribute event_shape, the shape of a pattern; pass event_shape."
        )
    blank = machine.log_code_scale.new_zeros(num_simulations, num_patterns, *shape)
    simulated = sample_sites(poutine.trace(poutine.uncondition(machine.model)).get_trace(blank))
    truth = {name: site["value"] for name, site in simulated.items()}
    patterns = truth.pop("pattern").to(blank.dtype)
    unknown = {site: value for site, value in truth.items() if site not in known}
    if not unknown or not set(known) <= truth.keys():
        raise ValueError(
            f"calibration_ranks(): known is {tuple(known)}; expected some, but not all, of the latent sites "
            f"{sorted(truth)}."
        )
    told = {site: truth[site] for site in known}

    def values(latents: Mapping[str, Tensor], log_likelihood: Tensor) -> dict[str, Tensor]:
        sites = {**told, **latents}
        sites["memory"] = sites["memory"].squeeze(-3)
        return {**sites, "pattern": patterns, "log_likelihood": log_likelihood.sum(-1)}

    true = values(unknown, simulated["pattern"]["log_prob"])
    if statistics is None:
        statistics = _corners({site: true[site] for site in unknown})
        statistics["log_likelihood"] = lambda sites: sites["log_likelihood"]
    below = torch.zeros(len(statistics), num_simulations, dtype=torch.long, device=blank.device)
    equal = torch.zeros_like(below)
    for draws in guide_draws(machine, patterns, num_draws, "calibration_ranks()", told):
        drawn = values(draws.latents, draws.log_likelihood)
        for i, (name, statistic) in enumerate(statistics.items()):
            found, wanted = statistic(drawn), statistic(true)
            if (tuple(wanted.shape), found.shape) != ((num_simulations,), (len(draws.log_weights), num_simulations)):
                raise ValueError(
                    f'calibration_ranks(): the statistic "{name}" has shape {tuple(wanted.shape)} at the truth and '
                    f"{tuple(found.shape)} at the draws; expected ({num_simulations},) and "
                    f"({len(draws.log_weights)}, {num_simulations}), one number for each simulation."
                )
            below[i] += (found < wanted).sum(0)
            equal[i] += (found == wanted).sum(0)
    ties = (torch.rand(equal.shape, device=equal.device, dtype=torch.double) * (equal + 1)).long()
    return CalibrationRanks((below + ties).mT, tuple(statistics), num_draws)


def rank_counts(ranks: CalibrationRanks, num_bins: int) -> Tensor:
    """How many ranks fall in each of ``num_bins`` equal bins, (S, num_bins), in float64.

    :raises ValueError: if there are fewer than 2 bins, or they do not divide ``num_draws + 1``.
    """
    if num_bins < 2 or (ranks.num_draws + 1) % num_bins:
        raise ValueError(
            f"rank_counts(): num_bins is {num_bins}; expected at least 2, and a divisor of num_draws + 1 = "
            f"{ranks.num_draws + 1}, so that all bins hold equally many ranks."
        )
    bins = ranks.ranks * num_bins // (ranks.num_draws + 1)
    return torch.nn.functional.one_hot(bins, num_bins).sum(0).double()
