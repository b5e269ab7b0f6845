"""Trained machines as single files, and those that come with the package."""

from pyro_kanerva.weights.build import (
    ADDED_KEYS,
    ADDRESS_PRIORS,
    LIKELIHOODS,
    MIXING_PRIORS,
    NETWORKS,
    WRITERS,
    build_machine,
)
from pyro_kanerva.weights.files import NAMES, export_machine, pretrained, pretrained_card

__all__ = [
    "ADDED_KEYS", "ADDRESS_PRIORS", "LIKELIHOODS", "MIXING_PRIORS", "NAMES", "NETWORKS", "WRITERS", "build_machine",
    "export_machine", "pretrained", "pretrained_card",
]  # fmt: skip
