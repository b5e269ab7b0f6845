"""Generative memory with attractor dynamics: the Dynamic Kanerva Machine in Pyro."""

from pyro_kanerva.bound import Bound
from pyro_kanerva.channels import (
    Channel,
    Flip,
    GaussianNoise,
    Occlusion,
    Replace,
    SaltAndPepper,
    UnknownLevel,
    Where,
)
from pyro_kanerva.datasets import Episodes, Images, binarize, glyphs, load_images
from pyro_kanerva.energies import PointEnergy, VariationalEnergy
from pyro_kanerva.kanerva_2018 import GaussianCode, kanerva_2018
from pyro_kanerva.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    NormalLikelihood,
)
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.memory import Memory
from pyro_kanerva.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from pyro_kanerva.priors import (
    CategoricalAddress,
    GaussianAddress,
    GaussianMemory,
    HierarchicalMemory,
    HorseshoeAddress,
    LaplaceAddress,
    LaplaceMemory,
    LowRankMemory,
    SimplexAddress,
    StudentTAddress,
    StudentTMemory,
    Surrogate,
)
from pyro_kanerva.readers import AmortizedReader, ExactReader, LaplaceReader, ScalarReader, SlotReader
from pyro_kanerva.records import StreamRecord, WriteRecord
from pyro_kanerva.retrieval import Retrieval
from pyro_kanerva.retrieval_model import retrieval_model
from pyro_kanerva.sampling import Draws
from pyro_kanerva.training import FitResult, fit
from pyro_kanerva.writers import (
    AmortizedWriter,
    FrameWriter,
    OnlineWriter,
    PseudoInverseWriter,
    ReadingWriter,
    RefinedWriter,
    SlotWriter,
    WriteResult,
)

__version__ = "0.1.0"

__all__ = [
    "AmortizedReader",
    "AmortizedWriter",
    "BernoulliLikelihood",
    "Bound",
    "CategoricalAddress",
    "CategoricalLikelihood",
    "Channel",
    "ConvDecoder",
    "ConvEncoder",
    "DiscretizedLogisticLikelihood",
    "Draws",
    "Episodes",
    "ExactReader",
    "FitResult",
    "Flip",
    "FrameWriter",
    "GaussianAddress",
    "GaussianCode",
    "GaussianMemory",
    "GaussianNoise",
    "HierarchicalMemory",
    "HorseshoeAddress",
    "Images",
    "KanervaMachine",
    "LaplaceAddress",
    "LaplaceMemory",
    "LaplaceReader",
    "LowRankMemory",
    "MLPDecoder",
    "MLPEncoder",
    "MatrixNormal",
    "Memory",
    "NormalLikelihood",
    "Occlusion",
    "OnlineWriter",
    "PointEnergy",
    "PseudoInverseWriter",
    "ReadingWriter",
    "RefinedWriter",
    "Replace",
    "Retrieval",
    "SaltAndPepper",
    "ScalarReader",
    "SimplexAddress",
    "SlotReader",
    "SlotWriter",
    "StreamRecord",
    "StudentTAddress",
    "StudentTMemory",
    "Surrogate",
    "UnknownLevel",
    "VariationalEnergy",
    "Where",
    "WriteRecord",
    "WriteResult",
    "binarize",
    "fit",
    "glyphs",
    "kanerva_2018",
    "load_images",
    "retrieval_model",
]
