"""Recall as a function of the number of stored patterns, and of the damage of a cue."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel, Damage, Flip
from pyro_kanerva.datasets import Episodes
from pyro_kanerva.evaluation.curve import Curve, interval, join
from pyro_kanerva.evaluation.recall import cue_generator, each_batch, evaluate_recall
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
    """Recall and bound as functions of the number T of patterns in one memory.

    :param images: as for :class:`Episodes`.
    :param lengths: values of T, at most the number of images. T may exceed the length of the training episodes.
    :param num_episodes: the number of episodes per T, at most as many as the images fill.
    :return: the curves "recall", the error after 10 steps, and "negative bound" and "negative conditional bound", in
        nats per pattern.
    """
    points: dict[str, list[Curve]] = {"recall": [], "negative bound": [], "negative conditional bound": []}
    for length in lengths:
        episodes = Episodes(images, length, min(num_episodes, len(images) // length), seed=seed)
        patterns = episodes[0].to(machine.log_code_scale)
        error = evaluate_recall(machine, [patterns], damage, channel=channel, seed=seed)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            bound = machine.bound(patterns)
        results = (error.errors[:, -1], -bound.bound, -bound.conditional_bound)  # each (episodes,)
        for curve, values in zip(points.values(), results, strict=True):
            curve.append(interval([length], values.unsqueeze(-1)))
    return {name: join(curve) for name, curve in points.items()}


def evaluate_basins(
    machine: KanervaMachine,
    batches: Iterable[Tensor],
    levels: Sequence[float],
    *,
    with_channel: bool = True,
    threshold: float = 0.02,
    seed: int = 0,
) -> Curve:
    """The share of queries that recall the stored pattern, as a function of the flip probability of their cues.

    :param levels: flip probabilities.
    :param with_channel: True if the query uses the channel ``Flip(level)``, False if it uses none.
    :param threshold: a query has recalled its pattern if its share of wrong entries is below this.
    """
    batches = list(each_batch(machine, batches, "evaluate_basins()"))
    shares = []  # for each level: the share of each episode
    for level in levels:
        channel, share = Flip(level), []
        for index, patterns in enumerate(batches):
            cues = channel(patterns, cue_generator(patterns, seed, index))
            recalled = machine.write(patterns).query(cues, channel=channel if with_channel else None).patterns[-1]
            wrong = (recalled != patterns).double().flatten(2).mean(-1)  # (B, Q)
            share.append((wrong < threshold).double().mean(-1))
        shares.append(torch.cat(share))
    return interval(levels, torch.stack(shares, -1))
