r"""Dynamic addressing without the codes: the addresses of a sequence of blocks, each inferred from all before it.

The block ``Z_i`` (n, C) is addressed by the memory as it stands and then written,

::

    W_i = (R_i R_i^T + r I)^-1 R_i Z_i^T  (transposed),     (R_i+1, U_i+1) = Bayes' rule for (W_i, Z_i),     r = sigma^2

and needs of the memory and the codes only products over the C columns::

    G = R R^T  (K, K),     B = R Z^T  (K, T),     Q = Z Z^T  (T, T)

since, with N = (W U W^T + r I)^-1 W U, D = Z_i Z^T - W B the projections of the residual E = Z_i - W R, and
``E R^T = r W``, which holds because W solves the normal equations, a write changes them by ::

    U <- U - N^T W U,     B <- B + N^T D,     G <- G + r (N^T W + W^T N) + N^T E E^T N,     E E^T = D_i - r W W^T

For single patterns the inverse of ``G + r I`` follows a symmetric change of rank 2, in O(K^2). The gradient is that of
these equations, by hand: it goes back over the blocks, undoing each change, so that no state but the inverses is kept.

Source: Wu et al. 2018 (arXiv 1811.09556), section 3.3, with the algebra reordered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pyro_kanerva.conjugate import NaturalParameters, add_evidence, block_update, evidence
from pyro_kanerva.factorization import cholesky, solve_positive
from pyro_kanerva.matrix_normal import MatrixNormal


def write_sequence(
    memory: MatrixNormal, codes: Tensor, noise_scale: Tensor | float, block_size: int
) -> tuple[MatrixNormal, Tensor, NaturalParameters | None]:
    """Write ``codes`` (..., T, C) in blocks of ``block_size``.

    Returns q(M) afterwards, the addresses (..., T, K), and, of a single block of K patterns or more, their evidence.

    The inverses are renewed, and the memory brought up to date by one :func:`~pyro_kanerva.conjugate.block_update`,
    every 256 patterns, so that rounding errors do not add up.

    :param memory: q(M) before the write, with identity columns; batch ``()`` or ``(...)``, event ``(K, C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :raises ValueError: if a matrix cannot be factorized, the memory has a column factor, or ``noise_scale``
        is not positive.
    """
    variance = torch.as_tensor(noise_scale, dtype=codes.dtype, device=codes.device).square()
    if memory.event_shape[0] <= codes.shape[-2] <= block_size:
        addresses = _addresses(memory, codes, variance, block_size)
        part = evidence(addresses, codes, noise_scale)
        return add_evidence(memory, part), addresses, part
    written = []
    for chunk in codes.split(max(_CHUNK // block_size, 1) * block_size, -2):
        addresses = _addresses(memory, chunk, variance, block_size)
        memory = block_update(memory, addresses, chunk, noise_scale)
        written.append(addresses)
    return memory, torch.cat(written, -2), None


_CHUNK = 256


def _addresses(memory: MatrixNormal, codes: Tensor, variance: Tensor, block_size: int) -> Tensor:
    """The addresses (..., T, K) of codes (..., T, C) that are written in blocks, the first one into ``memory``."""
    loc, factor = memory.loc, memory.scale_tril_row
    if codes.shape[-2] > block_size:
        batch = torch.broadcast_shapes(codes.shape[:-2], memory.batch_shape)
        loc, factor, flat = (_flatten(part, batch) for part in (loc, factor, codes))
        addresses: Tensor = _SequentialAddresses.apply(  # type: ignore[no-untyped-call]
            loc, factor, flat, variance, block_size, torch.is_grad_enabled()
        )
        return addresses.reshape(*batch, *addresses.shape[-2:])
    precision = loc @ loc.mT + variance * torch.eye(loc.shape[-2], dtype=loc.dtype, device=loc.device)
    if codes.shape[-2] > codes.shape[-1]:
        return codes @ solve_positive(precision, loc, _NAME).mT
    return solve_positive(precision, (codes @ loc.mT).mT, _NAME).mT


def _flatten(tensor: Tensor, batch: torch.Size) -> Tensor:
    """(..., N, M) as (B, N, M); as it is where it has no batch of its own and there is one."""
    if tensor.dim() == 2 and batch:
        return tensor
    return tensor.expand(*batch, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:])


class _SequentialAddresses(Function):
    """Forward in float64, since ``Z Z^T - W B`` is a small difference of large numbers, and in units of sigma."""

    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, factor: Tensor, codes: Tensor, variance: Tensor, block_size: int, keep: bool
    ) -> Tensor:
        (batch, total, _), slots = codes.shape, loc.shape[-2]
        exact = loc.double(), factor.double(), codes.double()
        gram = exact[0] @ exact[0].mT / variance
        covariance = exact[1] @ exact[1].mT / variance
        code_gram = exact[2] @ exact[2].mT / variance
        projections = (exact[2] @ exact[0].mT / variance).mT
        state = torch.cat([covariance.expand(batch, -1, -1), projections], -1)  # [U | B], (B, K, K + T)
        precision = (gram + torch.eye(slots, dtype=gram.dtype, device=gram.device)).expand(batch, -1, -1)
        inverse = torch.cholesky_inverse(cholesky(precision, _NAME)) if block_size == 1 else None
        addresses, steps = [], []
        for start in range(0, total, block_size):
            block = slice(slots + start, slots + min(start + block_size, total))
            solve = cholesky(precision, _NAME) if inverse is None else inverse
            address = _solve(solve, state[..., block], inverse is not None)  # W^T, (B, K, n)
            change = address.mT @ state  # [W U | W B]
            innovation = change[..., :slots] @ address
            innovation.diagonal(dim1=-2, dim2=-1).add_(1)
            divide = cholesky(innovation, "the innovation covariance") if inverse is None else 1 / innovation
            gain = _solve(divide, change[..., :slots], inverse is not None)  # N, (B, n, K)
            change.neg_()[..., slots:].add_(code_gram[..., start : start + block_size, :])  # [-W U | D]
            residual = torch.baddbmm(change[..., block], address.mT, address, alpha=-1)  # E E^T
            state.baddbmm_(gain.mT, change)
            if inverse is None:
                half = gain.mT @ torch.baddbmm(address.mT, residual, gain, alpha=0.5)
                precision = precision + half + half.mT
            else:
                inverse = _rank_two(inverse, address, gain.mT, residual)
            addresses.append(address.to(codes))
            if keep:
                steps.append((block, *(part.to(codes) for part in (solve, divide, address.mT, change, gain, residual))))
        ctx.steps, ctx.inverted = steps, inverse is not None
        ctx.save_for_backward(loc, factor, codes, variance, gram.to(codes), code_gram.to(codes), state.to(codes))
        return torch.cat(addresses, -1).mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        # d_x is the gradient by x; the one by the symmetric G is kept twice
        loc, factor, codes, variance, gram, code_gram, state = ctx.saved_tensors
        state, slots = state.clone(), gradient.shape[-1]
        d_state, d_gram = torch.zeros_like(state), torch.zeros_like(state[..., :slots])
        d_code_grams = []
        for block, solve, divide, address, change, gain, residual in reversed(ctx.steps):
            patterns = slice(block.start - slots, block.stop - slots)
            state.baddbmm_(gain.mT, change, alpha=-1)  # as it was before this block
            # [U | B] and G after the block, from those before it
            d_change, through = gain @ d_state, gain @ d_gram
            d_residual = 0.5 * through @ gain.mT
            d_gain = torch.baddbmm(change @ d_state.mT, torch.baddbmm(address, residual, gain), d_gram)
            d_address = torch.baddbmm(gradient[..., patterns, :] + through, d_residual, address, alpha=-2)
            d_change[..., block] += d_residual
            # N = S^-1 W U, S = W U W^T + I
            d_projected = _solve(divide, d_gain, ctx.inverted)
            d_innovation = d_projected @ gain.mT
            d_change[..., :slots] -= torch.baddbmm(d_projected, d_innovation, address, alpha=-1)
            d_address.baddbmm_(d_innovation.mT, change[..., :slots])
            # [-W U | D], D = Q - W B
            d_code_grams.append(d_change[..., slots:])
            d_address.baddbmm_(d_change, state.mT, alpha=-1)
            d_state.baddbmm_(address.mT, d_change, alpha=-1)
            # W^T = (G + I)^-1 B
            d_right = _solve(solve, d_address.mT, ctx.inverted)  # (B, K, n)
            d_state[..., block] += d_right
            left, right = torch.cat([d_right, address.mT], -1), torch.cat([address, d_right.mT], -2)
            d_gram.baddbmm_(left, right, alpha=-1)
        d_code_gram = torch.cat(d_code_grams[::-1], -2)
        d_scale = (d_state * state).sum() + 0.5 * (d_gram * gram).sum() + (d_code_gram * code_gram).sum()
        d_covariance, d_projections = d_state[..., :slots], d_state[..., slots:]
        d_codes = (d_code_gram + d_code_gram.mT) @ codes + d_projections.mT @ loc
        d_loc = d_gram @ loc + d_projections @ codes
        d_factor = (d_covariance + d_covariance.mT) @ factor
        return (
            d_loc.sum_to_size(loc.shape) / variance,
            d_factor.sum_to_size(factor.shape) / variance,
            d_codes / variance,
            -d_scale / variance,
            None,
            None,
        )


def _solve(matrix: Tensor, right: Tensor, inverted: bool) -> Tensor:
    return matrix @ right if inverted else torch.cholesky_solve(right, matrix)


_NAME = "the address precision"


def _rank_two(inverse: Tensor, address: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
    """The inverse of ``A + c w^T + w c^T + d c c^T`` from that of A, for w, c (B, K, 1) and d (B, 1, 1)."""
    pair = torch.cat([address, gain], -1)
    images = inverse @ pair  # A^-1 [w, c]
    inner = images.mT @ pair
    inner[..., 0, 0] -= residual[..., 0, 0]
    inner[..., 0, 1] += 1
    determinant = inner[..., 0, 0] * inner[..., 1, 1] - inner[..., 0, 1].square()
    inner[..., 1, 0] = inner[..., 0, 1]
    adjugate = inner.flip(-2, -1)
    adjugate[..., 0, 1].neg_(), adjugate[..., 1, 0].neg_()
    return torch.baddbmm(inverse, images @ (adjugate / determinant[..., None, None]), images.mT, alpha=-1)
