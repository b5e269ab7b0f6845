"""Readers in closed form, for Gaussian and one-hot address priors."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_positive
from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate import address_posterior, mixture_address_posterior
from pyro_kanerva.distributions import GaussianMixture, SharedCovarianceNormal
from pyro_kanerva.priors import moment_matched_address


class ExactReader(nn.Module):
    """The exact posterior in the linear-Gaussian surrogate ``z ~ Normal(M^T w, sigma^2 I)``.

    ::

        q(w | x, M) = Normal(A^-1 (P m + M z / sigma^2), A^-1),      A = P + M M^T / sigma^2

    for an address prior of mean m and precision P. See :func:`pyro_kanerva.conjugate.address_posterior`.
    """

    def forward(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """``MultivariateNormal`` of batch shape (..., T) and event shape (K,)."""
        prior_loc, prior_precision = moment_matched_address(address_prior)
        q = address_posterior(codes, matrix, code_scale, prior_loc=prior_loc, prior_precision=prior_precision)
        return SharedCovarianceNormal(q.loc, q.scale_tril, validate_args=False)


class ScalarReader(nn.Module):
    """The exact mean, and one learned standard deviation, initially ``scale``, for all slots and patterns.

    This is the reader of the paper: Wu et al. 2018 (arXiv 1811.09556), section 3.2.

    :raises ValueError: if ``scale`` is not positive.
    """

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        check_positive("ScalarReader", scale=scale)
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def forward(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """Independent ``Normal`` of batch shape (..., T) and event shape (K,)."""
        prior_loc, prior_precision = moment_matched_address(address_prior)
        loc = address_posterior(codes, matrix, code_scale, prior_loc=prior_loc, prior_precision=prior_precision).loc
        return dist.Normal(loc, self.log_scale.exp(), validate_args=False).to_event(1)


class MixtureReader(nn.Module):
    """The exact posterior under a mixture prior, see :func:`pyro_kanerva.conjugate.mixture_address_posterior`."""

    def forward(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> GaussianMixture:
        """``GaussianMixture`` of batch shape (..., T) and event shape (K,).

        :raises ValueError: if the prior is not a ``GaussianMixture``.
        """
        if not isinstance(address_prior, GaussianMixture):
            raise ValueError(
                f"MixtureReader: the address prior is {type(address_prior).__name__}; expected a GaussianMixture, as "
                "MixtureAddress(num_slots) returns."
            )
        return mixture_address_posterior(codes, matrix, code_scale, address_prior)


class SlotReader(nn.Module):
    """The exact posterior of a one-hot address in the surrogate ``z ~ Normal(M^T w, sigma^2 I)``.

    ::

        q(w = e_k | x, M) is proportional to p(e_k) Normal(z; M[k], sigma^2 I)
    """

    @full_precision
    def forward(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.OneHotCategorical:
        """``OneHotCategorical`` of batch shape (..., T) and event shape (K,).

        :raises ValueError: if the prior is not a ``OneHotCategorical``.
        """
        if not isinstance(address_prior, dist.OneHotCategorical):
            raise ValueError(
                f"SlotReader: the address prior is {type(address_prior).__name__}; expected a OneHotCategorical, as "
                "CategoricalAddress(num_slots) returns."
            )
        # sigma^2 log Normal(z; M[k], sigma^2 I), without the terms that all slots share
        log_likelihood = codes @ matrix.mT - 0.5 * matrix.square().sum(-1).unsqueeze(-2)
        return dist.OneHotCategorical(logits=address_prior.logits + log_likelihood / code_scale**2, validate_args=False)
