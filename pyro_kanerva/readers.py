"""Readers: how a cue becomes q(w | x, M), the guide of its address.

A reader is any callable ``(codes (..., T, C), memory (..., K, C), address_prior, code_scale)`` that
returns a Pyro distribution of batch shape ``(..., T)`` and event shape ``(K,)``.
"""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva.conjugate import address_posterior
from pyro_kanerva.priors import gaussian_address


class ExactReader(nn.Module):
    """The exact posterior in the linear-Gaussian surrogate, ``A = P + M M^T / sigma^2``.

    ::

        q(w | x, M) = Normal(A^-1 (P m + M z / sigma^2), A^-1)

    for an address prior of mean ``m`` and precision ``P``. See
    :func:`pyro_kanerva.conjugate.address_posterior`.
    """

    def forward(
        self, codes: Tensor, memory: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """``MultivariateNormal`` of batch shape (..., T) and event shape (K,)."""
        prior_loc, prior_precision = gaussian_address(address_prior)
        loc, scale_tril = address_posterior(
            codes, memory, code_scale, prior_loc=prior_loc, prior_precision=prior_precision
        )
        return dist.MultivariateNormal(loc, scale_tril=scale_tril.unsqueeze(-3), validate_args=False)


class ScalarReader(nn.Module):
    """The paper's reader: the exact mean, and one learned standard deviation for all slots and patterns.

    :param scale: where the standard deviation starts, a positive number.
    :raises ValueError: if ``scale`` is not positive.

    Source: Wu et al. 2018 (arXiv 1811.09556), section 3.2.
    """

    def __init__(self, scale: float = 0.3) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"ScalarReader: scale is {scale}; expected a positive standard deviation.")
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def forward(
        self, codes: Tensor, memory: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """Independent ``Normal`` of batch shape (..., T) and event shape (K,)."""
        prior_loc, prior_precision = gaussian_address(address_prior)
        loc = address_posterior(codes, memory, code_scale, prior_loc=prior_loc, prior_precision=prior_precision).loc
        return dist.Normal(loc, self.log_scale.exp(), validate_args=False).to_event(1)
