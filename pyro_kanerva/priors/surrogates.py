"""What the guide needs to know of a prior: a Gaussian that stands for it, and coordinates in which it is real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import ComposeTransform, biject_to, constraints

from pyro_kanerva.distributions import AdditiveLogistic
from pyro_kanerva.factorization import precision_to_scale_tril
from pyro_kanerva.matrix_normal import MatrixNormal

Prior = dist.TorchDistribution | Callable[[], dist.TorchDistribution]


def as_distribution(prior: Prior) -> dist.TorchDistribution:
    """The distribution of a prior that is one, or returns one."""
    return prior if isinstance(prior, torch.distributions.Distribution) else prior()


class Surrogate(nn.Module):
    """A memory prior together with the Gaussian from which episodes are written, in place of the one of equal moments.

    The bound uses the prior; the Gaussian, a part of the guide, may have parameters of its own, for example
    ``Surrogate(StudentTMemory(32, 100), GaussianMemory(32, 100))``. Any prior with a method ``surrogate`` that
    returns a :class:`MatrixNormal` is used like that.

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


def _moments(name: str, prior: dist.TorchDistribution, remedy: str) -> tuple[Tensor, Tensor]:
    mean, variance = _finite(prior, "mean"), _finite(prior, "variance")
    if mean is None or variance is None:
        raise ValueError(
            f"The {name} prior {type(prior).__name__} has no finite mean and variance, so no Gaussian can be "
            f"matched to it for writing and reading. {remedy}"
        )
    return mean, variance


def gaussian_memory(prior: Prior) -> MatrixNormal:
    """The Gaussian that the writers start from: the prior itself, its ``surrogate()``, or one of equal mean.

    The last has independent slots, with the variances of the prior averaged over the columns.

    :raises ValueError: if the prior has no finite mean and variance, or its surrogate has a column factor.
    """
    if hasattr(prior, "surrogate"):
        gaussian = prior.surrogate()
        if not isinstance(gaussian, MatrixNormal) or gaussian.scale_tril_column is not None:
            raise ValueError(
                f"The surrogate of {type(prior).__name__} is {type(gaussian).__name__}; expected a MatrixNormal with "
                "scale_tril_column=None."
            )
        return gaussian
    distribution = as_distribution(prior)
    if isinstance(distribution, MatrixNormal) and distribution.scale_tril_column is None:
        return distribution
    remedy = "Choose parameters that give it a finite variance, or pass Surrogate(prior, GaussianMemory(...))."
    mean, variance = _moments("memory", distribution, remedy)
    return MatrixNormal(mean, variance.mean(-1).sqrt().diag_embed(), validate_args=False)


def as_gaussian(prior: dist.TorchDistribution) -> dist.MultivariateNormal | None:
    """An address prior that is Gaussian, also as ``Normal(...).to_event(1)``; else None."""
    if isinstance(prior, dist.MultivariateNormal):
        return prior
    if isinstance(prior, torch.distributions.Independent) and isinstance(prior.base_dist, torch.distributions.Normal):
        scale_tril = prior.base_dist.scale.diag_embed()
        return dist.MultivariateNormal(prior.base_dist.loc, scale_tril=scale_tril, validate_args=False)
    return None


