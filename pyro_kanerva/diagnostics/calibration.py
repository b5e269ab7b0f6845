"""Simulation-based calibration of the guide."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._repr import short_repr
from pyro_kanerva.diagnostics.guide_draws import guide_draws, sample_sites
from pyro_kanerva.machine import KanervaMachine

Statistic = Callable[[Mapping[str, Tensor]], Tensor]


@short_repr
class CalibrationRanks(NamedTuple):
    """``ranks`` (N, S), integers from 0 to ``num_draws``, of N simulations and the S statistics ``names``."""

    ranks: Tensor
    names: tuple[str, ...]
    num_draws: int


def _corners(latents: Mapping[str, Tensor]) -> dict[str, Statistic]:
    """The first and the last entry of every site, as statistics."""

    def entry(site: str, index: int) -> Statistic:
        num_event_dims = latents[site].dim() - 1  # without the dimension of simulations
        return lambda values: values[site].flatten(values[site].dim() - num_event_dims)[..., index]

    return {
        f"{site}[{', '.join([str(index)] * (value.dim() - 1))}]": entry(site, index)
        for site, value in latents.items()
        for index in (0, -1)
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
    """Simulation-based calibration: the rank of the true latent values among draws from the guide.

    ::

        M, w_1 ... w_T, x_1 ... x_T ~ model                  once per simulation
        M', w'_1 ... w'_T ~ guide(x_1 ... x_T)               num_draws times
        rank = number of draws with statistic(M', w') < statistic(M, w), ties broken at random

    If the guide is the exact posterior, every rank is uniform on 0 ... num_draws. A guide that is too narrow gives many
    ranks at both ends, one that is too wide many in the middle, a biased one many at one end. The simulations are the
    episodes of one batch.

    The model simulates the patterns, whether it is trained or not, so a poor fit to data does not count. A guide that
    ignores the patterns and draws from the prior has uniform ranks for all entries of the latent sites; only the
    statistic "log_likelihood" reveals it. Source: Talts, Betancourt, Simpson, Vehtari, Gelman 2018 (arXiv 1804.06788);
    for the log likelihood as a statistic Modrak et al. 2023 (arXiv 2211.02383).

    :param num_patterns: T of each simulated episode.
    :param num_simulations: N; the standard error of a bin's share is at most ``0.5 / sqrt(N)``.
    :param num_draws: draws from the guide per simulation; best one less than a multiple of the bins.
    :param known: sites at which the guide is conditioned on the true values: ``("memory",)`` tests q(w | x, M) alone.
        ``ExactReader`` is exact if encoder and decoder are the identity and patterns are Normal of scale
        ``code_scale``.
    :param statistics: functions from a dict of sites to (..., N), by name. The dict holds "memory" (..., N, K, C),
        other latent sites (..., N, T) + event, with the draws in front, "pattern" (N, T) + E, and "log_likelihood"
        (..., N), the log likelihood of the episode in nats. By default the first and the last entry of every site that
        is not known, and "log_likelihood".
    :param event_shape: E; needed if the encoder has no ``event_shape``.
    :raises ValueError: if a number is below 1, the event shape is missing, ``known`` names no latent site or all of
        them, or a statistic has another shape.
    """
    check_at_least(
        "calibration_ranks()", 1, num_patterns=num_patterns, num_simulations=num_simulations, num_draws=num_draws
    )
    shape = machine.event_shape if event_shape is None else tuple(event_shape)
    if shape is None:
        raise ValueError(
            "calibration_ranks(): the encoder has no attribute event_shape, the shape of a pattern; pass event_shape."
        )
    # The model without its observations draws the patterns; ``blank`` only gives their shape.
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
    given = {site: truth[site] for site in known}

    def values(latents: Mapping[str, Tensor], log_likelihood: Tensor) -> dict[str, Tensor]:
        sites = {**given, **latents}
        sites["memory"] = sites["memory"].squeeze(-3)  # the dimension of the plate of patterns, which has size 1
        return {**sites, "pattern": patterns, "log_likelihood": log_likelihood.sum(-1)}

    true = values(unknown, simulated["pattern"]["log_prob"])
    if statistics is None:
        statistics = _corners({site: true[site] for site in unknown})
        statistics["log_likelihood"] = lambda sites: sites["log_likelihood"]
    below = torch.zeros(len(statistics), num_simulations, dtype=torch.long, device=blank.device)
    equal = torch.zeros_like(below)
    for draws in guide_draws(machine, patterns, num_draws, "calibration_ranks()", given):
        drawn = values(draws.latents, draws.log_likelihood)
        for i, (name, statistic) in enumerate(statistics.items()):
            at_draws, at_truth = statistic(drawn), statistic(true)
            shapes, expected = (at_truth.shape, at_draws.shape), (below[0].shape, draws.log_weights.shape)
            if shapes != expected:
                raise ValueError(
                    f'calibration_ranks(): the statistic "{name}" has shape {tuple(shapes[0])} at the truth and '
                    f"{tuple(shapes[1])} at the draws; expected {tuple(expected[0])} and {tuple(expected[1])}, one "
                    "number for each simulation."
                )
            below[i] += (at_draws < at_truth).sum(0)
            equal[i] += (at_draws == at_truth).sum(0)
    # The rank of a tie among n equal draws is uniform on n + 1 places.
    ties = (torch.rand(equal.shape, device=equal.device, dtype=torch.double) * (equal + 1)).long()
    return CalibrationRanks((below + ties).mT, tuple(statistics), num_draws)


def rank_counts(ranks: CalibrationRanks, num_bins: int) -> Tensor:
    """The number of ranks in each of ``num_bins`` equal bins, (S, num_bins), in float64.

    :raises ValueError: if there are fewer than 2 bins, or they do not divide ``num_draws + 1``.
    """
    if num_bins < 2 or (ranks.num_draws + 1) % num_bins:
        raise ValueError(
            f"rank_counts(): num_bins is {num_bins}; expected at least 2, and a divisor of num_draws + 1 = "
            f"{ranks.num_draws + 1}, so that all bins hold equally many ranks."
        )
    bins = ranks.ranks * num_bins // (ranks.num_draws + 1)
    return torch.nn.functional.one_hot(bins, num_bins).sum(0).double()
