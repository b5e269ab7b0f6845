"""Recognition: scores that tell stored patterns from other ones."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._precision import autocast_off
from pyro_kanerva._repr import short_repr
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.evaluation.recall import each_batch
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.memory import Memory
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution, exact_gaussian_or_none, moment_matched_memory, point_address
from pyro_kanerva.readers import ExactReader


@short_repr
class ROC(NamedTuple):
    """A receiver operating characteristic, for falling thresholds, and the area under it."""

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    auc: float


def evaluate_recognition(
    machine: KanervaMachine, batches: Iterable[Tensor], *, num_samples: int = 64, seed: int = 0
) -> dict[str, ROC]:
    """Write the first half of each episode, and recognize its patterns among those of both halves.

    The scores are "evidence", :meth:`Memory.log_evidence`; "evidence ratio", the same minus the log evidence under the
    prior memory; and "familiarity", :func:`familiarity`.

    :raises ValueError: if there are no batches, or the number of patterns in an episode is odd.
    """
    scores: dict[str, list[tuple[Tensor, Tensor]]] = {"evidence": [], "evidence ratio": [], "familiarity": []}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for patterns in each_batch(machine, batches, "evaluate_recognition()"):
            if patterns.shape[1] % 2:
                raise ValueError(
                    f"evaluate_recognition(): episodes have {patterns.shape[1]} patterns; expected an even number, one "
                    "half to be stored and one not."
                )
            stored, other = patterns.chunk(2, 1)
            memory, empty = machine.write(stored), machine.prior_memory(len(patterns))
            log_evidence = [memory.log_evidence(half, num_samples=num_samples) for half in (stored, other)]
            base = [empty.log_evidence(half, num_samples=num_samples) for half in (stored, other)]
            scores["evidence"].append((log_evidence[0], log_evidence[1]))
            scores["evidence ratio"].append((log_evidence[0] - base[0], log_evidence[1] - base[1]))
            scores["familiarity"].append((familiarity(memory, stored), familiarity(memory, other)))
    return {name: roc(*(torch.cat(half) for half in zip(*parts, strict=True))) for name, parts in scores.items()}


@torch.no_grad()
def familiarity(memory: Memory, patterns: Tensor) -> Tensor:
    """The log Bayes factor in nats, (B, Q), for the codes z of ``patterns`` (B, Q) + E being stored in this memory.

    ::

        log p(z | memory) - log p(z | prior),    p(z | q(M)) = Normal(z; R^T w, s^2 I) p(w) / q(w | z)

    Above 0, "stored" is the better explanation. In the linear-Gaussian surrogate with a known M the formula is exact at
    any address w. The function uses the point address of q(w | z), and ``s^2 = sigma^2 + w^T U w`` for the uncertainty
    of M. It sums out one-hot addresses. For other address priors q(w | z) is the approximation of the machine's reader.

    :raises ValueError: if the patterns do not fit the memory.
    """
    parts = memory.machine
    codes = parts.encode(parts.check_patterns(patterns, "familiarity()", event_shape=memory.event_shape))
    prior = moment_matched_memory(parts.memory_prior).expand(memory.posterior.batch_shape)
    with autocast_off(codes):
        return _code_log_evidence(parts, memory.posterior, codes) - _code_log_evidence(parts, prior, codes)


def _code_log_evidence(parts: Parts, posterior: MatrixNormal, codes: Tensor) -> Tensor:
    """log p(z | q(M)), (B, Q), of codes (B, Q, C)."""
    prior = as_distribution(parts.address_prior)
    if exact_gaussian_or_none(prior) is None:
        reader = parts.read_codes(codes, posterior.loc)
    else:
        reader = ExactReader()(codes, posterior.loc, prior, parts.code_scale)
    discrete = reader.has_enumerate_support
    # All one-hot addresses (K, ..., K), or the point address (B, Q, K).
    address = reader.enumerate_support(expand=False) if discrete else point_address(reader)
    variance = (address @ posterior.scale_tril_row).square().sum(-1)  # w^T U w
    scale = (parts.code_scale**2 + variance).sqrt().unsqueeze(-1)
    log_evidence = dist.Normal(address @ posterior.loc, scale, validate_args=False).log_prob(codes).sum(-1)
    log_evidence = log_evidence + prior.log_prob(address)
    return log_evidence.logsumexp(0) if discrete else log_evidence - reader.log_prob(address)


def roc(stored: Tensor, unstored: Tensor) -> ROC:
    """The characteristic of scores that should be higher for stored than for unstored patterns.

    :raises ValueError: if scores are empty or NaN.
    """
    stored, unstored = stored.flatten().double(), unstored.flatten().double()
    if 0 in (len(stored), len(unstored)) or bool(torch.cat((stored, unstored)).isnan().any()):
        raise ValueError("roc(): scores are empty or NaN; expected numbers of stored and of unstored patterns.")
    thresholds = torch.cat((stored, unstored)).unique().flip(0)  # falling
    rates = [  # the share of scores at or above each threshold, from 0 at an infinite threshold
        torch.cat((scores.new_zeros(1), (scores.unsqueeze(-1) >= thresholds).double().mean(0))).tolist()
        for scores in (unstored, stored)
    ]
    points = list(zip(*rates, strict=True))
    # trapezoid rule
    auc = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    return ROC(rates[0], rates[1], auc)
