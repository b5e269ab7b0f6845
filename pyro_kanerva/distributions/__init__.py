"""Distributions that Pyro and torch do not provide."""

from pyro_kanerva.distributions.clamped_normal import NormalGivenClamped
from pyro_kanerva.distributions.gaussian_mixture import GaussianMixture
from pyro_kanerva.distributions.horseshoe import HorseshoeLike
from pyro_kanerva.distributions.logistic import AdditiveLogistic, DiscretizedLogistic, NoisyLevels
from pyro_kanerva.distributions.matrix_normal import MatrixNormal, kl_matrix_normal
from pyro_kanerva.distributions.shared_covariance import JitNormal, SharedCovarianceNormal

__all__ = [
    "AdditiveLogistic",
    "DiscretizedLogistic",
    "GaussianMixture",
    "HorseshoeLike",
    "JitNormal",
    "MatrixNormal",
    "NoisyLevels",
    "NormalGivenClamped",
    "SharedCovarianceNormal",
    "kl_matrix_normal",
]
