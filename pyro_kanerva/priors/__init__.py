"""Priors of the memory and of the addresses, their Gaussian surrogates and their real coordinates."""

from pyro_kanerva.priors.address import (
    CategoricalAddress,
    GaussianAddress,
    HorseshoeAddress,
    LaplaceAddress,
    MixtureAddress,
    SimplexAddress,
    StudentTAddress,
)
from pyro_kanerva.priors.base import Prior, Surrogate, as_distribution, has_real_support, support_of
from pyro_kanerva.priors.coordinates import Coordinates, point_address, real_coordinates
from pyro_kanerva.priors.memory import GaussianMemory, HierarchicalMemory, LaplaceMemory, LowRankMemory, StudentTMemory
from pyro_kanerva.priors.moment_matching import exact_gaussian_or_none, moment_matched_address, moment_matched_memory

__all__ = [
    "CategoricalAddress", "Coordinates", "GaussianAddress", "GaussianMemory", "HierarchicalMemory", "HorseshoeAddress",
    "LaplaceAddress", "LaplaceMemory", "LowRankMemory", "MixtureAddress", "Prior", "SimplexAddress", "StudentTAddress",
    "StudentTMemory", "Surrogate", "as_distribution", "exact_gaussian_or_none", "has_real_support",
    "moment_matched_address", "moment_matched_memory", "point_address", "real_coordinates", "support_of",
]  # fmt: skip
