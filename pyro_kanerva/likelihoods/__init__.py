"""Likelihoods: the distribution of a pattern given the output of the decoder."""

from pyro_kanerva.likelihoods.base import Likelihood
from pyro_kanerva.likelihoods.families import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    NormalLikelihood,
)
from pyro_kanerva.likelihoods.point_estimates import expected_and_mode, joint_mode, mean_and_mode

__all__ = [
    "BernoulliLikelihood", "CategoricalLikelihood", "DiscretizedLogisticLikelihood", "Likelihood", "NormalLikelihood",
    "expected_and_mode", "joint_mode", "mean_and_mode",
]  # fmt: skip
