"""Writers: the guide q(M) of the memory, given the codes of an episode."""

from pyro_kanerva.writers.amortized import AmortizedWriter
from pyro_kanerva.writers.base import Writer, WriteResult, check_continues, continues, needs_distinct_slots
from pyro_kanerva.writers.frame import FrameWriter
from pyro_kanerva.writers.online import OnlineWriter, write_in_blocks
from pyro_kanerva.writers.pseudo_inverse import PseudoInverseWriter
from pyro_kanerva.writers.reading import ReadingWriter
from pyro_kanerva.writers.slots import MixtureWriter, SlotWriter

__all__ = [
    "AmortizedWriter", "FrameWriter", "MixtureWriter", "OnlineWriter", "PseudoInverseWriter", "ReadingWriter",
    "SlotWriter", "WriteResult", "Writer", "check_continues", "continues", "needs_distinct_slots", "write_in_blocks",
]  # fmt: skip
