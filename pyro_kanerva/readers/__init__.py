"""Readers: the guide q(w | x, M) of the address of a pattern, given the memory."""

from pyro_kanerva.readers.amortized import AmortizedReader, apply_network
from pyro_kanerva.readers.base import Reader
from pyro_kanerva.readers.exact import ExactReader, MixtureReader, ScalarReader, SlotReader
from pyro_kanerva.readers.laplace import LaplaceReader

__all__ = [
    "AmortizedReader", "ExactReader", "LaplaceReader", "MixtureReader", "Reader", "ScalarReader", "SlotReader",
    "apply_network",
]  # fmt: skip
