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
from pyro_kanerva.likelihoods import BernoulliLikelihood, CategoricalLikelihood, NormalLikelihood
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.memory import Memory, WriteRecord
from pyro_kanerva.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from pyro_kanerva.priors import GaussianAddress, GaussianMemory
from pyro_kanerva.readers import ExactReader, ScalarReader
from pyro_kanerva.retrieval import Retrieval
from pyro_kanerva.retrieval_model import retrieval_model
from pyro_kanerva.sampling import Draws
from pyro_kanerva.training import FitResult, fit
from pyro_kanerva.writers import OnlineWriter, WriteResult

__version__ = "0.1.0"

__all__ = [
    "BernoulliLikelihood",
    "Bound",
    "CategoricalLikelihood",
    "Channel",
    "ConvDecoder",
    "ConvEncoder",
    "Draws",
    "Episodes",
    "ExactReader",
    "FitResult",
    "Flip",
    "GaussianAddress",
    "GaussianMemory",
    "GaussianNoise",
    "Images",
    "KanervaMachine",
    "MLPDecoder",
    "MLPEncoder",
    "MatrixNormal",
    "Memory",
    "NormalLikelihood",
    "Occlusion",
    "OnlineWriter",
    "PointEnergy",
    "Replace",
    "Retrieval",
    "SaltAndPepper",
    "ScalarReader",
    "UnknownLevel",
    "VariationalEnergy",
    "Where",
    "WriteRecord",
    "WriteResult",
    "binarize",
    "fit",
    "glyphs",
    "load_images",
    "retrieval_model",
]
