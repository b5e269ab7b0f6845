"""Evaluation on held-out data: the terms of the bound, and recall of damaged cues."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel
from pyro_kanerva.machine import Bound, KanervaMachine
from pyro_kanerva.retrieval import Retrieval


class RecallError(NamedTuple):
    """How wrong recalled patterns are.

    ``cue`` is the share of wrong entries of the damaged cues, ``steps[n]`` that of the patterns after step
    n + 1 of the query, ``never_rose`` the share of queries whose energy fell or stayed in every step.
    """

    cue: float
    steps: list[float]
    never_rose: float


def evaluate_bound(machine: KanervaMachine, batches: Iterable[Tensor], num_particles: int = 1) -> Bound:
    """The terms of the bound of every episode, (number of episodes,), nats per pattern.

    :param batches: batches of patterns (B, T) + E, for example an :class:`Episodes`.
    :param num_particles: samples of M and w per episode.
    :raises ValueError: if there are no batches, or the patterns do not fit the machine.
    """
    with torch.no_grad():
        bounds = [machine.bound(patterns, num_particles) for patterns in batches]
    if not bounds:
        raise ValueError("evaluate_bound(): batches is empty; expected at least one batch of patterns.")
    return Bound(*(torch.cat(terms) for terms in zip(*bounds, strict=True)))


def recall_error(patterns: Tensor, retrieval: Retrieval) -> RecallError:
    """How far a query was from the binary ``patterns`` (B, Q) + E that its cues came from."""
    wrong = [(iterate != patterns).double().mean().item() for iterate in retrieval.patterns]
    never_rose = (retrieval.energy.diff(dim=0) <= 0).all(0).double().mean().item()
    return RecallError(wrong[0], wrong[1:], never_rose)


def evaluate_recall(
    machine: KanervaMachine,
    batches: Iterable[Tensor],
    damage: Channel,
    *,
    channel: Channel | None,
    num_steps: int = 10,
    seed: int = 0,
) -> RecallError:
    """Write each episode, damage its patterns, query them, and average over all of them.

    :param batches: batches of binary patterns (B, T) + E.
    :param damage: the channel that makes the cues, seeded by ``seed``.
    :param channel: the channel that the query is told; ``None`` for the paper's dynamics.
    :raises ValueError: if there are no batches, or the patterns do not fit the machine.
    """
    errors = []
    for number, patterns in enumerate(batches):
        generator = torch.Generator(patterns.device).manual_seed(seed + number)
        retrieval = machine.write(patterns).query(damage(patterns, generator), num_steps=num_steps, channel=channel)
        errors.append((len(patterns), recall_error(patterns, retrieval)))
    total = sum(size for size, _ in errors)
    if total == 0:
        raise ValueError("evaluate_recall(): batches is empty; expected at least one batch of patterns.")
    return RecallError(
        sum(size * error.cue for size, error in errors) / total,
        [sum(size * error.steps[n] for size, error in errors) / total for n in range(num_steps)],
        sum(size * error.never_rose for size, error in errors) / total,
    )
