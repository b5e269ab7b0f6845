"""Recall error on held-out data, for damaged cues and for cues with hidden entries."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel, Damage
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation.curve import Curve, interval
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.retrieval import Retrieval


class RecallError(NamedTuple):
    """The errors of recalled patterns.

    ``errors`` (episodes, S + 1): the share of wrong entries in the cues and after each of S steps; ``never_rose``: the
    share of queries whose energy rose in no step; ``num_steps`` (episodes,): the step at which a query changed its
    pattern for the last time, mean over queries.
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


def entry_error(recalled: Tensor, patterns: Tensor) -> Tensor:
    """The share of wrong entries of each episode, (..., B), for ``recalled`` (..., B, Q) + E."""
    wrong = (recalled != patterns).double()
    return wrong.flatten(wrong.dim() - patterns.dim() + 1).mean(-1)  # over Q and E


def recall_error(patterns: Tensor, retrieval: Retrieval) -> RecallError:
    """The errors of a query whose cues are damaged copies of ``patterns`` (B, Q) + E.

    :raises ValueError: if the shape of ``patterns`` is not that of the cues.
    """
    if patterns.shape != retrieval.patterns.shape[1:]:
        raise ValueError(
            f"recall_error(): patterns have shape {tuple(patterns.shape)}; expected that of the retrieval's cues, "
            f"{tuple(retrieval.patterns.shape[1:])}."
        )
    never_rose = (retrieval.energy.diff(dim=0) <= 0).all(0).double().mean().item()
    changed = (retrieval.patterns[1:] != retrieval.patterns[:-1]).flatten(3).any(-1)  # (S, B, Q)
    steps = torch.arange(1, len(changed) + 1, device=changed.device).view(-1, 1, 1)
    last = (changed * steps).amax(0) if len(changed) else changed.new_zeros(changed.shape[1:])
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
    """Write each episode, and query it with damaged copies of its patterns.

    :param damage: makes the cues, with random numbers from ``seed``.
    :param channel: the channel of the query; ``None`` for the paper's dynamics.
    :raises ValueError: if there are no batches, or the patterns do not fit the machine.
    """
    parts = []
    for index, patterns in enumerate(each_batch(machine, batches, "evaluate_recall()")):
        cues = damage(patterns, cue_generator(patterns, seed, index))
        parts.append(recall_error(patterns, machine.write(patterns).query(cues, num_steps=num_steps, channel=channel)))
    errors = torch.cat([part.errors for part in parts])
    never_rose = sum(part.never_rose * len(part.errors) for part in parts) / len(errors)
    return RecallError(errors, never_rose, torch.cat([part.num_steps for part in parts]))


def evaluate_completion(
    machine: KanervaMachine, batches: Iterable[Tensor], occlusion: Channel, hidden: Tensor, *, num_samples: int = 40
) -> dict[str, float]:
    """Errors on ``hidden`` entries (bool, of shape E) of patterns whose other entries are visible.

    The keys are "blank", all hidden entries 0; "query", :meth:`Memory.query`; and "mean of the chain", the posterior
    mean from :meth:`Memory.sample`, which draws a new memory in every sweep.

    :param occlusion: the :class:`Occlusion` that hides these entries.
    """
    errors: dict[str, list[Tensor]] = {"blank": [], "query": [], "mean of the chain": []}
    for patterns in each_batch(machine, batches, "evaluate_completion()"):
        memory, cues = machine.write(patterns), torch.where(hidden, 0.0, patterns)
        draws = memory.sample(cues, num_samples, burn_in=20, channel=occlusion, sample_memory=True).patterns
        mean = (draws.mean(0) > 0.5).to(cues.dtype)  # rounded to ink or no ink
        recalled = (cues, memory.query(cues, channel=occlusion).patterns[-1], mean)
        for values, pattern in zip(errors.values(), recalled, strict=True):
            values.append((pattern != patterns)[..., hidden.expand(patterns.shape[2:])].double().mean((1, 2)))
    return {name: torch.cat(values).mean().item() for name, values in errors.items()}


def cue_generator(patterns: Tensor, seed: int, index: int) -> torch.Generator:
    """The random generator for the cues of batch ``index``."""
    return torch.Generator(patterns.device).manual_seed(derive_seed(seed, index))


def each_batch(machine: KanervaMachine, batches: Iterable[Tensor], caller: str) -> Iterator[Tensor]:
    """The batches as checked patterns (B, T) + E; at least one."""
    empty = True
    for patterns in batches:
        yield machine.check_patterns(patterns, caller)
        empty = False
    if empty:
        raise ValueError(f"{caller}: batches is empty; expected at least one batch of patterns.")
