"""The protocol of readers."""

from typing import Protocol

import pyro.distributions as dist
from torch import Tensor


class Reader(Protocol):
    """Any callable of this signature; it gives q(w | x, M), the guide of the address."""

    def __call__(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor, /
    ) -> dist.TorchDistribution:
        """q(w | x, M) for ``codes`` (..., T, C) of the patterns and a memory ``matrix`` M (..., K, C).

        The result has batch shape (..., T), event shape (K,) and the support of ``address_prior``. Leading dimensions
        of codes and matrix broadcast. ``code_scale`` is sigma, a standard deviation, shape ().
        """
