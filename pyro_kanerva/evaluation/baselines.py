"""Baselines for recall. Each maps cues (B, Q) + E to recalled binary patterns of equal shape."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from pyro_kanerva.channels import Damage
from pyro_kanerva.evaluation.recall import cue_generator, each_batch, entry_error
from pyro_kanerva.machine import KanervaMachine


@torch.no_grad()
def autoencoder(machine: KanervaMachine, cues: Tensor) -> Tensor:
    """Encoder and decoder without a memory: the mode of ``p(x | decoder(encoder(c)))``."""
    return (machine.decode(machine.encode(cues), tuple(cues.shape[2:])).mean > 0.5).to(cues.dtype)


def nearest_pattern(stored: Tensor, cues: Tensor) -> Tensor:
    """The pattern among ``stored`` (B, T) + E with the fewest differing entries; this memory holds exact copies."""
    episode = torch.arange(len(stored), device=stored.device).unsqueeze(-1)
    return stored[episode, _agreement(stored, cues).argmax(-1)]


def hopfield(stored: Tensor, cues: Tensor, flip_probability: float, num_steps: int = 1) -> Tensor:
    """A modern Hopfield network that holds binary ``stored`` (B, T) + E, updated ``num_steps`` times.

    With entries of -1 and 1::

        x <- sign(softmax(beta x X^T) X),    beta = 1/2 log((1 - f) / f)

    At this beta the softmax is the posterior over the stored patterns, given a cue whose entries are flipped with
    probability f. Source: Ramsauer et al. 2021 (arXiv 2008.02217), equation 3.

    :raises ValueError: if ``flip_probability`` is outside (0, 1/2).
    """
    if not 0 < flip_probability < 0.5:
        raise ValueError(f"hopfield(): flip_probability is {flip_probability}; expected a number in (0, 1/2).")
    beta = 0.5 * math.log((1 - flip_probability) / flip_probability)
    state = cues
    for _ in range(num_steps):
        weights = (beta * _agreement(stored, state)).softmax(-1)  # (B, Q, T)
        mean = (weights @ stored.flatten(2)).view(cues.shape)  # in entries of 0 and 1: the sign becomes > 1/2
        state = (mean > 0.5).to(cues.dtype)
    return state


def _agreement(stored: Tensor, cues: Tensor) -> Tensor:
    """The number of equal entries minus that of unequal ones, for each cue and stored pattern, (B, Q, T)."""
    return (2 * cues.flatten(2) - 1) @ (2 * stored.flatten(2) - 1).mT


def evaluate_baselines(
    machine: KanervaMachine, batches: Iterable[Tensor], damage: Damage, flip_probability: float, *, seed: int = 0
) -> dict[str, float]:
    """The mean error of each baseline on the same cues as :func:`evaluate_recall`.

    The baselines are: :meth:`Memory.read`, which is one step; encoder and decoder without a memory; the nearest stored
    pattern; a modern Hopfield network that holds all patterns, and one with as many as fit into K x C numbers.

    :param flip_probability: the probability that ``damage`` flips an entry, used by the Hopfield networks.
    """
    errors: dict[str, list[Tensor]] = {}
    for index, patterns in enumerate(each_batch(machine, batches, "evaluate_baselines()")):
        cues = damage(patterns, cue_generator(patterns, seed, index))
        fits = max(1, machine.num_slots * machine.code_size // patterns[0, 0].numel())  # patterns in K x C numbers
        recalled = {
            "one-step read": (machine.write(patterns).read(cues) > 0.5).to(cues.dtype),
            "encoder and decoder": autoencoder(machine, cues),
            "nearest stored pattern": nearest_pattern(patterns, cues),
            "Hopfield network, all patterns": hopfield(patterns, cues, flip_probability),
            f"Hopfield network, as large as the memory ({fits} patterns)": hopfield(
                patterns[:, :fits], cues, flip_probability
            ),
        }
        for name, pattern in recalled.items():
            errors.setdefault(name, []).append(entry_error(pattern, patterns))
    return {name: torch.cat(values).mean().item() for name, values in errors.items()}
