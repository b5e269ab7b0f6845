"""Trained machines as single files, and those that come with the package."""

from pyro_kanerva.weights.build import ADDRESS_PRIORS, NETWORKS, build_machine
from pyro_kanerva.weights.files import NAMES, export_machine, pretrained, pretrained_card

__all__ = ["ADDRESS_PRIORS", "NAMES", "NETWORKS", "build_machine", "export_machine", "pretrained", "pretrained_card"]
