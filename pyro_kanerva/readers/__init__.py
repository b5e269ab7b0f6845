"""Readers: how a cue becomes q(w | x, M), the guide of its address."""

from pyro_kanerva.readers.amortized import AmortizedReader, apply_network
from pyro_kanerva.readers.base import Reader
from pyro_kanerva.readers.default import reader_for
from pyro_kanerva.readers.exact import ExactReader, ScalarReader
from pyro_kanerva.readers.laplace import LaplaceReader
from pyro_kanerva.readers.slots import SlotReader

__all__ = [
    "AmortizedReader",
    "ExactReader",
    "LaplaceReader",
    "Reader",
    "ScalarReader",
    "SlotReader",
    "apply_network",
    "reader_for",
]
