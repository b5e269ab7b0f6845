"""What a prior is, and what it may add."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import constraints

from pyro_kanerva.distributions import MatrixNormal

#: A Pyro distribution without a batch, or a callable without arguments that returns one. Its event shape is (K, C) for
#: a memory and (K,) for an address. A prior of a memory may also bring its Gaussian, see :class:`HasSurrogate`.
Prior = dist.TorchDistribution | Callable[[], dist.TorchDistribution]


@runtime_checkable
class HasSurrogate(Protocol):
    """A memory prior that brings the Gaussian from which episodes are written."""

    def surrogate(self) -> MatrixNormal:
        """A :class:`MatrixNormal` of event shape (K, C) with identity columns."""


def as_distribution(prior: Prior) -> dist.TorchDistribution:
    """The distribution of a prior that is one, or returns one."""
    return prior if isinstance(prior, torch.distributions.Distribution) else prior()


def support_of(distribution: dist.TorchDistribution) -> constraints.Constraint:
    """The support of the entries where each has one of its own, else of the whole; for mixtures, of a component."""
    support: Any = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def has_real_support(distribution: dist.TorchDistribution) -> bool:
    """True if the support is all of R^n."""
    return support_of(distribution) in (constraints.real, constraints.real_vector)


class Surrogate(nn.Module):
    """A memory prior together with the Gaussian from which episodes are written, in place of the one of equal moments.

    The bound uses the prior. The Gaussian is a part of the guide and may have parameters of its own, for example
    ``Surrogate(StudentTMemory(32, 100), GaussianMemory(32, 100))``.

    :param prior: of event shape (K, C).
    :param gaussian: a :class:`MatrixNormal` of that event shape with identity columns, or a callable that
        returns one.
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
