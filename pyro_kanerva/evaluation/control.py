"""The control of recall: the same cues with the memory of their patterns, with another, and with an empty one."""

import html
import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._repr import table
from pyro_kanerva.channels import Channel, Damage
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.evaluation.recall import RecallError, each_batch, recall_errors
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.memory import Memory
from pyro_kanerva.priors import moment_matched_memory
from pyro_kanerva.retrieval import Energy


class RecallControl(NamedTuple):
    """The errors of the same cues with three memories.

    ``right``: the memory that holds the patterns; ``other``: a memory that holds another episode; ``empty``: the memory
    prior, which holds nothing.
    """

    right: RecallError
    other: RecallError
    empty: RecallError

    @property
    def gain(self) -> float:
        """The memory gain: the mean error after the last step with the empty memory, over that with the right one.

        At 1 the decoder alone does the recall. If the right memory leaves no error, the gain is infinite; if the empty
        memory leaves none either, it is 1.
        """
        return memory_gain(self.right, self.empty)

    def __repr__(self) -> str:
        memories = ", ".join(f"{name}={error!r}" for name, error in self._asdict().items())
        return f"RecallControl(gain={self.gain:.4g}, {memories})"

    def _repr_html_(self) -> str:
        """For notebooks: a row for each memory."""
        rows = [(f"{name} memory", html.escape(repr(error))) for name, error in self._asdict().items()]
        return table("RecallControl", [*rows, ("memory gain", f"{self.gain:.4g}")])


def memory_gain(right: RecallError, empty: RecallError) -> float:
    """See :attr:`RecallControl.gain`."""
    with_memory, without = right.errors[:, -1].mean().item(), empty.errors[:, -1].mean().item()
    if with_memory == 0:
        return 1.0 if without == 0 else math.inf
    return without / with_memory


class ControlMemories(NamedTuple):
    """The memories of :class:`RecallControl`, for one batch of B episodes."""

    right: Memory
    other: Memory
    empty: Memory


@torch.no_grad()
def control_memories(
    machine: KanervaMachine, batches: Iterable[Tensor], caller: str = "control_memories()"
) -> list[ControlMemories]:
    """Write each batch of episodes (B, T) + E, once, and pair its memories with those of other episodes.

    Episode b of a batch gets the memory of episode b - 1 of the same batch as its other memory, and the first one that
    of the last. A batch of one episode gets the last memory of the batch before it, and the first batch that of the
    last batch.

    :raises ValueError: if there is only one episode in all, or the patterns do not fit the machine.
    """
    written = [machine.write(patterns) for patterns in each_batch(machine, batches, caller)]
    if sum(len(memory.posterior.loc) for memory in written) < 2:
        raise ValueError(
            f"{caller}: batches have one episode in all; expected at least 2. The control queries the memory of "
            "another episode: add one."
        )
    result = []
    for index, memory in enumerate(written):
        other = roll(memory) if len(memory.posterior.loc) > 1 else _choose(written[index - 1], [-1])
        result.append(ControlMemories(memory, other, empty_memory(memory)))
    return result


def roll(memory: Memory) -> Memory:
    """The memories (B,), each moved on by one episode; without their records."""
    return _choose(memory, [episode - 1 for episode in range(len(memory.posterior.loc))])


def _choose(memory: Memory, episodes: list[int]) -> Memory:
    posterior = memory.posterior

    def choose(matrix: Tensor) -> Tensor:
        return matrix.expand(*posterior.batch_shape, *matrix.shape[-2:])[episodes]

    column = None if posterior.scale_tril_column is None else choose(posterior.scale_tril_column)
    chosen = MatrixNormal(choose(posterior.loc), choose(posterior.scale_tril_row), column, validate_args=False)
    return Memory(memory.machine, chosen, memory.event_shape)


@torch.no_grad()
def empty_memory(memory: Memory) -> Memory:
    """As many memories in which nothing is stored; also for encoders that do not state their ``event_shape``."""
    prior = moment_matched_memory(memory.machine.memory_prior).expand(memory.posterior.batch_shape)
    empty = Memory(memory.machine, prior, memory.event_shape)
    return _choose(empty, list(range(len(prior.loc))))  # a copy: training changes the parameters of the prior


def evaluate_recall_control(
    machine: KanervaMachine,
    batches: Iterable[Tensor],
    damage: Damage,
    *,
    channel: Channel | None,
    num_steps: int = 10,
    seed: int = 0,
    energy: Energy | None = None,
    entries: Tensor | None = None,
) -> RecallControl:
    """Query the same cues with the memory that holds their patterns, with another one, and with an empty one.

    Without this control a recall error says nothing about the memory: the decoder knows what patterns look like, and
    may restore a cue alone. ``right`` is the result of :func:`evaluate_recall`. See :func:`control_memories` for the
    other memory. All batches are held at once.

    The arguments are those of :func:`evaluate_recall`.

    :raises ValueError: as :func:`evaluate_recall`, and if there is only one episode in all.
    """
    batches = list(each_batch(machine, batches, "evaluate_recall_control()"))
    memories = control_memories(machine, batches, "evaluate_recall_control()")
    pairs = zip(batches, memories, strict=True)
    return RecallControl(*recall_errors(pairs, damage, channel, num_steps, seed, energy, entries))
