"""The bound on held-out data."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_kanerva.evaluation.recall import each_batch
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.model import Bound


def evaluate_bound(machine: KanervaMachine, batches: Iterable[Tensor], num_particles: int = 1) -> Bound:
    """The terms of the bound of every episode, each (number of episodes,), in nats per pattern.

    :param num_particles: samples of M and w per episode.
    :raises ValueError: if there are no batches, or the patterns do not fit the machine.
    """
    with torch.no_grad():
        batches = each_batch(machine, batches, "evaluate_bound()")
        bounds = [machine.bound(patterns, num_particles) for patterns in batches]
    return Bound(*(torch.cat(terms) for terms in zip(*bounds, strict=True)))
