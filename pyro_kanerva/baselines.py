"""What retrieval is compared with: memories and networks without a Kanerva machine's memory.

Each takes cues (B, Q) + E, and returns recalled binary patterns of equal shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyro_kanerva.machine import KanervaMachine


@torch.no_grad()
def autoencoder(machine: KanervaMachine, cues: Tensor) -> Tensor:
    """Encoder and decoder alone: the mode of ``p(x | decoder(encoder(c)))``."""
    return (machine.decode(machine.encode(cues), tuple(cues.shape[2:])).mean > 0.5).to(cues.dtype)


def nearest_pattern(stored: Tensor, cues: Tensor) -> Tensor:
    """The stored pattern (B, T) + E with the fewest differing entries: an oracle that keeps all of them."""
    return _take(stored, _agreement(stored, cues).argmax(-1))


def hopfield(stored: Tensor, cues: Tensor, flip_probability: float, num_steps: int = 1) -> Tensor:
    r"""A modern Hopfield network that holds binary ``stored`` (B, T) + E, updated ``num_steps`` times.

    With entries of -1 and 1::

        x <- sign(softmax(beta c X^T) X),    beta = 1/2 log((1 - f) / f)

    At this beta the softmax is the posterior over the stored patterns of a cue whose entries are flipped
    with probability f.

    :raises ValueError: if ``flip_probability`` is outside (0, 1/2).

    Source: Ramsauer et al. 2021 (arXiv 2008.02217), equation 3.
    """
    if not 0 < flip_probability < 0.5:
        raise ValueError(f"hopfield(): flip_probability is {flip_probability}; expected a number in (0, 1/2).")
    beta = 0.5 * math.log((1 - flip_probability) / flip_probability)
    state = cues
    for _ in range(num_steps):
        weights = (beta * _agreement(stored, state)).softmax(-1)  # (B, Q, T)
        mean = (weights @ stored.flatten(2)).view(cues.shape)
        state = (mean > 0.5).to(cues.dtype)
    return state


def _agreement(stored: Tensor, cues: Tensor) -> Tensor:
    """Equal less unequal entries of each cue and each stored pattern, (B, Q, T)."""
    return (2 * cues.flatten(2) - 1) @ (2 * stored.flatten(2) - 1).mT


def _take(stored: Tensor, index: Tensor) -> Tensor:
    return stored[torch.arange(len(stored), device=stored.device).unsqueeze(-1), index]
