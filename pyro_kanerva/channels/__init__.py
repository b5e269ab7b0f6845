r"""Channels: how a cue c comes from a pattern x, p(c | x).

A channel damages patterns, and tells what a cue says about an entry that the memory predicts: the
posterior p(x | c) and the evidence log p(c), exact, entry by entry. Two methods make a channel of your
own, see :class:`Channel`.
"""

from pyro_kanerva.channels.composed import Occlusion, UnknownLevel, Where, fit, has_unknown_level
from pyro_kanerva.channels.noise import Channel, Flip, GaussianNoise, Replace, SaltAndPepper

__all__ = [
    "Channel",
    "Flip",
    "GaussianNoise",
    "Occlusion",
    "Replace",
    "SaltAndPepper",
    "UnknownLevel",
    "Where",
    "fit",
    "has_unknown_level",
]
