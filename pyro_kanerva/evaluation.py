"""Evaluation on held-out data: the bound, recall, capacity, basins of attraction, recognition.

Batches are any iterable of patterns (B, T) + E, for example an :class:`~pyro_kanerva.Episodes`; they are
gone through once. Intervals are over episodes.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva import baselines
from pyro_kanerva._precision import full_precision
from pyro_kanerva.bound import Bound
from pyro_kanerva.channels import Channel, Flip
from pyro_kanerva.datasets.episodes import Episodes, derive_seed
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.memory import Memory
from pyro_kanerva.priors import as_distribution, as_gaussian, gaussian_memory, point_address
from pyro_kanerva.readers import ExactReader
from pyro_kanerva.retrieval import Retrieval

Damage = Callable[[Tensor, torch.Generator], Tensor]


class Curve(NamedTuple):
    """Means over episodes at ``x``, and the 95% interval of each, ``low`` to ``high``: 1.96 standard errors."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


class RecallError(NamedTuple):
    """How wrong recalled patterns are.

    ``errors`` (episodes, S + 1): the share of wrong entries, of the cues first and then after each step;
    ``never_rose``: the share of queries whose energy fell or stayed in every step; ``num_steps``
    (episodes,): steps until a query stood still, S where it never did.
    """

    errors: Tensor
    never_rose: float
    num_steps: Tensor

    @property
    def cue(self) -> float:
        """The mean error of the cues."""
        return self.errors[:, 0].mean().item()

    @property
    def steps(self) -> list[float]:
        """The mean error after each step."""
        return self.errors[:, 1:].mean(0).tolist()

    @property
    def curve(self) -> Curve:
        """The error by step."""
        return interval(range(self.errors.shape[1]), self.errors)


class ROC(NamedTuple):
    """A receiver operating characteristic and the area under it; thresholds fall along the two rates."""

    false_positive_rate: list[float]
    true_positive_rate: list[float]
    auc: float


def interval(x: Iterable[float], values: Tensor) -> Curve:
    """The curve of ``values`` (episodes, points)."""
    values = values.double()
    mean = values.mean(0)
    error = 1.96 * values.std(0) / math.sqrt(len(values)) if len(values) > 1 else torch.zeros_like(mean)
    return Curve([float(point) for point in x], mean.tolist(), (mean - error).tolist(), (mean + error).tolist())


def join(points: Iterable[Curve]) -> Curve:
    """Curves one behind the other, by rising x."""
    points = sorted(points, key=lambda curve: curve.x)
    return Curve(*([value for curve in points for value in curve[i]] for i in range(4)))


def evaluate_bound(machine: KanervaMachine, batches: Iterable[Tensor], num_particles: int = 1) -> Bound:
    """The terms of the bound of every episode, (number of episodes,), nats per pattern.

    :param num_particles: samples of M and w per episode.
    :raises ValueError: if there are no batches, or the patterns do not fit the machine.
    """
    with torch.no_grad():
        bounds = [machine.bound(patterns, num_particles) for patterns in batches]
    if not bounds:
        raise ValueError("evaluate_bound(): batches is empty; expected at least one batch of patterns.")
    return Bound(*(torch.cat(terms) for terms in zip(*bounds, strict=True)))


def entry_error(recalled: Tensor, patterns: Tensor) -> Tensor:
    """The share of wrong entries of each episode, (..., B), of recalled and stored patterns (..., B, Q) + E."""
    wrong = (recalled != patterns).double()
    return wrong.flatten(wrong.dim() - patterns.dim() + 1).mean(-1)


def recall_error(patterns: Tensor, retrieval: Retrieval) -> RecallError:
    """How far a query was from the ``patterns`` (B, Q) + E that its cues came from.

    :raises ValueError: if the patterns are not as many, or of another shape.
    """
    if patterns.shape != retrieval.patterns.shape[1:]:
        raise ValueError(
            f"recall_error(): patterns have shape {tuple(patterns.shape)}; expected that of the retrieval's cues, "
            f"{tuple(retrieval.patterns.shape[1:])}."
        )
    never_rose = (retrieval.energy.diff(dim=0) <= 0).all(0).double().mean().item()
    moved = (retrieval.patterns[1:] != retrieval.patterns[:-1]).flatten(3).any(-1)  # (S, B, Q)
    numbers = torch.arange(1, len(moved) + 1, device=moved.device).view(-1, 1, 1)
    last = (moved * numbers).amax(0) if len(moved) else moved.new_zeros(moved.shape[1:])
    return RecallError(entry_error(retrieval.patterns, patterns).mT, never_rose, last.double().mean(-1))


