"""Errors on the hidden entries of cues."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel
from pyro_kanerva.evaluation.control import control_memories
from pyro_kanerva.evaluation.recall import each_batch, entry_error, likelihood_metric
from pyro_kanerva.machine import KanervaMachine


def evaluate_completion(
    machine: KanervaMachine, batches: Iterable[Tensor], occlusion: Channel, hidden: Tensor, *, num_samples: int = 40
) -> dict[str, float]:
    """Errors on ``hidden`` entries (bool, of shape E) of patterns whose other entries are visible.

    They are as in :func:`~pyro_kanerva.evaluation.evaluate_recall`: shares of wrong entries, or the RMSE.

    The keys are "blank", all hidden entries 0; "query", :meth:`Memory.query`; "mean of the chain", the posterior mean
    from :meth:`Memory.sample`, which draws a new memory in every sweep, or, of binary patterns and classes, the most
    frequent value; and "query, other memory" and "query, empty memory", the control of the query, see
    :func:`~pyro_kanerva.evaluation.control_memories`.

    :param occlusion: the :class:`Occlusion` that hides these entries.
    :raises ValueError: if there are no batches, only one episode in all, or the patterns do not fit the machine.
    """
    batches = list(each_batch(machine, batches, "evaluate_completion()"))
    errors: dict[str, list[Tensor]] = {}
    for patterns, memories in zip(batches, control_memories(machine, batches, "evaluate_completion()"), strict=True):
        cues = torch.where(hidden, 0.0, patterns)
        metric = likelihood_metric(machine, patterns)
        draws = memories.right.sample(cues, num_samples, burn_in=20, channel=occlusion, sample_memory=True).patterns
        query, other, empty = (memory.query(cues, channel=occlusion).patterns[-1] for memory in memories)
        recalled = {
            "blank": cues,
            "query": query,
            "mean of the chain": draws.mode(0).values if metric == "wrong entries" else draws.mean(0),
            "query, other memory": other,
            "query, empty memory": empty,
        }
        for name, pattern in recalled.items():
            errors.setdefault(name, []).append(entry_error(pattern, patterns, hidden, metric))
    return {name: torch.cat(values).mean().item() for name, values in errors.items()}
