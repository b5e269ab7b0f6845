"""Mixtures of Gaussians that share one covariance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd import Function
from torch.distributions import constraints

from pyro_kanerva._precision import full_precision


class GaussianMixture(dist.TorchDistribution):
    r"""``sum_j pi_j Normal(loc + offset_j, S)``: J Gaussians with one covariance S, on R^n.

    T mixtures may differ in ``loc`` and in the weights and share offsets and covariance, as the posteriors of T
    addresses in one memory do. The density sums out the component. Samples are reparameterized: the gradient with
    respect to the weights is the exact pathwise derivative, not a score function.

    :param loc: shape ``(..., T, n)``, or ``(n,)``.
    :param offsets: means of the components relative to ``loc``, shape ``(..., J, n)``.
    :param logits: log pi up to a constant, shape ``(..., T, J)``, or ``(J,)``.
    :param scale_tril: lower Cholesky factor of the covariance S, shape ``(..., n, n)``.

    Source of the derivative: Jankowiak and Karaletsos 2019 (arXiv 1806.01856), "Pathwise Derivatives for Multivariate
    Distributions", section 5.
    """

    arg_constraints: ClassVar = {
        "loc": constraints.real_vector,
        "offsets": constraints.independent(constraints.real, 2),
        "logits": constraints.real_vector,
        "scale_tril": constraints.lower_cholesky,
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(
        self, loc: Tensor, offsets: Tensor, logits: Tensor, scale_tril: Tensor, validate_args: bool | None = None
    ) -> None:
        self.offsets, self.scale_tril = offsets, scale_tril
        batch = torch.broadcast_shapes(loc.shape[:-1], logits.shape[:-1])
        self.loc = loc.expand(*batch, loc.shape[-1])
        self.logits = logits.log_softmax(-1).expand(*batch, logits.shape[-1])
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: Any = None) -> GaussianMixture:
        """The same distribution with more dimensions on the left."""
        batch = torch.Size(batch_shape)
        loc = self.loc.expand(batch + self.loc.shape[-1:])
        logits = self.logits.expand(batch + self.logits.shape[-1:])
        new = GaussianMixture(loc, self.offsets, logits, self.scale_tril, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def weights(self) -> Tensor:
        """pi, the probabilities of the components, (..., T, J)."""
        return self.logits.exp()

    @property
    def component_means(self) -> Tensor:
        """``loc + offset_j`` of every component, (..., T, J, n)."""
        return self.loc.unsqueeze(-2) + (self.offsets.unsqueeze(-3) if self.batch_shape else self.offsets)

    @property
    @full_precision
    def heaviest_mean(self) -> Tensor:
        """The mean of the component of the largest weight, (..., T, n)."""
        largest = self.logits.argmax(-1)
        return self.loc + torch.nn.functional.one_hot(largest, self.logits.shape[-1]).to(self.loc) @ self.offsets

    @property
    @full_precision
    def mean(self) -> Tensor:
        return self.loc + self.weights @ self.offsets

    @property
    @full_precision
    def variance(self) -> Tensor:
        spread = self.weights @ self.offsets.square() - (self.weights @ self.offsets).square()
        within = self.scale_tril.square().sum(-1)  # diagonal of the covariance
        return spread + (within.unsqueeze(-2) if self.batch_shape else within)

    @property
    @full_precision
    def covariance_of_components(self) -> Tensor:
        """S, shape (..., n, n)."""
        return self.scale_tril @ self.scale_tril.mT

    @full_precision
    def mean_covariance_scale_tril(self) -> Tensor:
        """Cholesky factor (..., n, n) of the covariance, averaged over the T mixtures of batch shape (..., T)."""
        centered = self.offsets.unsqueeze(-3) - (self.weights @ self.offsets).unsqueeze(-2)  # (..., T, J, n)
        weighted = self.weights.unsqueeze(-1) * centered / self.batch_shape[-1]
        # In float64: S may be smaller than the rounding errors of the spread.
        spread = weighted.flatten(-3, -2).double().mT @ centered.flatten(-3, -2).double()
        covariance = 0.5 * (spread + spread.mT) + self.covariance_of_components.double()
        factor, info = torch.linalg.cholesky_ex(covariance)  # does not wait for the device
        return (factor * torch.where(info == 0, 1.0, torch.nan)[..., None, None]).to(self.loc.dtype)

    def _white(self, rows: Tensor) -> Tensor:
        """``L^-1 v`` of row vectors (..., N, n), for the Cholesky factor L of the covariance."""
        return torch.linalg.solve_triangular(self.scale_tril, rows.mT, upper=False).mT

    @full_precision
    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, shape of the batch."""
        if self._validate_args:
            self._validate_sample(value)
        difference, offsets = value - self.loc, self._white(self.offsets)
        white = self._white(difference if difference.dim() > 1 else difference[None])
        # -|u - o_j|^2 / 2 + |u|^2 / 2, without forming the differences
        exponents = white @ offsets.mT - 0.5 * offsets.square().sum(-1).unsqueeze(-2)
        log_determinant = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1, keepdim=True)
        normalizer = 0.5 * white.shape[-1] * math.log(2 * math.pi) + log_determinant
        result = (self.logits + exponents).logsumexp(-1) - 0.5 * white.square().sum(-1) - normalizer
        return result if difference.dim() > 1 else result.squeeze(0)

    @full_precision
    def rsample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Reparameterized samples, shape ``sample_shape + (..., T, n)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        logits = self.logits.expand(*(shape[:-1] or (1,)), self.logits.shape[-1])
        white = _WhiteSample.apply(self._white(self.offsets), logits)  # type: ignore[no-untyped-call]
        return self.loc + (white @ self.scale_tril.mT).reshape(shape)


