"""Memory priors: modules whose ``forward()`` returns a distribution of event shape (K, C) with learned parameters.

K = ``num_slots`` and C = ``code_size``.
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least, check_positive
from pyro_kanerva._precision import autocast_off
from pyro_kanerva.conjugate import cholesky
from pyro_kanerva.distributions import MatrixNormal


class GaussianMemory(nn.Module):
    """A Gaussian memory prior ``M ~ MatrixNormal(R0, U0, I)`` with learned mean and row covariance.

    The initial mean is standard normal noise times ``scale``: slots with equal means would get equal addresses.

    :param scale: initial row standard deviations. Its shape determines what is learned: ``()`` one scale for all slots,
        ``(K,)`` one scale per slot, ``(K, K)``, a lower Cholesky factor, the full row covariance ``scale @ scale.T``.
        The default is ``1 / sqrt(K)`` per slot, which gives codes ``M^T w`` of order 1.
    :raises ValueError: if a size is not positive, or ``scale`` has another shape or is not positive.
    """

    def __init__(self, num_slots: int, code_size: int, scale: Tensor | float | None = None) -> None:
        super().__init__()
        check_at_least("GaussianMemory", 1, num_slots=num_slots, code_size=code_size)
        if scale is None:
            scale = torch.full((num_slots,), num_slots**-0.5)
        start = torch.as_tensor(scale, dtype=torch.get_default_dtype())
        if start.shape not in ((), (num_slots,), (num_slots, num_slots)):
            raise ValueError(
                f"GaussianMemory: scale has shape {tuple(start.shape)}; expected (), ({num_slots},) or "
                f"({num_slots}, {num_slots})."
            )
        is_factor = start.dim() == 2
        diagonal = start.diagonal() if is_factor else start
        positive = bool(((diagonal > 0) & start.isfinite().all()).all())
        if not positive or (is_factor and bool(start.triu(1).any())):
            raise ValueError(
                "GaussianMemory: scale holds standard deviations; expected finite positive entries, and for a full "
                "row covariance a lower triangular factor with a positive diagonal."
            )
        self.num_slots, self.code_size = num_slots, code_size
        self.scale_below_diagonal: nn.Parameter | None
        self.log_scale = nn.Parameter(diagonal.detach().log().clone())
        below_diagonal = nn.Parameter(start.detach().tril(-1).clone()) if is_factor else None
        self.register_parameter("scale_below_diagonal", below_diagonal)
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


class LowRankMemory(nn.Module):
    """A Gaussian memory prior whose row covariance is of low rank plus diagonal.

    ::

        M ~ MatrixNormal(R0, F F^T + diag(d^2), I)      K (rank + 1) parameters instead of K (K + 1) / 2

    :param rank: columns of F, at most K; by default ``min(4, K)``.
    :param scale: initial row standard deviation, by default ``1 / sqrt(K)``. F, in random directions, has half of the
        initial variance.
    :raises ValueError: if a size is not positive, the rank above K, or ``scale`` not positive.
    """

    def __init__(self, num_slots: int, code_size: int, rank: int | None = None, scale: float | None = None) -> None:
        super().__init__()
        rank = max(1, min(4, num_slots)) if rank is None else rank
        check_at_least("LowRankMemory", 1, num_slots=num_slots, code_size=code_size, rank=rank)
        if rank > num_slots:
            raise ValueError(f"LowRankMemory: rank is {rank}; expected at most num_slots, {num_slots}.")
        start = _start("LowRankMemory", num_slots, scale)
        self.num_slots, self.code_size = num_slots, code_size
        self.loc = nn.Parameter(torch.randn(num_slots, code_size) * start)
        # F F^T and diag(d^2) each have half of the variance on the diagonal.
        self.log_scale = nn.Parameter(torch.full((num_slots,), math.log(start) - 0.5 * math.log(2)))
        self.factor = nn.Parameter(torch.randn(num_slots, rank) * start / math.sqrt(2 * rank))

    def forward(self) -> MatrixNormal:
        """``MatrixNormal`` of batch shape () and event shape (K, C)."""
        with autocast_off(self.factor):
            covariance = self.factor @ self.factor.mT + (2 * self.log_scale).exp().diag_embed()
        return MatrixNormal(self.loc, cholesky(covariance, "the row covariance of LowRankMemory"), validate_args=False)


class LaplaceMemory(nn.Module):
    """A memory prior of independent Laplace entries, ``M[k, c] ~ Laplace(loc[k, c], scale[k])``.

    The memory KL is a Monte Carlo estimate. The writer starts from the Gaussian of equal moments.

    :param scale: initial Laplace scale of all slots, the standard deviation divided by sqrt(2). The default gives a
        standard deviation of ``1 / sqrt(K)``.
    :raises ValueError: if a size or ``scale`` is not positive.
    """

    def __init__(self, num_slots: int, code_size: int, scale: float | None = None) -> None:
        super().__init__()
        check_at_least("LaplaceMemory", 1, num_slots=num_slots, code_size=code_size)
        start = _start("LaplaceMemory", num_slots, scale, factor=0.5**0.5)  # standard deviation: sqrt(2) start
        self.log_scale = nn.Parameter(torch.full((num_slots, 1), math.log(start)))
        self.loc = nn.Parameter(torch.randn(num_slots, code_size) * start * 2**0.5)

    def forward(self) -> dist.Independent:
        """Independent ``Laplace`` of batch shape () and event shape (K, C)."""
        return dist.Laplace(self.loc, self.log_scale.exp(), validate_args=False).to_event(2)


class StudentTMemory(nn.Module):
    """A memory prior of independent Student-t entries, ``M[k, c] ~ StudentT(df, loc[k, c], scale[k])``.

    The memory KL is a Monte Carlo estimate. The writer starts from the Gaussian of equal moments.

    :param df: degrees of freedom, above 2, because the writer's Gaussian needs a finite variance.
    :param scale: initial scale of all slots. The default gives a standard deviation of ``1 / sqrt(K)``.
    :raises ValueError: if a size or ``scale`` is not positive, or ``df`` not above 2.
    """

    df: Tensor

    def __init__(self, num_slots: int, code_size: int, df: float = 4.0, scale: float | None = None) -> None:
        super().__init__()
        check_at_least("StudentTMemory", 1, num_slots=num_slots, code_size=code_size)
        if not 2 < df < math.inf:
            raise ValueError(f"StudentTMemory: df is {df}; expected more than 2, for a finite variance.")
        # The standard deviation of a Student-t of scale 1 is sqrt(df / (df - 2)).
        start = _start("StudentTMemory", num_slots, scale, factor=((df - 2) / df) ** 0.5)
        self.register_buffer("df", torch.tensor(float(df)), persistent=False)
        self.log_scale = nn.Parameter(torch.full((num_slots, 1), math.log(start)))
        self.loc = nn.Parameter(torch.randn(num_slots, code_size) * start * (df / (df - 2)) ** 0.5)

    def forward(self) -> dist.Independent:
        """Independent ``StudentT`` of batch shape () and event shape (K, C)."""
        return dist.StudentT(self.df, self.loc, self.log_scale.exp(), validate_args=False).to_event(2)


class HierarchicalMemory(nn.Module):
    """A memory prior with an unknown variance for each slot: automatic relevance determination.

    ::

        v[k] ~ InverseGamma(concentration, rate),      M[k] ~ Normal(loc[k], v[k] I)

    The variances are integrated out in closed form: row k is a multivariate Student-t with 2 concentration degrees of
    freedom, whose entries are uncorrelated but not independent. :meth:`relevance` estimates v from a memory. The memory
    KL is a Monte Carlo estimate. The writer starts from the Gaussian of equal moments. Source: MacKay 1995, "Probable
    networks and plausible predictions".

    :param concentration: above 1 for a finite mean of v; a small one lets the slots differ more.
    :param scale: initial ``sqrt(E v)``, by default ``1 / sqrt(K)``. The rate is learned.
    :raises ValueError: if a size or ``scale`` is not positive, or ``concentration`` not above 1.
    """

    concentration: Tensor

    def __init__(self, num_slots: int, code_size: int, concentration: float = 2.0, scale: float | None = None) -> None:
        super().__init__()
        check_at_least("HierarchicalMemory", 1, num_slots=num_slots, code_size=code_size)
        if not 1 < concentration < math.inf:
            raise ValueError(f"HierarchicalMemory: concentration is {concentration}; expected more than 1.")
        start = _start("HierarchicalMemory", num_slots, scale)
        self.register_buffer("concentration", torch.tensor(float(concentration)), persistent=False)
        # E v = rate / (concentration - 1)
        self.log_rate = nn.Parameter(torch.tensor(math.log((concentration - 1) * start**2)))
        self.loc = nn.Parameter(torch.randn(num_slots, code_size) * start)

    def forward(self) -> dist.Independent:
        """Independent rows, ``MultivariateStudentT`` each; batch shape () and event shape (K, C)."""
        identity = torch.eye(self.loc.shape[-1], dtype=self.loc.dtype, device=self.loc.device)
        scale = (self.log_rate.exp() / self.concentration).sqrt()  # without a batch: one for all rows
        df = 2 * self.concentration * torch.ones_like(scale)
        return dist.MultivariateStudentT(df, self.loc, scale * identity, validate_args=False).to_event(1)

    def relevance(self, memory: Tensor) -> Tensor:
        """``E[v[k] | M]``, the variance of each slot, (..., K), given ``memory`` M (..., K, C)."""
        # Conjugacy: v[k] | M ~ InverseGamma(concentration + C / 2, rate + |M[k] - loc[k]|^2 / 2)
        squared = (memory - self.loc).square().sum(-1)
        return (self.log_rate.exp() + 0.5 * squared) / (self.concentration + 0.5 * memory.shape[-1] - 1)


def _start(name: str, num_slots: int, scale: float | None, factor: float = 1.0) -> float:
    """The initial ``scale``, by default ``factor / sqrt(K)``."""
    if scale is None:
        return factor * num_slots**-0.5
    check_positive(name, scale=scale)
    return scale
