"""The Kanerva machines: the dynamic one, and the one of 2018."""

from pyro_kanerva.machine.machine import KanervaMachine
from pyro_kanerva.machine.machine_2018 import GaussianCode, kanerva_2018

__all__ = ["GaussianCode", "KanervaMachine", "kanerva_2018"]
