"""Where queries end: at their own pattern, at another stored one, at a mixture of two, or elsewhere."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._checks import check_positive
from pyro_kanerva.channels import Channel, Damage
from pyro_kanerva.evaluation.control import empty_memory
from pyro_kanerva.evaluation.curve import Curve, interval
from pyro_kanerva.evaluation.recall import cue_generator, each_batch, entry_error
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.retrieval import Energy


class Ends(NamedTuple):
    """Where queries end, as shares of all queries; their sum is 1.

    ``own``: at the stored pattern that the cue came from; ``other``: at another stored pattern of the episode;
    ``mixture``: at a mixture of two stored patterns; ``elsewhere``: at none of these, a spurious pattern. See
    :func:`classify_ends` for the rule.
    """

    own: float
    other: float
    mixture: float
    elsewhere: float

    @property
    def stored(self) -> float:
        """The share that ends at a stored pattern, ``own + other``."""
        return self.own + self.other


class Attractors(NamedTuple):
    """Where queries end, and which patterns do not move.

    ``right``: the ends with the memory that holds the patterns; ``empty``: the ends of the same cues with the memory
    prior, which holds nothing. All other fields are of the right memory. ``converged``: the share of queries that had
    converged at their last step, see :class:`~pyro_kanerva.Retrieval`. ``stored_fixed_points``: the share of stored
    patterns that are fixed points: a query without a channel that starts at the pattern stays within the threshold of
    it at every step. ``error`` and ``energy``: the share of wrong entries, and the energy in nats, of the cues at 0 and
    after each step.
    """

    right: Ends
    empty: Ends
    converged: float
    stored_fixed_points: float
    error: Curve
    energy: Curve


def random_start(patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A :class:`~pyro_kanerva.channels.Damage` that keeps nothing of the binary ``patterns`` (B, Q) + E.

    ::

        c ~ Bernoulli(mean of all entries of the episode), each entry by itself

    A cue has the ink of the episode and no information about its pattern. A query of these cues needs no channel.

    :raises ValueError: if the patterns are not binary.
    """
    if bool(((patterns != 0) & (patterns != 1)).any()):
        raise ValueError("random_start(): patterns have entries other than 0 and 1. Binarize them before.")
    ink = patterns.mean(tuple(range(1, patterns.dim())), keepdim=True)
    noise = torch.rand(patterns.shape, generator=generator, dtype=patterns.dtype, device=patterns.device)
    return (noise < ink).to(patterns)


def classify_ends(recalled: Tensor, patterns: Tensor, threshold: float = 0.02) -> Tensor:
    """Where each query ended, (B, T), as an index into the fields of :class:`Ends`.

    Query t of an episode started at a cue of its pattern t. The first rule that holds decides::

        own        d(x, x_t) < threshold
        other      d(x, x_s) < threshold                       for any s
        mixture    mean over entries of [x != x_a and x != x_b] < threshold
        elsewhere  else

    d is the share of entries that differ. x_a is the stored pattern nearest to x, and x_b the nearest one that differs
    from x_a. The earlier of two equally near patterns is taken.

    :param recalled: x, the patterns (B, T) + E where the queries ended.
    :param patterns: x_1 to x_T, the stored patterns (B, T) + E.
    :raises ValueError: if the shapes differ, or the threshold is not positive.
    """
    check_positive("classify_ends()", threshold=threshold)
    if recalled.shape != patterns.shape:
        raise ValueError(
            f"classify_ends(): recalled has shape {tuple(recalled.shape)}; expected that of the stored patterns, "
            f"{tuple(patterns.shape)}."
        )
    distances = _distances(recalled, patterns)
    at_stored = distances < threshold
    own, other = at_stored.diagonal(dim1=-2, dim2=-1), at_stored.any(-1)
    nearest = distances.argmin(-1)
    episode = torch.arange(len(patterns), device=patterns.device).unsqueeze(-1)
    copies = _distances(patterns, patterns)[episode, nearest] == 0  # (B, Q, T), of the nearest pattern; also itself
    second = distances.masked_fill(copies, torch.inf).argmin(-1)
    outside = (recalled != patterns[episode, nearest]) & (recalled != patterns[episode, second])
    mixture = outside.double().flatten(2).mean(-1) < threshold
    kind = torch.where(mixture, Ends._fields.index("mixture"), Ends._fields.index("elsewhere"))
    kind = torch.where(other, Ends._fields.index("other"), kind)
    return torch.where(own, Ends._fields.index("own"), kind)


def _distances(recalled: Tensor, patterns: Tensor) -> Tensor:
    """The share of entries that differ, (B, Q, T), for each of ``recalled`` (B, Q) + E and ``patterns`` (B, T) + E."""
    # one stored pattern at a time: (B, Q, T) + E may not fit into memory
    return torch.stack(
        [(recalled != pattern).double().flatten(2).mean(-1) for pattern in patterns.split(1, dim=1)], dim=-1
    )


def evaluate_attractors(
    machine: KanervaMachine,
    batches: Iterable[Tensor],
    damage: Damage,
    *,
    channel: Channel | None,
    num_steps: int = 30,
    threshold: float = 0.02,
    seed: int = 0,
    energy: Energy | None = None,
) -> Attractors:
    """Write each episode, query it from damaged copies of its patterns, and classify where the queries end.

    The shares are over the queries of all batches. The empty memory gets the same cues: its ends are what the decoder
    finds alone.

    :param damage: makes the cues, with random numbers from ``seed``. :func:`random_start` makes cues that have nothing
        to do with their patterns. Only chance decides then whether a stored pattern is the own one, and
        :attr:`Ends.stored` is the share that matters.
    :param channel: the channel of the query; ``None`` for the paper's dynamics.
    :param threshold: a query ends at a stored pattern if the share of entries that differ is below this, see
        :func:`classify_ends`.
    :param energy: the energy of the query, as for :meth:`Memory.query`.
    :raises ValueError: if there are no batches, the patterns do not fit the machine, or an argument is out of range.
    """
    check_positive("evaluate_attractors()", threshold=threshold)
    right, empty, converged, stays, errors, energies = [], [], [], [], [], []
    for index, patterns in enumerate(each_batch(machine, batches, "evaluate_attractors()")):
        memory = machine.write(patterns)
        cues = damage(patterns, cue_generator(patterns, seed, index))
        retrieval = memory.query(cues, num_steps=num_steps, channel=channel, energy=energy)
        control = empty_memory(memory).query(cues, num_steps=num_steps, channel=channel, energy=energy)
        from_stored = memory.query(patterns, num_steps=num_steps, energy=energy).patterns  # (S + 1, B, Q) + E
        right.append(classify_ends(retrieval.patterns[-1], patterns, threshold).flatten())
        empty.append(classify_ends(control.patterns[-1], patterns, threshold).flatten())
        converged.append(retrieval.converged.flatten())
        stays.append(((from_stored != patterns).double().flatten(3).mean(-1) < threshold).all(0).flatten())
        errors.append(entry_error(retrieval.patterns, patterns).mT)
        energies.append(retrieval.energy.mean(-1).mT)
    steps = range(num_steps + 1)
    return Attractors(
        _shares(torch.cat(right)),
        _shares(torch.cat(empty)),
        torch.cat(converged).double().mean().item(),
        torch.cat(stays).double().mean().item(),
        interval(steps, torch.cat(errors)),
        interval(steps, torch.cat(energies)),
    )


def _shares(kinds: Tensor) -> Ends:
    """The share of each index into the fields of :class:`Ends`."""
    counts = torch.bincount(kinds, minlength=len(Ends._fields))
    return Ends(*(count / len(kinds) for count in counts.tolist()))
