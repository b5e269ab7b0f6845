"""Generative memory with attractor dynamics: the Dynamic Kanerva Machine in Pyro."""

from pyro_kanerva.channels import (
    Channel,
    ClampedGaussianNoise,
    Flip,
    GaussianNoise,
    Occlusion,
    Replace,
    SaltAndPepper,
    UnknownLevel,
    Where,
)
from pyro_kanerva.datasets import Episodes, Images, binarize, glyphs, load_images
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.likelihoods import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    NormalLikelihood,
)
from pyro_kanerva.machine import GaussianCode, KanervaMachine, kanerva_2018
from pyro_kanerva.memory import Draws, Identification, Memory, Recognition, StreamRecord, WriteRecord, retrieval_model
from pyro_kanerva.model import Bound
from pyro_kanerva.networks import ConvDecoder, ConvEncoder, LinearEncoder, MLPDecoder, MLPEncoder, ShortcutDecoder
from pyro_kanerva.priors import (
    CategoricalAddress,
    GaussianAddress,
    GaussianMemory,
    HierarchicalMemory,
    HorseshoeAddress,
    LaplaceAddress,
    LaplaceMemory,
    LowRankMemory,
    MixtureAddress,
    SimplexAddress,
    StudentTAddress,
    StudentTMemory,
    Surrogate,
)
from pyro_kanerva.readers import AmortizedReader, ExactReader, LaplaceReader, MixtureReader, ScalarReader, SlotReader
from pyro_kanerva.retrieval import PointEnergy, Retrieval, VariationalEnergy
from pyro_kanerva.runs import Run, load_run
from pyro_kanerva.training import FitResult, FitStep, fit
from pyro_kanerva.weights import pretrained, pretrained_card
from pyro_kanerva.writers import (
    AmortizedWriter,
    FrameWriter,
    MixtureWriter,
    OnlineWriter,
    PseudoInverseWriter,
    ReadingWriter,
    SlotWriter,
    WriteResult,
)

__version__ = "0.1.0"

__all__ = [
    "AmortizedReader", "AmortizedWriter", "BernoulliLikelihood", "Bound", "CategoricalAddress", "CategoricalLikelihood",
    "Channel", "ClampedGaussianNoise", "ConvDecoder", "ConvEncoder", "DiscretizedLogisticLikelihood", "Draws",
    "Episodes", "ExactReader",
    "FitResult", "FitStep", "Flip", "FrameWriter", "GaussianAddress", "GaussianCode", "GaussianMemory", "GaussianNoise",
    "HierarchicalMemory", "HorseshoeAddress", "Identification", "Images", "KanervaMachine", "LaplaceAddress",
    "LaplaceMemory", "LaplaceReader", "LinearEncoder", "LowRankMemory", "MLPDecoder", "MLPEncoder", "MatrixNormal",
    "Memory", "MixtureAddress", "MixtureReader", "MixtureWriter", "NormalLikelihood", "Occlusion", "OnlineWriter",
    "PointEnergy", "PseudoInverseWriter", "ReadingWriter", "Recognition", "Replace", "Retrieval", "Run",
    "SaltAndPepper", "ScalarReader", "ShortcutDecoder", "SimplexAddress", "SlotReader", "SlotWriter", "StreamRecord",
    "StudentTAddress", "StudentTMemory", "Surrogate", "UnknownLevel", "VariationalEnergy", "Where", "WriteRecord",
    "WriteResult", "binarize", "fit", "glyphs", "kanerva_2018", "load_images", "load_run", "pretrained",
    "pretrained_card", "retrieval_model",
]  # fmt: skip
