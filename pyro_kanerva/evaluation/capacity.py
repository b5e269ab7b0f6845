"""Recall as a function of the number of stored patterns, and of the damage of a cue."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel, Damage, Flip
from pyro_kanerva.datasets import Episodes
from pyro_kanerva.evaluation.control import empty_memory, memory_gain, roll
from pyro_kanerva.evaluation.curve import Curve, interval, join
from pyro_kanerva.evaluation.recall import RecallError, cue_generator, each_batch, recall_errors
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
    """Recall, its control, and the bound as functions of the number T of patterns in one memory.

    "memory gain" is the mean error with the empty memory over that with the right one. Its interval is that of a ratio
    of means: the standard error of ``(empty - gain * right) / mean(right)`` over episodes.

    :param images: as for :class:`Episodes`.
    :param lengths: values of T, at most the number of images. T may exceed the length of the training episodes.
    :param num_episodes: the number of episodes per T, at most as many as the images fill.
    :return: the curves "recall", "recall, other memory" and "recall, empty memory", the errors after 10 steps;
        "memory gain"; and "negative bound" and "negative conditional bound", in nats per pattern. The curve of the
        other memory has no point where the images fill a single episode.
    :raises ValueError: if there are no lengths, or one is below 1 or above the number of images.
    """
    if not lengths or not 1 <= min(lengths) <= max(lengths) <= len(images):
        raise ValueError(f"evaluate_capacity(): lengths are {list(lengths)}; expected numbers from 1 to {len(images)}.")
    names = ("recall", "recall, other memory", "recall, empty memory", "memory gain")
    points: dict[str, list[Curve]] = {name: [] for name in (*names, "negative bound", "negative conditional bound")}
    for length in lengths:
        episodes = Episodes(images, length, min(num_episodes, len(images) // length), seed=seed)
        patterns = episodes[0].to(machine.log_code_scale)
        memory = machine.write(patterns)
        memories = {"recall": memory, "recall, empty memory": empty_memory(memory)}
        if len(patterns) > 1:
            memories["recall, other memory"] = roll(memory)
        found = recall_errors([(patterns, list(memories.values()))], damage, channel, seed=seed)
        errors = dict(zip(memories, found, strict=True))
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(seed)
            bound = machine.bound(patterns)
        values = {name: error.errors[:, -1] for name, error in errors.items()}  # each (episodes,)
        values |= {"negative bound": -bound.bound, "negative conditional bound": -bound.conditional_bound}
        for name, value in values.items():
            points[name].append(interval([length], value.unsqueeze(-1)))
        points["memory gain"].append(_gain_point(length, errors["recall"], errors["recall, empty memory"]))
    return {name: join(curve) for name, curve in points.items()}


def _gain_point(length: int, right: RecallError, empty: RecallError) -> Curve:
    gain = memory_gain(right, empty)
    with_memory, without = right.errors[:, -1], empty.errors[:, -1]
    if not with_memory.any():
        return Curve([float(length)], [gain], [gain], [gain])
    # An episode without an error has no finite ratio of its own, but its part in the ratio of means is finite.
    return interval([length], (gain + (without - gain * with_memory) / with_memory.mean()).unsqueeze(-1))


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
    :raises ValueError: if there are no batches or no levels.
    """
    if not levels:
        raise ValueError("evaluate_basins(): levels is empty; expected at least one flip probability.")
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