class _WhiteSample(Function):
    """Samples v of ``sum_j pi_j Normal(o_j, I)``, with pathwise derivatives by o and by log pi.

    The sample moves with a velocity V for which ``dq + div(q V) = 0`` when a parameter changes the density q by dq::

        by o_j:        V = r_j(v),    the weight of component j given v
        by logit_a:    V = pi_a sum_b pi_b V_ab

    ``V_ab`` moves probability from component b to a along d, the unit vector from o_b to o_a. With the coordinates
    ``s = v^T d``, ``s_a = o_a^T d``, ``s_b = o_b^T d`` and the density N of what is left of v::

        q V_ab = d N(v_perp) (Phi(s - s_b) - Phi(s - s_a))
    """

    @staticmethod
    def forward(ctx: Any, offsets: Tensor, logits: Tensor) -> Tensor:
        scores = logits - torch.empty_like(logits).exponential_().log()  # the largest is at a draw of the component
        chosen = torch.zeros_like(logits).scatter(-1, scores.argmax(-1, keepdim=True), 1.0)  # (..., T, J)
        loc = chosen @ offsets
        value = loc + torch.randn_like(loc)
        ctx.save_for_backward(offsets, logits, value)
        return value

    @staticmethod
    @full_precision
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        offsets, logits, value = ctx.saved_tensors
        gram = offsets @ offsets.mT  # (..., J, J)
        squares = gram.diagonal(dim1=-2, dim2=-1)
        products, slopes = value @ offsets.mT, gradient @ offsets.mT  # v^T o_j and g^T o_j, (..., T, J)
        exponents = logits + products - 0.5 * squares.unsqueeze(-2)
        log_weights = exponents - exponents.logsumexp(-1, keepdim=True)  # log r_j(v)
        d_offsets = (log_weights.exp().mT @ gradient).sum_to_size(offsets.shape)
        # for every pair (a, b): |o_a - o_b|, and s - s_a
        distance = (squares.unsqueeze(-1) + squares.unsqueeze(-2) - 2 * gram).clamp(min=0).sqrt()
        inverse = torch.where(distance > 0, distance, torch.inf).reciprocal().unsqueeze(-3)
        along = (squares.unsqueeze(-1) - gram).unsqueeze(-3)  # o_a^T (o_a - o_b)
        position = (products.unsqueeze(-1) - products.unsqueeze(-2) - along) * inverse  # (..., T, J, J)
        # log of pi_a N(v_perp) / q(v): the exponent of component a without its part along the line
        log_density = log_weights.unsqueeze(-1) + 0.5 * position.square() + 0.5 * math.log(2 * math.pi)
        # Phi(s - s_b) - Phi(s - s_a), from the side where both are small, so that no digits cancel
        end = position + distance.unsqueeze(-3)
        side = 1 - 2 * (position > -end).to(end)  # never 0, not even halfway
        mass = (torch.special.ndtr(side * end) - torch.special.ndtr(side * position)).abs()
        flux = (log_density + mass.log()).exp() * logits.exp().unsqueeze(-2)
        d_logits = (flux * (slopes.unsqueeze(-1) - slopes.unsqueeze(-2)) * inverse).sum(-1)
        return d_offsets, d_logits
