"""Real coordinates for addresses of any support: the guide is Gaussian in them, and a query follows gradients there."""

import copy
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import ComposeTransform, biject_to, constraints

from pyro_kanerva.conjugate import address_precision, code_information, precision_to_scale_tril
from pyro_kanerva.distributions import AdditiveLogistic, GaussianMixture
from pyro_kanerva.priors.base import has_real_support, support_of
from pyro_kanerva.priors.moment_matching import exact_gaussian_or_none, finite_moment


class Coordinates(NamedTuple):
    """Coordinates u in R^n of addresses w, ``w = transform(u)``, and the density of a prior in them.

    ``transform`` is None if u = w. ``base`` is the distribution of u if it is Gaussian, else None. ``entry`` is the
    distribution of an entry of w if the entries are independent, else None.
    """

    transform: torch.distributions.Transform | None
    base: torch.distributions.MultivariateNormal | None
    entry: dist.TorchDistribution | None
    prior: dist.TorchDistribution

    def center(self, like: Tensor) -> Tensor:
        """Coordinates (n,) near the mean of the prior, with the dtype and device of ``like``."""
        if self.base is not None:
            return self.base.loc
        if isinstance(self.prior, GaussianMixture):
            return self.prior.mean
        zero = like.new_zeros(self.size)
        mean = finite_moment(self.entry, "mean") if self.transform is None else None
        return (zero if mean is None else mean.expand_as(zero)) + 0.1  # at the mean itself there may be a kink or spike

    def precision(self, like: Tensor) -> Tensor:
        """The prior precision of u, (n, n), or the identity if there is no closed form."""
        if self.base is not None:
            return self.base.precision_matrix
        if isinstance(self.prior, GaussianMixture):
            return torch.cholesky_inverse(self.prior.scale_tril)  # of every component
        one = like.new_ones(self.size)
        variance = finite_moment(self.entry, "variance") if self.transform is None else None
        return (one if variance is None else variance.reciprocal().expand_as(one)).diag_embed()

    def posterior_scale_tril(self, matrix: Tensor, code_scale: Tensor) -> Tensor:
        """Cholesky factor (..., n, n) of the surrogate's covariance of q(u | z, M) at :meth:`center`, M (..., K, C)."""
        jacobian = self.jacobian(self.center(matrix))
        precision = address_precision(code_information(matrix, code_scale**2), self.precision(matrix), jacobian)
        return precision_to_scale_tril(precision, "the address precision")

    def jacobian(self, coordinates: Tensor) -> Tensor | None:
        """dw/du (..., K, n) at u (..., n), or None for the identity."""
        if self.transform is None:
            return None
        if isinstance(self.transform, AdditiveLogistic):
            return self.transform.jacobian(coordinates)
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            points = coordinates if coordinates.requires_grad else coordinates.detach().requires_grad_()
            # Points are independent, so the gradient of the sum over points holds the gradient of each.
            totals = self.transform(points).unsqueeze(0).flatten(0, -2).sum(0)
            rows = [torch.autograd.grad(total, points, create_graph=True, retain_graph=True)[0] for total in totals]
        jacobian = torch.stack(rows, -2)
        return jacobian if create_graph else jacobian.detach()

    @property
    def size(self) -> int:
        """n, the number of coordinates."""
        shape = self.prior.event_shape
        return int((shape if self.transform is None else self.transform.inverse_shape(shape))[-1])

    def log_density(self, coordinates: Tensor) -> Tensor:
        """log p(u) in nats, (...), for u (..., n)."""
        if self.base is not None:
            return self.base.log_prob(coordinates)
        if self.transform is None:
            return self.prior.log_prob(coordinates)
        address = self.transform(coordinates)
        return self.prior.log_prob(address) + self.transform.log_abs_det_jacobian(coordinates, address)

    def entry_log_density(self, coordinates: Tensor) -> Tensor:
        """log p(u_k) of every coordinate in nats, (..., n), for u (..., n) and independent entries."""
        assert self.entry is not None
        if has_real_support(self.entry):
            return self.entry.log_prob(coordinates)
        transform = biject_to(support_of(self.entry))
        address = transform(coordinates)
        return self.entry.log_prob(address) + transform.log_abs_det_jacobian(coordinates, address)

    def address(self, coordinates: Tensor) -> Tensor:
        """w (..., K) from u (..., n)."""
        return coordinates if self.transform is None else self.transform(coordinates)

    def inverse(self, address: Tensor) -> Tensor:
        """u (..., n) from w (..., K)."""
        return address if self.transform is None else self.transform.inv(address)


def real_coordinates(prior: dist.TorchDistribution) -> Coordinates:
    """Real coordinates of a continuous address prior: those of its Gaussian base, else of ``biject_to(support)``."""
    gaussian = exact_gaussian_or_none(prior)
    if gaussian is not None:
        return Coordinates(None, gaussian, None, prior)
    prior = _without_validation(prior)
    # A transformed Gaussian, such as SimplexAddress, is exactly Gaussian in the coordinates of its base.
    transformed = isinstance(prior, torch.distributions.TransformedDistribution)
    if transformed and isinstance(prior.base_dist, torch.distributions.MultivariateNormal):
        transforms = prior.transforms
        transform = transforms[0] if len(transforms) == 1 else ComposeTransform(transforms)
        return Coordinates(transform, prior.base_dist, None, prior)
    support = support_of(prior)
    if support.event_dim == 0:
        support = constraints.independent(support, 1)  # one transform of the whole address, not one of each entry
    independent = isinstance(prior, torch.distributions.Independent) and not prior.base_dist.event_shape
    entry = prior.base_dist if independent else None
    return Coordinates(None if has_real_support(prior) else biject_to(support), None, entry, prior)


def _without_validation(prior: dist.TorchDistribution) -> dist.TorchDistribution:
    """A copy whose log density is infinite or NaN outside the support: a step of one query may go there."""
    prior = copy.copy(prior)
    prior._validate_args = False
    if hasattr(prior, "base_dist"):
        prior.base_dist = _without_validation(prior.base_dist)
    return prior


def point_address(q: dist.TorchDistribution) -> Tensor:
    """One address (..., K) for q(w): the mean; the transformed mean of the base; the heaviest component's mean."""
    if isinstance(q, GaussianMixture):
        return q.heaviest_mean
    if isinstance(q, torch.distributions.TransformedDistribution):
        value = q.base_dist.mean
        for transform in q.transforms:
            value = transform(value)
        return value
    return q.mean
