"""The matrix normal distribution, parameterized by Cholesky factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.kl import register_kl

from pyro_kanerva._checks import check_dense
from pyro_kanerva._precision import full_precision
from pyro_kanerva.distributions.divergence import trace_gap


def _log_determinant_of_factor(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class MatrixNormal(TorchDistribution):
    """A Gaussian over K x C matrices with a row and an optional column covariance.

    ::

        X = loc + scale_tril_row @ Z @ scale_tril_column.T,    Z[k, c] ~ Normal(0, 1)

    so that ``Cov(X[i, c], X[j, d]) = row_covariance[i, j] * column_covariance[c, d]``. The memory of a Kanerva machine
    has independent columns with one shared row covariance: ``MN(R, U, I)``. Log densities, entropies and KL divergences
    are in nats. Source: Wu et al. 2018 (arXiv 1811.09556), section 2; Gupta and Nagar, "Matrix Variate Distributions"
    (1999), chapter 2.

    :param loc: mean, shape ``(..., K, C)``.
    :param scale_tril_row: lower Cholesky factor of the row *covariance*, shape ``(..., K, K)``. It is never copied to
        the batch of ``loc``.
    :param scale_tril_column: lower Cholesky factor of the column *covariance*, shape ``(..., C, C)``; ``None`` means
        independent columns of unit scale and is faster.
    :raises ValueError: if the shapes do not fit together, or a factor is not lower triangular with a positive diagonal.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "loc": constraints.independent(constraints.real, 2),
        "scale_tril_row": constraints.lower_cholesky,
    }
    support = constraints.independent(constraints.real, 2)
    has_rsample = True

    def __init__(
        self,
        loc: Tensor,
        scale_tril_row: Tensor,
        scale_tril_column: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        for name, part in (("loc", loc), ("scale_tril_row", scale_tril_row), ("scale_tril_column", scale_tril_column)):
            if part is not None or name != "scale_tril_column":
                check_dense(f"MatrixNormal: {name}", part)
        if loc.dim() < 2:
            raise ValueError(f"MatrixNormal: loc has shape {tuple(loc.shape)}; expected (..., K, C).")
        num_rows, num_columns = loc.shape[-2:]
        factors = {"scale_tril_row": (scale_tril_row, num_rows)}
        if scale_tril_column is not None:
            factors["scale_tril_column"] = (scale_tril_column, num_columns)
        batch_shape = loc.shape[:-2]
        for name, (factor, size) in factors.items():
            if factor.shape[-2:] != (size, size):
                raise ValueError(
                    f"MatrixNormal: {name} has shape {tuple(factor.shape)}; expected (..., {size}, {size}) "
                    f"for loc of shape {tuple(loc.shape)}."
                )
            try:
                batch_shape = torch.broadcast_shapes(batch_shape, factor.shape[:-2])
            except RuntimeError:
                raise ValueError(
                    f"MatrixNormal: {name} of shape {tuple(factor.shape)} does not broadcast with loc of "
                    f"shape {tuple(loc.shape)}. Give both the same batch dimensions."
                ) from None
        self.loc = loc.expand(batch_shape + loc.shape[-2:])  # a view; the factors keep their own batch
        self.scale_tril_row = scale_tril_row
        self.scale_tril_column = scale_tril_column
        super().__init__(batch_shape, loc.shape[-2:], validate_args=validate_args)
        if self._validate_args and not bool(constraints.lower_cholesky.check(self._column_factor()).all()):
            raise ValueError(
                "MatrixNormal: scale_tril_column is not lower triangular with a positive diagonal. "
                "Pass torch.linalg.cholesky(column_covariance)."
            )

    def expand(self, batch_shape: torch.Size | Sequence[int], _instance: MatrixNormal | None = None) -> MatrixNormal:
        """The same distribution with more batch dimensions; expands only ``loc``, as a view."""
        new = self._get_checked_instance(MatrixNormal, _instance)  # type: ignore[no-untyped-call]
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape + self.event_shape)
        new.scale_tril_row = self.scale_tril_row
        new.scale_tril_column = self.scale_tril_column
        super(MatrixNormal, new).__init__(batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def unsqueeze(self, dim: int) -> MatrixNormal:
        """The same distribution with a batch dimension of size 1 inserted at the negative position ``dim``."""

        def insert(factor: Tensor) -> Tensor:
            return factor.expand(self.batch_shape + factor.shape[-2:]).unsqueeze(dim - 2)

        column = None if self.scale_tril_column is None else insert(self.scale_tril_column)
        return MatrixNormal(insert(self.loc), insert(self.scale_tril_row), column, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """``loc``, shape ``(..., K, C)``."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """``loc``, shape ``(..., K, C)``."""
        return self.loc

    @property
    @full_precision
    def row_covariance(self) -> Tensor:
        """Row covariance ``U = scale_tril_row @ scale_tril_row.T``, shape ``(..., K, K)``."""
        return self.scale_tril_row @ self.scale_tril_row.mT

    @property
    def row_precision(self) -> Tensor:
        """Row precision ``U^-1``, shape ``(..., K, K)``."""
        return torch.cholesky_inverse(self.scale_tril_row)

    def _column_factor(self) -> Tensor:
        if self.scale_tril_column is None:
            return torch.eye(self.event_shape[1], dtype=self.loc.dtype, device=self.loc.device)
        return self.scale_tril_column

    @property
    @full_precision
    def column_covariance(self) -> Tensor:
        """Column covariance, shape ``(..., C, C)``; the identity if ``scale_tril_column`` is None."""
        return self._column_factor() @ self._column_factor().mT

    @property
    def variance(self) -> Tensor:
        """Variance of every entry, shape ``(..., K, C)``."""
        variance = self.scale_tril_row.square().sum(-1).unsqueeze(-1)  # (..., K, 1)
        if self.scale_tril_column is not None:
            variance = variance * self.scale_tril_column.square().sum(-1).unsqueeze(-2)
        return variance.expand(self.batch_shape + self.event_shape)

    @full_precision
    def rsample(self, sample_shape: torch.Size | Sequence[int] = torch.Size()) -> Tensor:
        """Reparameterized samples, shape ``sample_shape + (..., K, C)``."""
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = self.scale_tril_row @ torch.randn(shape, dtype=self.loc.dtype, device=self.loc.device)
        if self.scale_tril_column is not None:
            noise = noise @ self.scale_tril_column.mT
        return self.loc + noise

    def _log_determinant(self) -> Tensor:
        """Half the log determinant of the K C x K C covariance."""
        result = self.event_shape[1] * _log_determinant_of_factor(self.scale_tril_row)
        if self.scale_tril_column is not None:
            result = result + self.event_shape[0] * _log_determinant_of_factor(self.scale_tril_column)
        return result

    def _whiten(self, difference: Tensor) -> Tensor:
        """``L_row^-1 difference L_column^-T``, which is standard normal for ``difference = X - loc``."""
        white = torch.linalg.solve_triangular(self.scale_tril_row, difference, upper=False)
        if self.scale_tril_column is not None:
            white = torch.linalg.solve_triangular(self.scale_tril_column, white.mT, upper=False).mT
        return white

    @full_precision
    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats, shape of the batch."""
        if self._validate_args:
            self._validate_sample(value)
        squared = self._whiten(value - self.loc).square().sum((-2, -1))
        size = self.event_shape.numel()  # K C
        return -0.5 * (squared + size * math.log(2 * math.pi)) - self._log_determinant()

    def entropy(self) -> Tensor:
        """Differential entropy in nats, shape of the batch."""
        entropy = self._log_determinant() + 0.5 * self.event_shape.numel() * (1 + math.log(2 * math.pi))
        return entropy.expand(self.batch_shape)


@register_kl(MatrixNormal, MatrixNormal)  # type: ignore[untyped-decorator]
@full_precision
def kl_matrix_normal(q: MatrixNormal, p: MatrixNormal) -> Tensor:
    """KL(q || p) in nats, shape of the joint batch.

    For q = MN(R, U, I) and p = MN(R0, U0, I):
    ``1/2 [C tr(U0^-1 U) + tr((R - R0)^T U0^-1 (R - R0)) - K C + C (log|U0| - log|U|)]``.
    """
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"KL between matrix normals of event shapes {tuple(q.event_shape)} and {tuple(p.event_shape)}; "
            "expected equal shapes (K, C)."
        )
    (rows, columns), column_gap = q.event_shape, q.loc.new_zeros(())
    if q.scale_tril_column is None and p.scale_tril_column is None:
        # q's batch often shares one p: inverting its factor once is faster than solving for every batch element.
        identity = torch.eye(q.event_shape[0], dtype=q.loc.dtype, device=q.loc.device)
        inverse = torch.linalg.solve_triangular(p.scale_tril_row, identity, upper=False)
        inverse = inverse.expand(*q.loc.shape[:-2], *identity.shape) if inverse.dim() == 2 else inverse
        row_factor = inverse @ q.scale_tril_row  # of U0^-1 U, up to a change of basis
        squared = (inverse @ (q.loc - p.loc)).square().sum((-2, -1))  # tr((R - R0)^T U0^-1 (R - R0))
    else:
        row_factor = torch.linalg.solve_triangular(p.scale_tril_row, q.scale_tril_row, upper=False)
        column_factor = torch.linalg.solve_triangular(p._column_factor(), q._column_factor(), upper=False)
        row_excess = row_factor.square().sum((-2, -1)) - rows
        column_gap = rows * trace_gap(column_factor) + row_excess * (column_factor.square().sum((-2, -1)) - columns)
        squared = p._whiten(q.loc - p.loc).square().sum((-2, -1))
    return 0.5 * (columns * trace_gap(row_factor) + column_gap + squared)
