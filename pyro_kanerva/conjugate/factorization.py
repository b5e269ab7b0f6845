"""Cholesky factors with gradients in closed form: each matrix is factorized once, forward and backward."""

from typing import Any

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor
from torch.autograd import Function

from pyro_kanerva._precision import full_precision


def cholesky(matrix: Tensor, name: str) -> Tensor:
    """Lower Cholesky factor of ``matrix`` (..., N, N).

    :raises ValueError: if a matrix of the batch is not positive definite, or not finite. With Pyro's validation
        off, returns NaN without synchronizing with the device.
    """
    if not is_validation_enabled():
        factor, info = torch.linalg.cholesky_ex(matrix)
        return factor * torch.where(info == 0, 1.0, torch.nan)[..., None, None]  # the gradient is NaN as well
    try:
        return torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError as error:
        state = "is not positive definite" if bool(matrix.isfinite().all()) else "has NaN or infinite entries"
        raise ValueError(
            f"{name} of shape {tuple(matrix.shape)} and dtype {matrix.dtype} {state}, so it has no Cholesky "
            "factor. Check the patterns and the encoder for extreme values, lower the learning rate, raise "
            "code_scale, or use float64."
        ) from error


def precision_to_scale_tril(precision: Tensor, name: str = "precision") -> Tensor:
    """Lower Cholesky factor of the inverse of ``precision`` (..., K, K), without forming the inverse.

    :raises ValueError: if a matrix of the batch is not positive definite, or not finite.
    """
    return _InverseFactor.apply(precision, name)  # type: ignore[no-untyped-call]


class _InverseFactor(Function):
    @staticmethod
    def forward(ctx: Any, precision: Tensor, name: str) -> Tensor:
        upper = cholesky(precision.flip(-2, -1), name).flip(-2, -1)  # precision = upper @ upper.mT
        identity = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        factor = torch.linalg.solve_triangular(upper, identity, upper=True).mT
        ctx.save_for_backward(factor)
        return factor

    @staticmethod
    @full_precision
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # F F^T = A^-1, so dF = -F phi(F^T dA F): phi takes the lower triangle with half of the diagonal.
        # Transposed: dL/dA = -F sym(tril(F^T dL/dF)) F^T / 2, where sym mirrors the lower triangle.
        (factor,) = ctx.saved_tensors
        inner = (factor.mT @ gradient).tril()
        inner = inner + inner.tril(-1).mT
        return -0.5 * (factor @ inner @ factor.mT), None


def inverse_positive(matrix: Tensor, name: str) -> Tensor:
    """The inverse of a symmetric positive definite ``matrix`` (..., N, N).

    :raises ValueError: if a matrix of the batch is not positive definite, or not finite.
    """
    return _InversePositive.apply(matrix, name)  # type: ignore[no-untyped-call]


class _InversePositive(Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, name: str) -> Tensor:
        inverse = torch.cholesky_inverse(cholesky(matrix, name))
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    @full_precision
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        # d(A^-1) = -A^-1 dA A^-1, so dL/dA = -A^-1 dL/d(A^-1) A^-1, symmetrized since A is symmetric.
        (inverse,) = ctx.saved_tensors
        return -0.5 * (inverse @ (gradient + gradient.mT) @ inverse), None
