"""Channels p(c | x): how a cue c arises from a pattern x.

A channel damages patterns. It also combines a cue with the memory's prediction of x: it gives the posterior p(x | c)
and the evidence log p(c), exact for every entry. An object with these two methods is a channel, see :class:`Channel`.
"""

from pyro_kanerva.channels.base import Channel, Damage, check_channel, check_entries, log_evidence_of, posterior_of
from pyro_kanerva.channels.clamped import ClampedGaussianNoise
from pyro_kanerva.channels.composed import Occlusion, UnknownLevel, Where, has_real_cues, has_unknown_level, resolve
from pyro_kanerva.channels.noise import Flip, GaussianNoise, Replace, SaltAndPepper

__all__ = [
    "Channel", "ClampedGaussianNoise", "Damage", "Flip", "GaussianNoise", "Occlusion", "Replace", "SaltAndPepper",
    "UnknownLevel", "Where",
    "check_channel", "check_entries", "has_real_cues", "has_unknown_level", "log_evidence_of", "posterior_of",
    "resolve",
]  # fmt: skip
