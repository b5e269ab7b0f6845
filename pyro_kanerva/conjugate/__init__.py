r"""Closed-form addressing and writing in the linear-Gaussian surrogate of a Kanerva machine.

Generative surrogate, for codes ``z`` (C), addresses ``w`` (K) and a memory ``M`` (K, C)::

    M ~ MatrixNormal(R, U, I)        w ~ Normal(m, P^-1)        z | w, M ~ Normal(M^T w, sigma^2 I)

All functions are pure, batched over leading dimensions ``...`` and differentiable. They carry lower Cholesky
factors and never form a covariance by subtraction, so that covariances stay symmetric positive definite in
float32. Source: Wu et al. 2018 (arXiv 1811.09556), sections 3.1, 3.2 and the appendix on the online update.
"""

from pyro_kanerva.conjugate.bayes_update import block_update, coordinate_ascent_sweep, online_update
from pyro_kanerva.conjugate.exact_address_posterior import (
    AddressPosterior,
    address_mean,
    address_posterior,
    address_precision,
    code_information,
    mixture_address_posterior,
)
from pyro_kanerva.conjugate.factorization import cholesky, inverse_positive, precision_to_scale_tril
from pyro_kanerva.conjugate.natural_parameters import NaturalParameters, add_statistics, statistics
from pyro_kanerva.conjugate.sequence import write_sequence

__all__ = [
    "AddressPosterior", "NaturalParameters", "add_statistics", "address_mean", "address_posterior", "address_precision",
    "block_update", "cholesky", "code_information", "coordinate_ascent_sweep", "inverse_positive",
    "mixture_address_posterior", "online_update", "precision_to_scale_tril", "statistics", "write_sequence",
]  # fmt: skip
