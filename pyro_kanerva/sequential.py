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

from pyro_kanerva._precision import full_precision_backward
from pyro_kanerva.conjugate import (
    NaturalParameters,
    add_evidence,
    block_update,
    coordinate_ascent_sweep,
    evidence,
    variance_of,
)
from pyro_kanerva.factorization import inverse_positive, precision_to_scale_tril
from pyro_kanerva.matrix_normal import MatrixNormal


def write_sequence(
    memory: MatrixNormal, codes: Tensor, noise_scale: Tensor | float, block_size: int, sweeps: int = 0
) -> tuple[MatrixNormal, Tensor, Tensor | None, NaturalParameters | None]:
    """Write ``codes`` (..., T, C) in blocks of ``block_size``, then ``sweeps`` times all of them by coordinate ascent.

    Returns q(M); the means of the addresses (..., T, K); the Cholesky factor of their covariance (..., K, K), if there
    were sweeps; and, for a single long block, the evidence of the addresses, which is at hand.

    The memory is brought up to date, and the inverses are renewed, every 256 patterns.

    :param memory: q(M) before the write, with identity columns; batch ``()`` or ``(...)``, event ``(K, C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :raises ValueError: if a matrix cannot be factorized, the memory has a column factor, or ``noise_scale``
        is not positive.
    """
    (slots, size), length = memory.event_shape, codes.shape[-2]
    variance = variance_of(noise_scale, codes)
    if block_size < length <= _CHUNK and sweeps:
        # the first sweep needs of q(M) only E[M M^T] = R R^T + C U and R Z^T, which the sequence knows
        _, precision, covariance, projections = _sequence(memory, codes, variance, block_size, True)
        factor = precision_to_scale_tril(precision + size * covariance, _NAME)
        addresses = projections.mT @ factor @ factor.mT
        after = block_update(memory, addresses, codes, noise_scale, factor)
        return _sweep(memory, after, codes, noise_scale, sweeps - 1, (addresses, factor, None))
    if 4 * slots <= length <= block_size:
        addresses = _block_addresses(memory, codes, variance)
        part = evidence(addresses, codes, noise_scale)
        return _sweep(memory, add_evidence(memory, part), codes, noise_scale, sweeps, (addresses, None, part))
    after, written = memory, []
    for chunk in codes.split(max(_CHUNK // block_size, 1) * block_size, -2):
        if chunk.shape[-2] > block_size:
            written.append(_sequence(after, chunk, variance, block_size, False)[0])
        else:
            written.append(_block_addresses(after, chunk, variance))
        after = block_update(after, written[-1], chunk, noise_scale)
    return _sweep(memory, after, codes, noise_scale, sweeps, (torch.cat(written, -2), None, None))


def _sweep(
    memory: MatrixNormal,
    after: MatrixNormal,
    codes: Tensor,
    noise_scale: Tensor | float,
    sweeps: int,
    written: tuple[Tensor, Tensor | None, NaturalParameters | None],
) -> tuple[MatrixNormal, Tensor, Tensor | None, NaturalParameters | None]:
    for _ in range(sweeps):
        after, addresses = coordinate_ascent_sweep(memory, after, codes, noise_scale)
        written = (*addresses, None)
    return after, *written


_CHUNK = 256
_NAME = "the address precision"


def _block_addresses(memory: MatrixNormal, codes: Tensor, variance: Tensor) -> Tensor:
    """The addresses (..., T, K) of codes (..., T, C) that are written as one block into ``memory``."""
    loc = memory.loc
    precision = loc @ loc.mT + variance * torch.eye(loc.shape[-2], dtype=loc.dtype, device=loc.device)
    if codes.shape[-2] > codes.shape[-1]:
        return codes @ (inverse_positive(precision, _NAME) @ loc).mT
    return codes @ loc.mT @ inverse_positive(precision, _NAME)


def _sequence(
    memory: MatrixNormal, codes: Tensor, variance: Tensor, block_size: int, last: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The addresses (..., T, K) of codes (..., T, C) that are written in blocks, the first one into ``memory``.

    With ``last``, also ``G + I``, U and B after the last block, in units of sigma.
    """
    batch = torch.broadcast_shapes(codes.shape[:-2], memory.batch_shape)
    loc, factor = (_flatten(part, batch) for part in (memory.loc, memory.scale_tril_row))
    flat = codes.expand(*batch, *codes.shape[-2:]).reshape(-1, *codes.shape[-2:])
    results = _Sequence.apply(  # type: ignore[no-untyped-call]
        loc, factor, flat, variance, block_size, last, torch.is_grad_enabled()
    )
    addresses, precision, state = (result.reshape(*batch, *result.shape[-2:]) for result in results)
    return addresses, precision, state[..., : loc.shape[-2]], state[..., loc.shape[-2] :]


def _flatten(tensor: Tensor, batch: torch.Size) -> Tensor:
    """(..., N, M) as (B, N, M); as it is where it has no batch of its own and there is one."""
    if tensor.dim() == 2 and batch:
        return tensor
    return tensor.expand(*batch, *tensor.shape[-2:]).reshape(-1, *tensor.shape[-2:])


class _Sequence(Function):
    """In float64, since ``Z Z^T - W B`` is a small difference of large numbers, and in units of sigma."""

    @staticmethod
    def forward(
        ctx: Any, loc: Tensor, factor: Tensor, codes: Tensor, variance: Tensor, size: int, last: bool, keep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        (batch, total, _), slots = codes.shape, loc.shape[-2]
        exact = loc.double(), factor.double(), codes.double()
        gram = exact[0] @ exact[0].mT / variance
        covariance = exact[1] @ exact[1].mT / variance
        code_gram = exact[2] @ exact[2].mT / variance
        projections = (exact[2] @ exact[0].mT / variance).mT
        state = torch.cat([covariance.expand(batch, -1, -1), projections], -1)  # [U | B], (B, K, K + T)
        precision = (gram + torch.eye(slots, dtype=gram.dtype, device=gram.device)).expand(batch, -1, -1).clone()
        addresses, steps = [], []
        for start in range(0, total, size):
            block = slice(slots + start, slots + min(start + size, total))
            if start == 0 or size > 1:
                inverse = inverse_positive(precision, _NAME)
            address = inverse @ state[..., block]  # W^T, (B, K, n)
            change = address.mT @ state  # [W U | W B]
            innovation = change[..., :slots] @ address
            innovation.diagonal(dim1=-2, dim2=-1).add_(1)
            divide = inverse_positive(innovation, "the innovation covariance") if size > 1 else 1 / innovation
            gain = divide @ change[..., :slots]  # N, (B, n, K)
            change.neg_()[..., slots:].add_(code_gram[..., start : start + size, :])  # [-W U | D]
            residual = torch.baddbmm(change[..., block], address.mT, address, alpha=-1)  # E E^T
            state.baddbmm_(gain.mT, change)
            addresses.append(address)
            if keep:
                steps.append((block, inverse, divide, address.mT, change, gain, residual))
            if last or (size > 1 and start + size < total):
                half = torch.baddbmm(address.mT, residual, gain, alpha=0.5)
                precision.baddbmm_(gain.mT, half).baddbmm_(half.mT, gain)
            if size == 1 and start + size < total:
                inverse = _rank_two(inverse, address, gain.mT, residual)
        ctx.steps, ctx.exact = steps, (gram, code_gram, state)
        ctx.save_for_backward(loc, factor, codes, variance)
        # a copy, also in float64: an output kept here would be a circle of references
        return torch.cat(addresses, -1).mT.to(codes), precision.to(codes), state.to(codes.dtype, copy=True)

    @staticmethod
    @full_precision_backward
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, d_precision: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        # d_x is the gradient by x; the one by the symmetric G is kept twice
        loc, factor, codes, variance = ctx.saved_tensors
        gram, code_gram, last = ctx.exact
        state, slots = last.clone(), gradient.shape[-1]
        gradient, d_state, d_gram = (
            part.double() for part in (gradient, d_state.clone(), d_precision + d_precision.mT)
        )
        d_code_grams = []
        for block, inverse, divide, address, change, gain, residual in reversed(ctx.steps):
            patterns = slice(block.start - slots, block.stop - slots)
            state.baddbmm_(gain.mT, change, alpha=-1)  # as it was before this block
            # [U | B] and G after the block, from those before it
            d_change, through = gain @ d_state, gain @ d_gram
            d_residual = 0.5 * through @ gain.mT
            d_gain = torch.baddbmm(change @ d_state.mT, torch.baddbmm(address, residual, gain), d_gram)
            d_address = torch.baddbmm(gradient[..., patterns, :] + through, d_residual, address, alpha=-2)
            d_change[..., block] += d_residual
            # N = S^-1 W U, S = W U W^T + I
            d_projected = divide @ d_gain
            d_innovation = d_projected @ gain.mT
            d_change[..., :slots] -= torch.baddbmm(d_projected, d_innovation, address, alpha=-1)
            d_address.baddbmm_(d_innovation.mT, change[..., :slots])
            # [-W U | D], D = Q - W B
            d_code_grams.append(d_change[..., slots:])
            d_address.baddbmm_(d_change, state.mT, alpha=-1)
            d_state.baddbmm_(address.mT, d_change, alpha=-1)
            # W^T = (G + I)^-1 B
            d_right = inverse @ d_address.mT  # (B, K, n)
            d_state[..., block] += d_right
            left, right = torch.cat([d_right, address.mT], -1), torch.cat([address, d_right.mT], -2)
            d_gram.baddbmm_(left, right, alpha=-1)
        d_code_gram = torch.cat(d_code_grams[::-1], -2)
        d_variance = (
            -((d_state * state).sum() + 0.5 * (d_gram * gram).sum() + (d_code_gram * code_gram).sum()) / variance
        )
        d_state, d_gram, d_code_gram = d_state / variance, d_gram / variance, d_code_gram / variance
        d_covariance, d_projections = d_state[..., :slots], d_state[..., slots:]
        exact = loc.double(), factor.double(), codes.double()
        d_loc = d_gram @ exact[0] + d_projections @ exact[2]
        d_factor = (d_covariance + d_covariance.mT) @ exact[1]
        d_codes = (d_code_gram + d_code_gram.mT) @ exact[2] + d_projections.mT @ exact[0]
        sums = d_loc.sum_to_size(loc.shape).to(loc), d_factor.sum_to_size(factor.shape).to(factor)
        return *sums, d_codes.to(codes), d_variance.to(variance), None, None, None


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
