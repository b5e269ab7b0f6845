"""The protocols of likelihoods."""

from typing import Protocol, runtime_checkable

import pyro.distributions as dist
from torch import Tensor


class Likelihood(Protocol):
    """Any callable from decoder output to a Pyro distribution of the entries of a pattern.

    The machine declares the dimensions of a pattern as event dimensions. A likelihood may also be a
    :class:`ChecksPatterns`; otherwise every finite pattern is legal.
    """

    def __call__(self, output: Tensor, /) -> dist.TorchDistribution:
        """The distribution of the entries, for decoder outputs (N,) + output shape."""


@runtime_checkable
class ChecksPatterns(Protocol):
    """A likelihood that checks patterns."""

    def check_patterns(self, patterns: Tensor, label: str) -> None:
        """:raises ValueError: if entries of ``patterns`` lie outside the support; ``label`` begins the message."""
