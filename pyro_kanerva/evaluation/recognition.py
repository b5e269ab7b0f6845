"""Recognition: scores that tell stored patterns from other ones."""

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._checks import check_type
from pyro_kanerva._repr import short_repr
from pyro_kanerva.evaluation.recall import each_batch
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.memory import Memory
from pyro_kanerva.memory.recognition import code_log_bayes_factor


@short_repr
class ROC(NamedTuple):
    """A receiver operating characteristic, and the area under it.

    ``false_positive_rate`` and ``true_positive_rate``: the shares of unstored and of stored patterns whose score is at
    least the threshold. ``thresholds`` fall from infinity, as those of ``sklearn.metrics.roc_curve``.
    """

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    thresholds: list[float]
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

    In the linear-Gaussian surrogate with a known M the formula is exact at any address w. The function uses the point
    address of q(w | z), and ``s^2 = sigma^2 + w^T U w`` for the uncertainty of M. It sums out one-hot addresses. For
    other address priors q(w | z) is the approximation of the machine's reader.

    It compares the memory with an empty one, not with a memory of other patterns: most patterns that are not stored
    have a factor above 0 as well, because they resemble stored ones. :meth:`pyro_kanerva.Memory.recognize` finds the
    threshold that tells them apart.

    :raises ValueError: if the patterns do not fit the memory.
    """
    check_type("familiarity(): memory", memory, Memory, "a Memory")
    parts = memory.machine
    codes = parts.encode(memory.check(patterns, "familiarity()", "patterns"))
    return code_log_bayes_factor(parts, memory.posterior, codes)


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
    return ROC(rates[0], rates[1], [math.inf, *thresholds.tolist()], auc)