def gaussian_address(prior: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean (K,) and precision (K, K) of the prior, or of a Gaussian of equal mean and variances.

    :raises ValueError: if the prior has no finite mean and variance.
    """
    gaussian = as_gaussian(prior)
    if gaussian is not None:
        return gaussian.loc, gaussian.precision_matrix
    mean, variance = _moments("address", prior, "Use LaplaceReader(), which needs none.")
    return mean, variance.reciprocal().diag_embed()


def divergence(q: torch.distributions.Distribution, p: torch.distributions.Distribution, value: Tensor) -> Tensor:
    """KL(q || p) in nats, in closed form where Pyro knows it, else estimated from ``value`` ~ q."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(value) - p.log_prob(value)


class Coordinates(NamedTuple):
    """Coordinates u in R^n of addresses w, ``w = transform(u)``, and the density that a prior has there.

    ``transform`` is None where u is w. ``base`` is the distribution of u where it is a Gaussian, ``entry`` that
    of the entries of w where they are independent; else they are None.
    """

    transform: torch.distributions.Transform | None
    base: torch.distributions.MultivariateNormal | None
    entry: dist.TorchDistribution | None
    prior: dist.TorchDistribution

    def center(self, like: Tensor) -> Tensor:
        """Coordinates (n,) near the middle of the prior; of ``like`` are dtype and device."""
        if self.base is not None:
            return self.base.loc
        zero = like.new_zeros(self.size)
        mean = _finite(self.entry, "mean") if self.transform is None else None
        return (zero if mean is None else mean.expand_as(zero)) + 0.1  # in the middle may be a kink or a spike

    def precision(self, like: Tensor) -> Tensor:
        """That of u, (n, n), or the identity where it is not known."""
        if self.base is not None:
            return self.base.precision_matrix
        one = like.new_ones(self.size)
        variance = _finite(self.entry, "variance") if self.transform is None else None
        return (one if variance is None else variance.reciprocal().expand_as(one)).diag_embed()

    def posterior_scale_tril(self, memory: Tensor, code_scale: Tensor) -> Tensor:
        """Cholesky factor (..., n, n) of the covariance of q(u | z, M) in the surrogate, at :meth:`center`."""
        gram = memory @ memory.mT / code_scale**2
        if self.transform is not None:
            jacobian = self.jacobian(self.center(memory))
            gram = jacobian.mT @ gram @ jacobian
        return precision_to_scale_tril(self.precision(memory) + gram, "the address precision")

    def jacobian(self, coordinates: Tensor) -> Tensor:
        """dw/du (..., K, n) at u (..., n), where w is not u."""
        assert self.transform is not None
        if isinstance(self.transform, AdditiveLogistic):
            return self.transform.jacobian(coordinates)
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = coordinates if coordinates.requires_grad else coordinates.detach().requires_grad_()
            totals = self.transform(points).unsqueeze(0).flatten(0, -2).sum(0)  # the rows of points do not meet
            rows = [torch.autograd.grad(total, points, create_graph=True, retain_graph=True)[0] for total in totals]
        jacobian = torch.stack(rows, -2)
        return jacobian if create_graph else jacobian.detach()

    @property
    def size(self) -> int:
        """n, the number of coordinates."""
        shape = self.prior.event_shape
        return int((shape if self.transform is None else self.transform.inverse_shape(shape))[-1])

    def log_density(self, coordinates: Tensor) -> Tensor:
        """log p(u) in nats, (...), of u (..., n)."""
        if self.base is not None:
            return self.base.log_prob(coordinates)
        if self.transform is None:
            return self.prior.log_prob(coordinates)
        address = self.transform(coordinates)
        return self.prior.log_prob(address) + self.transform.log_abs_det_jacobian(coordinates, address)

    def entry_log_density(self, coordinates: Tensor) -> Tensor:
        """The log density of every entry, in nats, (..., n) of u (..., n), where entries are independent."""
        assert self.entry is not None
        if is_real(self.entry):
            return self.entry.log_prob(coordinates)
        transform = biject_to(support_of(self.entry))
        address = transform(coordinates)
        return self.entry.log_prob(address) + transform.log_abs_det_jacobian(coordinates, address)

    def address(self, coordinates: Tensor) -> Tensor:
        """w (..., K) of u (..., n)."""
        return coordinates if self.transform is None else self.transform(coordinates)

    def inverse(self, address: Tensor) -> Tensor:
        """u (..., n) of w (..., K)."""
        return address if self.transform is None else self.transform.inv(address)


def _finite(distribution: dist.TorchDistribution | None, moment: str) -> Tensor | None:
    """The mean or variance, where it is known and finite."""
    try:
        value: Tensor = getattr(distribution, moment)
    except (AttributeError, NotImplementedError):
        return None
    return value if bool(value.isfinite().all()) else None


def coordinates(prior: dist.TorchDistribution) -> Coordinates:
    """Real coordinates for a continuous address prior of any support: those of its base, or torch's ``biject_to``."""
    gaussian = as_gaussian(prior)
    if gaussian is not None:
        return Coordinates(None, gaussian, None, prior)
    if isinstance(prior, torch.distributions.TransformedDistribution) and isinstance(
        prior.base_dist, torch.distributions.MultivariateNormal
    ):
        transforms = prior.transforms
        transform = transforms[0] if len(transforms) == 1 else ComposeTransform(transforms)
        return Coordinates(transform, prior.base_dist, None, prior)
    support = support_of(prior)
    if support.event_dim == 0:
        support = constraints.independent(support, 1)
    independent = isinstance(prior, torch.distributions.Independent) and not prior.base_dist.event_shape
    entry = prior.base_dist if independent else None
    return Coordinates(None if is_real(prior) else biject_to(support), None, entry, prior)


def is_real(distribution: dist.TorchDistribution) -> bool:
    """Whether its support is all of R^n."""
    return support_of(distribution) in (constraints.real, constraints.real_vector)


def support_of(distribution: dist.TorchDistribution) -> constraints.Constraint:
    """The support of its entries where they have one each, else of the whole; also that of a mixture's components."""
    support: Any = distribution.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def point_address(q: dist.TorchDistribution) -> Tensor:
    """One address (..., K) for q(w): its mean, or where that is not in closed form the image of its base's mean."""
    if isinstance(q, torch.distributions.TransformedDistribution):
        value = q.base_dist.mean
        for transform in q.transforms:
            value = transform(value)
        return value
    return q.mean
