"""Retrieval as an iterative posterior query whose energy never rises."""

from pyro_kanerva.retrieval.base import Energy, Retrieval
from pyro_kanerva.retrieval.energy import PointEnergy, VariationalEnergy

__all__ = ["Energy", "PointEnergy", "Retrieval", "VariationalEnergy"]