def evaluate_recall(
    machine: KanervaMachine,
    batches: Iterable[Tensor],
    damage: Damage,
    *,
    channel: Channel | None,
    num_steps: int = 10,
    seed: int = 0,
) -> RecallError:
    """Write each episode, damage its patterns, and query them.

    :param damage: the channel that makes the cues, seeded by ``seed``.
    :param channel: the channel that the query is told; ``None`` for the paper's dynamics.
    :raises ValueError: if there are no batches, or the patterns do not fit the machine.
    """
    parts = []
    for number, patterns in enumerate(batches):
        patterns = machine.check_patterns(patterns, "evaluate_recall()")
        cues = damage(patterns, _generator(patterns, seed, number))
        parts.append(recall_error(patterns, machine.write(patterns).query(cues, num_steps=num_steps, channel=channel)))
    if not parts:
        raise ValueError("evaluate_recall(): batches is empty; expected at least one batch of patterns.")
    errors = torch.cat([part.errors for part in parts])
    never_rose = sum(part.never_rose * len(part.errors) for part in parts) / len(errors)
    return RecallError(errors, never_rose, torch.cat([part.num_steps for part in parts]))


def evaluate_completion(
    machine: KanervaMachine, batches: Iterable[Tensor], occlusion: Channel, hidden: Tensor, *, num_samples: int = 40
) -> dict[str, float]:
    """Errors on ``hidden`` entries (bool, of shape E) of patterns of which the rest is known.

    "blank" of an empty image, "query" of :meth:`Memory.query`, and "mean of the chain" of the posterior mean
    that :meth:`Memory.sample` finds with a memory drawn anew in every sweep.

    :param occlusion: the :class:`Occlusion` that hides those entries.
    """
    errors: dict[str, list[Tensor]] = {"blank": [], "query": [], "mean of the chain": []}
    for patterns in batches:
        patterns = machine.check_patterns(patterns, "evaluate_completion()")
        memory, cues = machine.write(patterns), torch.where(hidden, 0.0, patterns)
        draws = memory.sample(cues, num_samples, burn_in=20, channel=occlusion, sample_memory=True).patterns
        recalled = (cues, memory.query(cues, channel=occlusion).patterns[-1], (draws.mean(0) > 0.5).to(cues.dtype))
        for values, pattern in zip(errors.values(), recalled, strict=True):
            values.append((pattern != patterns)[..., hidden.expand(patterns.shape[2:])].double().mean((1, 2)))
    return {name: torch.cat(values).mean().item() for name, values in errors.items()}


