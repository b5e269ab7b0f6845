"""Recall by the number of stored patterns, and by the distance of a cue from its pattern."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel, Damage, Flip
from pyro_kanerva.datasets import Episodes
from pyro_kanerva.evaluation.curve import Curve, interval, join
from pyro_kanerva.evaluation.recall import cue_generator, evaluate_recall
from pyro_kanerva.machine import KanervaMachine


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
    with_channel: bool = True,
    threshold: float = 0.02,
    seed: int = 0,
) -> Curve:
    """The share of cues that reach the stored pattern, by the share of entries that were flipped.

    :param levels: probabilities of a flip.
    :param with_channel: whether the query has the channel of the flips, or none.
    :param threshold: the largest share of wrong entries of a pattern that counts as reached.
    """
    batches = [machine.with_episodes(patterns, "evaluate_basins()") for patterns in batches]
    reached = []
    for level in levels:
        channel, shares = Flip(level), []
        for number, patterns in enumerate(batches):
            cues = channel(patterns, cue_generator(patterns, seed, number))
            recalled = machine.write(patterns).query(cues, channel=channel if with_channel else None).patterns[-1]
            wrong = (recalled != patterns).double().flatten(2).mean(-1)  # (B, Q)
            shares.append((wrong < threshold).double().mean(-1))
        reached.append(torch.cat(shares))
    return interval(levels, torch.stack(reached, -1))
