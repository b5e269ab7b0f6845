"""Retrieval as an iterative posterior query whose energy never rises."""

from pyro_kanerva.retrieval.base import Energy
from pyro_kanerva.retrieval.energy import PointEnergy, VariationalEnergy
from pyro_kanerva.retrieval.result import Retrieval

__all__ = ["Energy", "PointEnergy", "Retrieval", "VariationalEnergy"]
