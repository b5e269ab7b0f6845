"""The reader of a slot memory."""

from __future__ import annotations

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_kanerva._precision import full_precision


class SlotReader(nn.Module):
    """Exact enumeration of the slots, for a one-hot address: the posterior in the surrogate.

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
        log_likelihood = codes @ matrix.mT - 0.5 * matrix.square().sum(-1).unsqueeze(-2)  # up to a constant
        return dist.OneHotCategorical(logits=address_prior.logits + log_likelihood / code_scale**2, validate_args=False)
