"""The reader for address priors that are not Gaussian."""

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate import address_precision, code_information, precision_to_scale_tril
from pyro_kanerva.distributions import JitNormal
from pyro_kanerva.priors import Coordinates, real_coordinates


class LaplaceReader(nn.Module):
    """A Gaussian approximation by Newton steps, for address priors that are not Gaussian.

    Real coordinates u give the address ``w = T(u)``; T is the identity for priors on R^K. The log posterior in the
    linear-Gaussian surrogate is ``log p(u) - |z - M^T T(u)|^2 / (2 sigma^2)``. A Newton step is::

        A = Lambda + J^T M M^T J / sigma^2,     u <- u + A^-1 (g + J^T M (z - M^T T(u)) / sigma^2),     J = dT/du

    with the gradient g and the curvature Lambda of the prior, and the result is ``q(u) = Normal(u, A^-1)``. For a
    Gaussian prior of u, g and Lambda are exact. For other priors they are averages over q(u), by Gauss-Hermite
    quadrature. For independent entries, with ``x ~ Normal(0, 1)`` and the standard deviations s of q, they are::

        g = E_q[grad log p(u)] = E[x log p(u + s x)] / s
        Lambda = -E_q[grad^2 log p(u)] = E[(1 - x^2) log p(u + s x)] / s^2

    The fixed point is the Gaussian with the smallest KL(q || p), and averages exist where the density has kinks or
    spikes. Lambda is at least 1e-4, because heavy tails have negative curvature, and at least 0.5 if T is not the
    identity. Source: MacKay 2003, "Information Theory, Inference, and Learning Algorithms", chapter 27; Opper and
    Archambeau 2009, "The Variational Gaussian Approximation Revisited", Neural Computation 21(3).

    :param num_steps: the number of Newton steps. Gradients are propagated through all of them.
    :raises ValueError: if ``num_steps < 1``.
    """

    def __init__(self, num_steps: int = 4) -> None:
        super().__init__()
        check_at_least("LaplaceReader", 1, num_steps=num_steps)
        self.num_steps = num_steps

    @full_precision
    def forward(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """``MultivariateNormal`` of batch shape (..., T) and event shape (K,), or its image under T.

        :raises ValueError: if the prior is discrete.
        """
        if address_prior.has_enumerate_support:
            raise ValueError(
                f"LaplaceReader: the address prior {type(address_prior).__name__} is discrete; use SlotReader()."
            )
        if torch.is_inference_mode_enabled():  # the quadrature needs gradients
            with torch.inference_mode(False), torch.no_grad():
                return self(codes.clone(), matrix.clone(), address_prior, code_scale.clone())
        coordinates = real_coordinates(address_prior)
        projected = codes @ matrix.mT / code_scale**2  # M z / sigma^2, (..., T, K)
        information = code_information(matrix, code_scale**2).unsqueeze(-3)  # (..., 1, K, K)
        center = projected.new_zeros(*projected.shape[:-1], coordinates.size)
        # Start from the Gaussian posterior under the moments of the prior, or, if T is not the identity, from zero.
        precision = address_precision(information, coordinates.precision(center), coordinates.jacobian(center))
        factor = precision_to_scale_tril(precision, "the address precision")
        if coordinates.transform is None:
            center = _covariance_times(factor, projected)
        for _ in range(self.num_steps):
            center, factor = self._step(coordinates, center, factor, information, projected)
        q = JitNormal(center, scale_tril=factor, validate_args=False)
        if coordinates.transform is None:
            return q
        return dist.TransformedDistribution(q, [coordinates.transform], validate_args=False)

    def _step(
        self, coordinates: Coordinates, center: Tensor, factor: Tensor, information: Tensor, projected: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next mean (..., T, n) and Cholesky factor of the covariance (..., T, n, n)."""
        if coordinates.base is not None:
            curvature = coordinates.base.precision_matrix
            gradient = (coordinates.base.loc - center) @ curvature  # of a Gaussian log density
        else:
            gradient, curvature = self._averages(coordinates, center, factor)
        jacobian = coordinates.jacobian(center)
        precision = address_precision(information, curvature, jacobian)
        # Where the address is so large that its precision overflows, a pattern stays where it is, and the others go on.
        legal = precision.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)  # (..., T, 1, 1)
        identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        found = precision_to_scale_tril(torch.where(legal, precision, identity), "the address precision")
        factor = torch.where(legal, found, factor)
        # J^T M (z - M^T w) / sigma^2
        residual = projected - (information @ coordinates.address(center).unsqueeze(-1)).squeeze(-1)
        if jacobian is not None:
            residual = (residual.unsqueeze(-2) @ jacobian).squeeze(-2)
        step = torch.where(legal.squeeze(-1), _covariance_times(factor, gradient + residual), 0.0)
        if coordinates.transform is None:
            return center + step, factor
        # If T is not the identity, a full step may overshoot: use the best of five step sizes for every pattern.
        trials = center + _STEP_SIZES.to(step).view(-1, *[1] * step.dim()) * step
        address = coordinates.address(trials)  # (5, ..., T, K)
        quadratic = (address.unsqueeze(-2) @ information @ address.unsqueeze(-1))[..., 0, 0]
        log_likelihood = (projected * address).sum(-1) - 0.5 * quadratic
        # argmax of the log posterior; a NaN never wins
        best = (log_likelihood + coordinates.log_density(trials)).nan_to_num(nan=-torch.inf).argmax(0)
        return trials.gather(0, best[None, ..., None].expand(1, *center.shape)).squeeze(0), factor

    def _averages(self, coordinates: Coordinates, center: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """g (..., n) and the diagonal Lambda (..., n, n), the averages of the class docstring."""
        scale = factor.square().sum(-1).sqrt()  # standard deviations of q(u)
        nodes, weights = _quadrature(_NODES if coordinates.entry is not None else _FEW_NODES, center)
        if coordinates.entry is not None:
            values = weights * coordinates.entry_log_density(center + nodes * scale)
            gradient = (nodes * values).sum(0) / scale
            curvature = ((1 - nodes.square()) * values).sum(0) / scale.square()
        else:  # entries depend on each other: Lambda = -E[x grad log p(u + s x)] / s, by Stein's lemma
            create_graph = torch.is_grad_enabled()
            with torch.enable_grad():
                points = center + nodes * scale
                points = points if points.requires_grad else points.requires_grad_()
                log_density = coordinates.log_density(points).sum()
                (slopes,) = torch.autograd.grad(log_density, points, create_graph=create_graph)
            gradient = (weights * slopes).sum(0)
            curvature = -(weights * nodes * slopes).sum(0) / scale
        least = _LEAST_CURVATURE if coordinates.transform is None else _LEAST_TRANSFORMED_CURVATURE
        return gradient, curvature.clamp(min=least).diag_embed()


_NODES = 32  # of the quadrature; even, so no node is 0, where densities may have a kink
_FEW_NODES = 4  # of the quadrature over gradients, which may be infinite far from the center
_LEAST_CURVATURE = 1e-4
# Lower bound on curvature: log coordinates are flat on one side, where Newton steps diverge.
_LEAST_TRANSFORMED_CURVATURE = 0.5
_STEP_SIZES = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.0])


def _quadrature(num_nodes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E f(x), x ~ Normal(0, 1), each (num_nodes, 1, ..., 1) to broadcast with ``like``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    shape = (num_nodes,) + (1,) * like.dim()
    return like.new_tensor(nodes).view(shape), like.new_tensor(weights / weights.sum()).view(shape)


def _covariance_times(factor: Tensor, vectors: Tensor) -> Tensor:
    """``F F^T v`` for vectors (..., n) and the Cholesky factor F of a covariance."""
    return (factor @ (factor.mT @ vectors.unsqueeze(-1))).squeeze(-1)
