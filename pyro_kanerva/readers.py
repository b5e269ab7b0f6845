"""Readers: how a cue becomes q(w | x, M), the guide of its address.

A reader is any callable ``(codes (..., T, C), memory (..., K, C), address_prior, code_scale)`` that
returns a Pyro distribution of batch shape ``(..., T)`` and event shape ``(K,)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._precision import run_network
from pyro_kanerva.conjugate import address_posterior
from pyro_kanerva.distributions import SharedCovarianceNormal
from pyro_kanerva.factorization import precision_to_scale_tril
from pyro_kanerva.priors import Coordinates, as_gaussian, coordinates, gaussian_address


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
        return SharedCovarianceNormal(loc, scale_tril, validate_args=False)


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


class LaplaceReader(nn.Module):
    r"""A Gaussian at the mode, by Newton steps, for address priors that are not Gaussian.

    In real coordinates u of the address, ``w = T(u)`` (the address itself where its prior is on R^K), the
    posterior of the linear-Gaussian surrogate is ``log p(u) - |z - M^T T(u)|^2 / (2 sigma^2)``, and::

        A = Lambda + J^T M M^T J / sigma^2,     u <- u + A^-1 (g + J^T M (z - M^T T(u)) / sigma^2),     J = dT/du

    with the gradient g and the curvature Lambda of the prior, so that ``q(u) = Normal(u, A^-1)``. For a
    Gaussian prior of u both are exact. Else they are averaged over q(u) itself, by Gauss-Hermite quadrature;
    for independent entries, with ``x ~ Normal(0, 1)`` and the deviations s of q::

        g = E_q[grad log p(u)] = E[x log p(u + s x)] / s
        Lambda = -E_q[grad^2 log p(u)] = E[(1 - x^2) log p(u + s x)] / s^2

    so that the fixed point is the Gaussian nearest to the posterior in KL(q || p), and a kink or a spike of
    the density does no harm. A curvature below zero, in a heavy tail, counts as zero, and in curved coordinates
    as 0.5.

    :param num_steps: Newton steps, unrolled for the gradient.
    :raises ValueError: if ``num_steps < 1``.

    Source: MacKay 2003, "Information Theory, Inference, and Learning Algorithms", chapter 27; Opper and
    Archambeau 2009, "The Variational Gaussian Approximation Revisited", Neural Computation 21(3).
    """

    def __init__(self, num_steps: int = 4) -> None:
        super().__init__()
        if num_steps < 1:
            raise ValueError(f"LaplaceReader: num_steps is {num_steps}; expected at least 1.")
        self.num_steps = num_steps

    def forward(
        self, codes: Tensor, memory: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """``MultivariateNormal`` of batch shape (..., T) and event shape (K,), or its image under T.

        :raises ValueError: if the prior is discrete.
        """
        if address_prior.has_enumerate_support:
            raise ValueError(
                f"LaplaceReader: the address prior {type(address_prior).__name__} is discrete; use SlotReader()."
            )
        if torch.is_inference_mode_enabled():  # slopes are needed all the same
            with torch.inference_mode(False), torch.no_grad():
                return self(codes.clone(), memory.clone(), address_prior, code_scale.clone())
        where = coordinates(address_prior)
        information = codes @ memory.mT / code_scale**2  # (..., T, K)
        gram = (memory @ memory.mT / code_scale**2).unsqueeze(-3)  # (..., 1, K, K)
        center = information.new_zeros(*information.shape[:-1], where.size)
        # the start: the moments of the prior where they are known, and the whole posterior for a real address
        start = where.precision(center) + self._project(where, center, gram)[1]
        factor = precision_to_scale_tril(start, "the address precision")
        if where.transform is None:
            center = _solve(factor, information)
        for _ in range(self.num_steps):
            center, factor = self._step(where, center, factor, gram, information)
        q = dist.MultivariateNormal(center, scale_tril=factor, validate_args=False)
        return q if where.transform is None else dist.TransformedDistribution(q, [where.transform], validate_args=False)

    def _step(
        self, where: Coordinates, center: Tensor, factor: Tensor, gram: Tensor, information: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The next mean (..., T, n) and Cholesky factor of the covariance (..., T, n, n)."""
        if where.base is not None:
            curvature = where.base.precision_matrix
            gradient = (where.base.loc - center) @ curvature
        else:
            gradient, curvature = self._averages(where, center, factor)
        jacobian, projected = self._project(where, center, gram)
        factor = precision_to_scale_tril(curvature + projected, "the address precision")
        residual = information - (gram @ where.address(center).unsqueeze(-1)).squeeze(-1)
        if jacobian is not None:
            residual = (residual.unsqueeze(-2) @ jacobian).squeeze(-2)
        step = _solve(factor, gradient + residual)
        if where.transform is None:
            return center + step, factor
        # a curved address: the best of a full step, shorter ones and none, for every pattern
        trials = center + _STEP_SIZES.to(step).view(-1, *[1] * step.dim()) * step
        address = where.address(trials)
        fit = (information * address).sum(-1) - 0.5 * (address.unsqueeze(-2) @ gram @ address.unsqueeze(-1))[..., 0, 0]
        best = (fit + where.log_density(trials)).nan_to_num(nan=-torch.inf).argmax(0)
        return trials.gather(0, best[None, ..., None].expand(1, *center.shape)).squeeze(0), factor

    def _averages(self, where: Coordinates, center: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        """E_q of the gradient of log p(u), (..., n), and of its negative curvature, a diagonal (..., n, n)."""
        scale = factor.square().sum(-1).sqrt()
        nodes, weights = _quadrature(_NODES if where.entry is not None else _FEW_NODES, center)
        if where.entry is not None:
            values = weights * where.entry_log_density(center + nodes * scale)
            gradient = (nodes * values).sum(0) / scale
            curvature = ((1 - nodes.square()) * values).sum(0) / scale.square()
        else:  # the same by the slopes, which know of the other entries
            create_graph = torch.is_grad_enabled()
            with torch.enable_grad():
                points = center + nodes * scale
                points = points if points.requires_grad else points.requires_grad_()
                (slopes,) = torch.autograd.grad(where.log_density(points).sum(), points, create_graph=create_graph)
            gradient = (weights * slopes).sum(0)
            curvature = -(weights * nodes * slopes).sum(0) / scale
        least = _LEAST_CURVATURE if where.transform is None else _LEAST_IN_CURVED_COORDINATES
        return gradient, curvature.clamp(min=least).diag_embed()

    @staticmethod
    def _project(where: Coordinates, center: Tensor, gram: Tensor) -> tuple[Tensor | None, Tensor]:
        """J (..., T, K, n), None for the identity, and J^T M M^T J / sigma^2."""
        if where.transform is None:
            return None, gram
        jacobian = where.jacobian(center)
        return jacobian, jacobian.mT @ gram @ jacobian


_NODES = 32  # of the quadrature; even: none falls on the kink of a density at zero
_FEW_NODES = 4  # where slopes are taken, which far out may be infinite
_LEAST_CURVATURE = 1e-4
_LEAST_IN_CURVED_COORDINATES = 0.5  # a logarithm is flat to one side: a Gaussian must not run away there
_STEP_SIZES = torch.tensor([1.0, 0.5, 0.2, 0.05, 0.0])


def _quadrature(number: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E f(x), x ~ Normal(0, 1), each (number, 1, ..., 1) to broadcast with ``like``."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(number)
    shape = (number,) + (1,) * like.dim()
    return like.new_tensor(nodes).view(shape), like.new_tensor(weights / weights.sum()).view(shape)


def _solve(factor: Tensor, vectors: Tensor) -> Tensor:
    """``F F^T v`` for vectors (..., n)."""
    return (factor @ (factor.mT @ vectors.unsqueeze(-1))).squeeze(-1)


class SlotReader(nn.Module):
    """Exact enumeration of the slots, for a one-hot address: the posterior in the surrogate.

    ::

        q(w = e_k | x, M) is proportional to p(e_k) Normal(z; M[k], sigma^2 I)
    """

    def forward(
        self, codes: Tensor, memory: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.OneHotCategorical:
        """``OneHotCategorical`` of batch shape (..., T) and event shape (K,).

        :raises ValueError: if the prior is no ``OneHotCategorical``.
        """
        if not isinstance(address_prior, dist.OneHotCategorical):
            raise ValueError(
                f"SlotReader: the address prior is {type(address_prior).__name__}; expected a OneHotCategorical, as "
                "CategoricalAddress(num_slots) returns."
            )
        fit = codes @ memory.mT - 0.5 * memory.square().sum(-1).unsqueeze(-2)  # less what all slots share
        return dist.OneHotCategorical(logits=address_prior.logits + fit / code_scale**2, validate_args=False)


class AmortizedReader(nn.Module):
    """A network reads the address off the code and does not look at the memory: the 2018 Kanerva Machine's q(w | x).

    :param network: codes (N, C) -> (N, 2 K), the means and the logarithms of the standard deviations; for
        example ``MLPEncoder((C,), 2 * K)``.

    Source: Wu, Wayne, Graves, Lillicrap 2018, "The Kanerva Machine" (arXiv 1804.01756), section 3.2.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, codes: Tensor, memory: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """Independent ``Normal`` of batch shape (..., T) and event shape (K,).

        :raises ValueError: if the network returns another shape.
        """
        loc, log_scale = apply_network("AmortizedReader", self.network, codes, (2 * memory.shape[-2],)).chunk(2, -1)
        shape = torch.broadcast_shapes(codes.shape[:-2], memory.shape[:-2]) + loc.shape[-2:]
        return dist.Normal(loc.expand(shape), log_scale.exp().expand(shape), validate_args=False).to_event(1)


def apply_network(name: str, network: Callable[[Tensor], Tensor], codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """``network`` on codes (..., C), (..., n) with n one of ``sizes``.

    :raises ValueError: if it returns another shape.
    """
    output = run_network(network, codes.reshape(-1, codes.shape[-1]))
    number = codes.shape[:-1].numel()
    if tuple(output.shape) not in [(number, size) for size in sizes]:
        wanted = " or ".join(str((number, size)) for size in sizes)
        raise ValueError(f"{name}: the network returned shape {tuple(output.shape)}; expected {wanted}.")
    return output.reshape(*codes.shape[:-1], -1)


def reader_for(address_prior: dist.TorchDistribution) -> nn.Module:
    """The reader that fits a prior: exact where it is Gaussian or one-hot, else by Newton steps."""
    if isinstance(address_prior, dist.OneHotCategorical):
        return SlotReader()
    return LaplaceReader() if as_gaussian(address_prior) is None else ExactReader()