def evaluate_baselines(
    machine: KanervaMachine, batches: Iterable[Tensor], damage: Damage, flip_probability: float, *, seed: int = 0
) -> dict[str, float]:
    """Mean errors on the same cues as :func:`evaluate_recall` of what is not a query.

    A one-step read; encoder and decoder without a memory; the nearest stored pattern, and modern Hopfield
    networks that hold all patterns, or as many as fit into the K x C floats of a memory.
    """
    errors: dict[str, list[Tensor]] = {}
    for number, patterns in enumerate(batches):
        patterns = machine.check_patterns(patterns, "evaluate_baselines()")
        cues = damage(patterns, _generator(patterns, seed, number))
        fits = max(1, machine.num_slots * machine.code_size // patterns[0, 0].numel())
        recalled = {
            "one-step read": (machine.write(patterns).read(cues) > 0.5).to(cues.dtype),
            "encoder and decoder": baselines.autoencoder(machine, cues),
            "nearest stored pattern": baselines.nearest_pattern(patterns, cues),
            "Hopfield network, all patterns": baselines.hopfield(patterns, cues, flip_probability),
            f"Hopfield network, as large as the memory ({fits} patterns)": baselines.hopfield(
                patterns[:, :fits], cues, flip_probability
            ),
        }
        for name, pattern in recalled.items():
            errors.setdefault(name, []).append(entry_error(pattern, patterns))
    return {name: torch.cat(values).mean().item() for name, values in errors.items()}


def evaluate_capacity(
    machine: KanervaMachine,
    images: Tensor,
    lengths: Sequence[int],
    damage: Damage,
    *,
    channel: Channel | None,
    num_episodes: int = 4,
    seed: int = 0,
) -> dict[str, Curve]:
    """Recall and bound by the number T of patterns in one memory, also beyond what was trained.

    :param images: as for :class:`Episodes`.
    :param lengths: the T, none above the number of images.
    :param num_episodes: of each length, fewer where the images do not suffice.
    :return: curves of the error after 10 steps, "recall", and of the negative bound and negative conditional
        bound in nats per pattern.
    """
    points: dict[str, list[Curve]] = {"recall": [], "negative bound": [], "negative conditional bound": []}
    for length in lengths:
        episodes = Episodes(images, length, min(num_episodes, len(images) // length), seed=seed)
        patterns = episodes[0].to(machine.log_code_scale)
        error = evaluate_recall(machine, [patterns], damage, channel=channel, seed=seed)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            bound = machine.bound(patterns)
        for values, at in zip(
            (error.errors[:, -1], -bound.bound, -bound.conditional_bound), points.values(), strict=True
        ):
            at.append(interval([length], values.unsqueeze(-1)))
    return {name: join(at) for name, at in points.items()}


def evaluate_basins(
    machine: KanervaMachine,
    batches: Iterable[Tensor],
    levels: Sequence[float],
    *,
    told: bool = True,
    threshold: float = 0.02,
    seed: int = 0,
) -> Curve:
    """The share of cues that reach the stored pattern, by the share of entries that were flipped.

    :param levels: probabilities of a flip.
    :param told: whether the query is told the channel.
    :param threshold: the largest share of wrong entries of a pattern that counts as reached.
    """
    batches = [machine.check_patterns(patterns, "evaluate_basins()") for patterns in batches]
    reached = []
    for level in levels:
        channel, shares = Flip(level), []
        for number, patterns in enumerate(batches):
            cues = channel(patterns, _generator(patterns, seed, number))
            recalled = machine.write(patterns).query(cues, channel=channel if told else None).patterns[-1]
            wrong = (recalled != patterns).double().flatten(2).mean(-1)  # (B, Q)
            shares.append((wrong < threshold).double().mean(-1))
        reached.append(torch.cat(shares))
    return interval(levels, torch.stack(reached, -1))


def query_cost(
    machine: KanervaMachine,
    patterns: Tensor,
    damage: Damage,
    *,
    channel: Channel | None,
    num_steps: int = 10,
    seed: int = 0,
) -> tuple[float, list[float], list[float]]:
    """What a query of all ``patterns`` (B, T) + E costs.

    :return: its time relative to ``num_steps`` plain passes through encoder and decoder, in the same run; and
        after each step the decoder passes of a cue so far and the mean error. With a channel a pass is forward
        and backward; without one, most are forward alone.
    :raises ValueError: if the decoder is not a module, whose passes can be counted.
    """
    if not isinstance(machine.decoder, torch.nn.Module):
        raise ValueError("query_cost(): the decoder is not an nn.Module, so that its passes cannot be counted.")
    memory, cues = machine.write(patterns), damage(patterns, _generator(patterns, seed, 0))

    def clock() -> float:
        if cues.is_cuda:
            torch.cuda.synchronize(cues.device)
        return time.perf_counter()

    def pass_through() -> None:
        with torch.no_grad():
            machine.decode(machine.encode(cues), memory.event_shape)

    pass_through()
    memory.query(cues, num_steps=1, channel=channel)  # both are warm now
    start = clock()
    for _ in range(num_steps):
        pass_through()
    plain = clock() - start
    start = clock()
    memory.query(cues, num_steps=num_steps, channel=channel)
    ratio = (clock() - start) / plain
    rows: list[int] = []
    passes, errors = [], []
    handle = machine.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    try:
        for steps in range(1, num_steps + 1):
            rows.clear()
            retrieval = memory.query(cues, num_steps=steps, channel=channel)
            passes.append(sum(rows) / cues.shape[:2].numel())
            errors.append(entry_error(retrieval.patterns[-1], patterns).mean().item())
    finally:
        handle.remove()
    return ratio, passes, errors


def evaluate_recognition(
    machine: KanervaMachine, batches: Iterable[Tensor], *, num_samples: int = 64, seed: int = 0
) -> dict[str, ROC]:
    """Write the first half of each episode; tell its patterns from those of the second half.

    Three scores: "evidence", :meth:`Memory.log_evidence`; "evidence ratio", less that of a memory that
    holds nothing; and "familiarity", :func:`familiarity`.

    :raises ValueError: if there are no batches, or the number of patterns in an episode is odd.
    """
    scores: dict[str, list[tuple[Tensor, Tensor]]] = {"evidence": [], "evidence ratio": [], "familiarity": []}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for patterns in batches:
            patterns = machine.check_patterns(patterns, "evaluate_recognition()")
            if patterns.shape[1] % 2:
                raise ValueError(
                    f"evaluate_recognition(): episodes have {patterns.shape[1]} patterns; expected an even number, one "
                    "half to be stored and one not."
                )
            stored, other = patterns.chunk(2, 1)
            memory, empty = machine.write(stored), machine.prior_memory(len(patterns))
            evidence = [memory.log_evidence(half, num_samples=num_samples) for half in (stored, other)]
            base = [empty.log_evidence(half, num_samples=num_samples) for half in (stored, other)]
            scores["evidence"].append((evidence[0], evidence[1]))
            scores["evidence ratio"].append((evidence[0] - base[0], evidence[1] - base[1]))
            scores["familiarity"].append((familiarity(memory, stored), familiarity(memory, other)))
    if not scores["evidence"]:
        raise ValueError("evaluate_recognition(): batches is empty; expected at least one batch of patterns.")
    return {name: roc(*(torch.cat(half) for half in zip(*parts, strict=True))) for name, parts in scores.items()}


@torch.no_grad()
@full_precision
def familiarity(memory: Memory, patterns: Tensor) -> Tensor:
    r"""How much more likely the codes of ``patterns`` (B, Q) + E are in this memory than in an empty one.

    ::

        log p(z | memory) - log p(z | prior),    p(z | q(M)) = Normal(z; R^T w, s^2 I) p(w) / q(w | z)

    in nats, (B, Q): the logarithm of the Bayes factor for "stored", above 0 where stored is the better
    explanation. The linear-Gaussian surrogate of the guide makes it closed form, at the point address w of
    q(w | z), with ``s^2 = sigma^2 + w^T U w`` for an uncertain memory; one-hot addresses are summed out. With other
    address priors than Gaussian or one-hot ones it is an approximation, by the machine's reader.

    :raises ValueError: if the patterns do not fit the memory.
    """
    machine = memory.machine
    patterns = machine.check_patterns(patterns, "familiarity()", event_shape=memory.event_shape)
    codes = machine.encode(patterns)
    prior = gaussian_memory(machine.memory_prior).expand(memory.posterior.batch_shape)
    return _code_evidence(machine, memory.posterior, codes) - _code_evidence(machine, prior, codes)


def _code_evidence(machine: KanervaMachine, memory: MatrixNormal, codes: Tensor) -> Tensor:
    prior = as_distribution(machine.address_prior)
    if as_gaussian(prior) is None:
        posterior = machine.read_codes(codes, memory.loc)
    else:  # whatever the machine's reader, the formula wants the exact one
        posterior = ExactReader()(codes, memory.loc, prior, machine.code_scale)
    discrete = posterior.has_enumerate_support
    address = posterior.enumerate_support(expand=False) if discrete else point_address(posterior)
    spread = (address @ memory.scale_tril_row).square().sum(-1)  # w^T U w
    scale = (machine.code_scale**2 + spread).sqrt().unsqueeze(-1)
    evidence = dist.Normal(address @ memory.loc, scale, validate_args=False).log_prob(codes).sum(-1)
    evidence = evidence + prior.log_prob(address)
    return evidence.logsumexp(0) if discrete else evidence - posterior.log_prob(address)


def roc(stored: Tensor, unstored: Tensor) -> ROC:
    """The characteristic of scores that should be high for what is stored.

    :raises ValueError: if one of them is empty or NaN.
    """
    stored, unstored = stored.flatten().double(), unstored.flatten().double()
    if 0 in (len(stored), len(unstored)) or bool(torch.cat((stored, unstored)).isnan().any()):
        raise ValueError("roc(): scores are empty or NaN; expected numbers of stored and of unstored patterns.")
    thresholds = torch.cat((stored, unstored)).unique().flip(0)  # falling
    rates = [
        torch.cat((scores.new_zeros(1), (scores.unsqueeze(-1) >= thresholds).double().mean(0))).tolist()
        for scores in (unstored, stored)
    ]
    points = list(zip(*rates, strict=True))
    auc = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))
    return ROC(rates[0], rates[1], auc)


def _generator(patterns: Tensor, seed: int, number: int) -> torch.Generator:
    return torch.Generator(patterns.device).manual_seed(derive_seed(seed, number))
