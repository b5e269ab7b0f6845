"""The model and its guide: the parts of a machine, the Pyro programs that they make, and their bound."""

from pyro_kanerva.model.bound import Bound
from pyro_kanerva.model.parts import Parts
from pyro_kanerva.model.program import InParamStore, Program

__all__ = ["Bound", "InParamStore", "Parts", "Program"]
