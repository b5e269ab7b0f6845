"""Priors of the memory and of the addresses, and the Gaussians that stand for them in the guide.

A prior is a callable without arguments that returns a Pyro distribution, of event shape (K, C) for a
memory and (K,) for an address, or such a distribution itself. Those below are modules with learned
parameters.
"""

from pyro_kanerva.priors.address import (
    CategoricalAddress,
    GaussianAddress,
    HorseshoeAddress,
    LaplaceAddress,
    SimplexAddress,
    StudentTAddress,
)
from pyro_kanerva.priors.memory import (
    GaussianMemory,
    HierarchicalMemory,
    LaplaceMemory,
    LowRankMemory,
    StudentTMemory,
)
from pyro_kanerva.priors.surrogates import (
    Coordinates,
    Prior,
    Surrogate,
    as_distribution,
    as_gaussian,
    coordinates,
    divergence,
    gaussian_address,
    gaussian_memory,
    is_real,
    point_address,
    support_of,
)

__all__ = [
    "CategoricalAddress",
    "Coordinates",
    "GaussianAddress",
    "GaussianMemory",
    "HierarchicalMemory",
    "HorseshoeAddress",
    "LaplaceAddress",
    "LaplaceMemory",
    "LowRankMemory",
    "Prior",
    "SimplexAddress",
    "StudentTAddress",
    "StudentTMemory",
    "Surrogate",
    "as_distribution",
    "as_gaussian",
    "coordinates",
    "divergence",
    "gaussian_address",
    "gaussian_memory",
    "is_real",
    "point_address",
    "support_of",
]
