"""The stored memory: what was written, and what can be asked of it."""

from pyro_kanerva.memory.memory import Memory
from pyro_kanerva.memory.query_model import retrieval_model
from pyro_kanerva.memory.recognition import Identification, Recognition, recognize_scores
from pyro_kanerva.memory.records import Record, StreamRecord, WriteRecord
from pyro_kanerva.memory.sampling import Draws

__all__ = [
    "Draws", "Identification", "Memory", "Recognition", "Record", "StreamRecord", "WriteRecord", "recognize_scores",
    "retrieval_model",
]  # fmt: skip
