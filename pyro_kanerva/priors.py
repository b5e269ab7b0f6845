"""Priors of the memory and of the addresses.

A prior is a callable without arguments that returns a Pyro distribution, of event shape (K, C) for a
memory and (K,) for an address, or such a distribution itself. Those below are modules with learned
parameters.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva.matrix_normal import MatrixNormal

Prior = dist.TorchDistribution | Callable[[], dist.TorchDistribution]


class GaussianMemory(nn.Module):
    r"""A Gaussian memory prior ``M ~ MatrixNormal(R0, U0, I)`` with learned mean and row covariance.

    :param num_slots: K.
    :param code_size: C.
    :param scale: where the row standard deviations start; its shape decides what is learned: ``()``
        for one scale of all slots, ``(K,)`` for one scale per slot, ``(K, K)``, lower triangular, for a
        full row covariance ``scale @ scale.T``. ``None`` stands for ``1 / sqrt(K)`` per slot,
        so that the codes ``M^T w`` that are read start at a scale of order 1.
    :raises ValueError: if a size is not positive, or ``scale`` has another shape or is not positive.

    The mean starts as standard normal noise times ``scale``: a memory of equal slots could not be
    addressed.
    """

    def __init__(self, num_slots: int, code_size: int, scale: Tensor | float | None = None) -> None:
        super().__init__()
        for name, size in (("num_slots", num_slots), ("code_size", code_size)):
            if size < 1:
                raise ValueError(f"GaussianMemory: {name} is {size}; expected a positive integer.")
        start = (
            torch.full((num_slots,), num_slots**-0.5)
            if scale is None
            else torch.as_tensor(scale, dtype=torch.get_default_dtype())
        )
        if start.shape not in ((), (num_slots,), (num_slots, num_slots)):
            raise ValueError(
                f"GaussianMemory: scale has shape {tuple(start.shape)}; expected (), ({num_slots},) or "
                f"({num_slots}, {num_slots})."
            )
        diagonal = start.diagonal() if start.dim() == 2 else start
        if not bool(((diagonal > 0) & start.isfinite().all()).all()) or (
            start.dim() == 2 and bool(start.triu(1).any())
        ):
            raise ValueError(
                "GaussianMemory: scale holds standard deviations; expected finite positive entries, and for a full "
                "row covariance a lower triangular factor with a positive diagonal."
            )
        self.num_slots, self.code_size = num_slots, code_size
        self.scale_below_diagonal: nn.Parameter | None
        self.log_scale = nn.Parameter(diagonal.detach().log().clone())
        self.register_parameter(
            "scale_below_diagonal", nn.Parameter(start.detach().tril(-1).clone()) if start.dim() == 2 else None
        )
        noise = torch.randn(num_slots, code_size, dtype=start.dtype)
        self.loc = nn.Parameter(self._scale_tril().detach() @ noise)

    def _scale_tril(self) -> Tensor:
        factor = self.log_scale.exp().expand(self.num_slots).diag_embed()
        if self.scale_below_diagonal is not None:
            factor = factor + self.scale_below_diagonal.tril(-1)
        return factor

    def forward(self) -> MatrixNormal:
        """``MatrixNormal`` of batch shape () and event shape (K, C)."""
        return MatrixNormal(self.loc, self._scale_tril(), validate_args=False)


class GaussianAddress(nn.Module):
    """The address prior of the paper, ``w ~ Normal(0, I_K)``.

    :param num_slots: K.
    :raises ValueError: if ``num_slots`` is not positive.
    """

    identity: Tensor

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"GaussianAddress: num_slots is {num_slots}; expected a positive integer.")
        self.register_buffer("identity", torch.eye(num_slots), persistent=False)

    def forward(self) -> dist.MultivariateNormal:
        """``MultivariateNormal`` of batch shape () and event shape (K,)."""
        return dist.MultivariateNormal(
            self.identity.new_zeros(self.identity.shape[0]), scale_tril=self.identity, validate_args=False
        )


def as_distribution(prior: Prior) -> dist.TorchDistribution:
    """The distribution of a prior that is one, or returns one."""
    return prior if isinstance(prior, torch.distributions.Distribution) else prior()


def _moments(name: str, prior: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    mean, variance = prior.mean, prior.variance
    if not bool((mean.isfinite() & variance.isfinite()).all()):
        raise ValueError(
            f"The {name} prior {type(prior).__name__} has no finite mean and variance, so no Gaussian can be "
            "matched to it for writing and reading. Choose parameters that give it a finite variance."
        )
    return mean, variance


def gaussian_memory(prior: dist.TorchDistribution) -> MatrixNormal:
    """The Gaussian that the writers start from: the prior itself, or one of equal mean.

    Its slots are independent, with the variances of the prior averaged over the columns.


    :raises ValueError: if the prior has no finite mean and variance.
    """
    if isinstance(prior, MatrixNormal) and prior.scale_tril_column is None:
        return prior
    mean, variance = _moments("memory", prior)
    return MatrixNormal(mean, variance.mean(-1).sqrt().diag_embed(), validate_args=False)


def gaussian_address(prior: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean (K,) and precision (K, K) of the prior, or of a Gaussian of equal mean and variances.

    :raises ValueError: if the prior has no finite mean and variance.
    """
    if isinstance(prior, dist.MultivariateNormal):
        return prior.loc, prior.precision_matrix
    mean, variance = _moments("address", prior)
    return mean, variance.reciprocal().diag_embed()


def divergence(q: dist.TorchDistribution, p: dist.TorchDistribution, value: Tensor) -> Tensor:
    """KL(q || p) in nats, in closed form where Pyro knows it, else estimated from ``value`` ~ q."""
    try:
        return torch.distributions.kl_divergence(q, p)
    except NotImplementedError:
        return q.log_prob(value) - p.log_prob(value)
