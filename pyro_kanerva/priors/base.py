"""The protocols of priors."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

from pyro_kanerva.distributions import MatrixNormal

#: A Pyro distribution without a batch, or a callable without arguments that returns one. The event shape is (K, C) for
#: a memory and (K,) for an address. A memory prior may also be a :class:`HasSurrogate`.
Prior = dist.TorchDistribution | Callable[[], dist.TorchDistribution]


@runtime_checkable
class HasSurrogate(Protocol):
    """A memory prior with its own Gaussian surrogate, from which the writer starts."""

    def surrogate(self) -> MatrixNormal:
        """A :class:`MatrixNormal` of event shape (K, C) with independent columns of unit scale."""


def as_distribution(prior: Prior) -> dist.TorchDistribution:
    """``prior`` itself if it is a distribution, else what it returns."""
    return prior if isinstance(prior, torch.distributions.Distribution) else prior()


def support_of(distribution: dist.TorchDistribution) -> constraints.Constraint:
    """The support without the wrappers of ``Independent`` and of mixtures."""
    support: Any = distribution.support
    while hasattr(support, "base_constraint"):  # a wrapper of another constraint
        support = support.base_constraint
    return support


def has_real_support(distribution: dist.TorchDistribution) -> bool:
    """True if the support is R^n."""
    return support_of(distribution) in (constraints.real, constraints.real_vector)


class Surrogate(nn.Module):
    """A memory prior with a Gaussian of your own from which the writer starts, in place of the one of equal moments.

    The bound uses ``prior``. The Gaussian belongs to the guide and may have its own parameters, for example
    ``Surrogate(StudentTMemory(32, 100), GaussianMemory(32, 100))``.

    :param prior: of event shape (K, C).
    :param gaussian: a :class:`MatrixNormal` of that event shape with independent columns of unit scale, or a callable
        that returns one.
    """

    def __init__(self, prior: Prior, gaussian: MatrixNormal | Callable[[], MatrixNormal]) -> None:
        super().__init__()
        self.prior, self.gaussian = prior, gaussian

    def forward(self) -> dist.TorchDistribution:
        """The prior."""
        return as_distribution(self.prior)

    def surrogate(self) -> MatrixNormal:
        """The Gaussian."""
        return self.gaussian if isinstance(self.gaussian, MatrixNormal) else self.gaussian()
