"""What a likelihood is, and what it may add."""

from typing import Protocol, runtime_checkable

import pyro.distributions as dist
from torch import Tensor


class Likelihood(Protocol):
    """Any callable from decoder output to a Pyro distribution of the entries of a pattern.

    The machine declares the dimensions of a pattern as event dimensions. A likelihood may also say which patterns
    are legal, see :class:`ChecksPatterns`. Without that, every finite pattern is legal.
    """

    def __call__(self, output: Tensor, /) -> dist.TorchDistribution:
        """The distribution of the entries, for the decoder's output (N,) + its shape."""


@runtime_checkable
class ChecksPatterns(Protocol):
    """A likelihood that says which patterns are legal."""

    def check_patterns(self, patterns: Tensor, label: str) -> None:
        """:raises ValueError: if entries of ``patterns`` lie outside of the support; ``label`` begins the message."""
