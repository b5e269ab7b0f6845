r"""The fast twin of :func:`pyro_kanerva.writers.online.write_in_blocks`: addresses from inner products of the codes.

A block ``Z_i`` (n, C) is addressed by the memory as it stands, and then written. In units of sigma, ``sigma = 1``::

    W_i = Z_i R_i^T (R_i R_i^T + I)^-1,     (R_i+1, U_i+1) = Bayes' rule for (W_i, Z_i)

The addresses depend on the memory and the codes only through products over the C columns::

    G = R R^T  (K, K),     B = R Z^T  (K, T),     Q = Z Z^T  (T, T)

A write changes these products in closed form. Let ``N = (W U W^T + I)^-1 W U`` (n, K), the residual ``E = Z_i - W R``
and its products ``D = E Z^T = Q_i - W B`` with all codes. W solves the normal equations, so ``E R^T = W``, and::

    U <- U - N^T W U,     B <- B + N^T D,     G <- G + N^T W + W^T N + N^T (E E^T) N,     E E^T = D_i - W W^T

For single patterns the inverse of ``G + I`` follows a symmetric change of rank 2, in O(K^2). The gradient is written by
hand. It goes back over the blocks and undoes each change, so that only the inverses are kept, not the states.

Source: Wu et al. 2018 (arXiv 1811.09556), section 3.3, with the algebra reordered.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate.bayes_update import block_update, coordinate_ascent_sweep
from pyro_kanerva.conjugate.closed_form import closed_form
from pyro_kanerva.conjugate.exact_address_posterior import ADDRESS_PRECISION, address_mean, variance_of
from pyro_kanerva.conjugate.factorization import inverse_positive, precision_to_scale_tril
from pyro_kanerva.distributions import MatrixNormal

_CHUNK = 256  # patterns after which the memory is updated and the products are computed anew


@closed_form("write_sequence()", prior="KC", codes="nC")
def write_sequence(
    prior: MatrixNormal, codes: Tensor, noise_scale: Tensor | float, block_size: int, sweeps: int = 0
) -> tuple[MatrixNormal, Tensor, Tensor | None]:
    """Write ``codes`` (..., T, C) in blocks of ``block_size``, then sweep ``sweeps`` times over all of them.

    :param prior: q(M) before the write, with identity columns; batch ``()`` or ``(...)``, event ``(K, C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :return: q(M); the means of the addresses (..., T, K); and, after sweeps, the Cholesky factor (..., K, K) of the
        covariance of the addresses, else None.
    :raises ValueError: if a matrix cannot be factorized, the memory has a column factor, or ``noise_scale``
        is a number that is not positive.
    """
    check_at_least("write_sequence()", 1, block_size=block_size)
    check_at_least("write_sequence()", 0, sweeps=sweeps)
    variance = variance_of(noise_scale, codes)
    factor: Tensor | None = None
    if sweeps and codes.shape[-2] <= _CHUNK:
        # The first sweep uses only E[M M^T] = R R^T + C U and R Z^T of q(M), which the sequence has computed.
        _, precision, covariance, projections = _sequence(prior, codes, variance, block_size, True)
        factor = precision_to_scale_tril(precision + codes.shape[-1] * covariance, ADDRESS_PRECISION)
        addresses = projections.mT @ factor @ factor.mT
        posterior = block_update(prior, addresses, codes, noise_scale, factor)
        sweeps -= 1
    else:
        posterior, written = prior, []
        for chunk in codes.split(max(_CHUNK // block_size, 1) * block_size, -2):
            if chunk.shape[-2] > block_size:
                written.append(_sequence(posterior, chunk, variance, block_size, False)[0])
            else:
                written.append(address_mean(chunk, posterior.loc, noise_scale))
            posterior = block_update(posterior, written[-1], chunk, noise_scale)
        addresses = torch.cat(written, -2)
    for _ in range(sweeps):
        posterior, (addresses, factor) = coordinate_ascent_sweep(prior, posterior, codes, noise_scale)
    return posterior, addresses, factor


def _sequence(
    posterior: MatrixNormal, codes: Tensor, variance: Tensor, block_size: int, last: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The addresses (..., T, K) of codes (..., T, C) that are written in blocks, the first one into ``posterior``.

    With ``last``, also ``G + I``, U and B after the last block, in units of sigma.
    """
    batch = torch.broadcast_shapes(codes.shape[:-2], posterior.batch_shape)
    loc, factor = (  # a prior without a batch stays without one
        part.expand(*batch, *part.shape[-2:]).reshape(-1, *part.shape[-2:]) if part.dim() > 2 or not batch else part
        for part in (posterior.loc, posterior.scale_tril_row)
    )
    flat = codes.expand(*batch, *codes.shape[-2:]).reshape(-1, *codes.shape[-2:])
    results = _Sequence.apply(  # type: ignore[no-untyped-call]
        loc, factor, flat, variance, block_size, last, torch.is_grad_enabled()
    )
    addresses, precision, state = (result.reshape(*batch, *result.shape[-2:]) for result in results)
    return addresses, precision, state[..., : loc.shape[-2]], state[..., loc.shape[-2] :]


class _Sequence(Function):
    """The loop over blocks, in float64: ``D = Q_i - W B`` is a small difference of large numbers."""

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
            block = slice(slots + start, slots + min(start + size, total))  # the columns of Z_i in the state
            if start == 0 or size > 1:
                inverse = inverse_positive(precision, ADDRESS_PRECISION)
            address = inverse @ state[..., block]  # W^T, (B, K, n)
            change = address.mT @ state  # [W U | W B]
            innovation = change[..., :slots] @ address  # W U W^T + I
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
                half = torch.baddbmm(address.mT, residual, gain, alpha=0.5)  # N^T half + half^T N is the change of G
                precision.baddbmm_(gain.mT, half).baddbmm_(half.mT, gain)
            if size == 1 and start + size < total:
                inverse = _rank_two(inverse, address, gain.mT, residual)
        ctx.steps, ctx.exact = steps, (gram, code_gram, state)
        ctx.save_for_backward(loc, factor, codes, variance)
        # A copy, also in float64: an output that ctx keeps would be a reference cycle.
        return torch.cat(addresses, -1).mT.to(codes), precision.to(codes), state.to(codes.dtype, copy=True)

    @staticmethod
    @full_precision
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, d_precision: Tensor, d_state: Tensor) -> tuple[Tensor | None, ...]:
        # `d_x` is dL/dx. G is symmetric; `d_gram` stores dL/dG + (dL/dG)^T. `address` is W, `change` is [-W U | D].
        loc, factor, codes, variance = ctx.saved_tensors
        gram, code_gram, last = ctx.exact
        state, slots = last.clone(), gradient.shape[-1]
        gradient, d_state, d_gram = (
            part.double() for part in (gradient, d_state.clone(), d_precision + d_precision.mT)
        )
        d_code_grams = []
        for block, inverse, divide, address, change, gain, residual in reversed(ctx.steps):
            patterns = slice(block.start - slots, block.stop - slots)
            state.baddbmm_(gain.mT, change, alpha=-1)  # [U | B] as it was before this block
            through = gain @ d_gram

            # G <- G + N^T W + W^T N + N^T (E E^T) N:
            d_residual = 0.5 * through @ gain.mT  # N d_gram N^T / 2, symmetric
            d_gain = torch.baddbmm(  # change d_state^T + (W + E E^T N) d_gram; the first term is that of [U | B], below
                change @ d_state.mT, torch.baddbmm(address, residual, gain), d_gram
            )
            # dL/dW: the incoming gradient, N d_gram, and -2 d_residual W from E E^T = D_i - W W^T
            d_address = torch.baddbmm(gradient[..., patterns, :] + through, d_residual, address, alpha=-2)
            # [U | B] <- [U | B] + N^T [-W U | D]:
            d_change = gain @ d_state  # N d_state
            d_change[..., block] += d_residual  # E E^T = D_i - W W^T

            # N = S^-1 W U, S = W U W^T + I:
            d_projected = divide @ d_gain  # dL/d(W U) = S^-1 d_gain
            d_innovation = d_projected @ gain.mT  # -dL/dS = S^-1 d_gain N^T
            # dL/d(-W U) -= d_projected - d_innovation W, the second from S = (W U) W^T + I
            d_change[..., :slots] -= torch.baddbmm(d_projected, d_innovation, address, alpha=-1)
            d_address.baddbmm_(d_innovation.mT, change[..., :slots])  # dL/dW from S: d_innovation^T (-W U)

            # [-W U | D] = [0 | Q_i] - W [U | B]:
            d_code_grams.append(d_change[..., slots:])  # dL/dQ_i = dL/dD
            d_address.baddbmm_(d_change, state.mT, alpha=-1)  # dL/dW = -d_change [U | B]^T
            d_state.baddbmm_(address.mT, d_change, alpha=-1)  # dL/d[U | B] = -W^T d_change

            # W^T = (G + I)^-1 B_i:
            d_right = inverse @ d_address.mT  # dL/dB_i = (G + I)^-1 d_address^T, (B, K, n)
            d_state[..., block] += d_right
            # dL/dG = -d_right W; with its transpose, -(d_right W + W^T d_right^T)
            left, right = torch.cat([d_right, address.mT], -1), torch.cat([address, d_right.mT], -2)
            d_gram.baddbmm_(left, right, alpha=-1)
        d_code_gram = torch.cat(d_code_grams[::-1], -2)
        # All four products are x y^T / sigma^2, so dL/d(sigma^2) = -<dL/dP, P> / sigma^2, summed over them.
        d_variance = (
            -((d_state * state).sum() + 0.5 * (d_gram * gram).sum() + (d_code_gram * code_gram).sum()) / variance
        )
        d_state, d_gram, d_code_gram = d_state / variance, d_gram / variance, d_code_gram / variance
        d_covariance, d_projections = d_state[..., :slots], d_state[..., slots:]
        exact = loc.double(), factor.double(), codes.double()
        d_loc = d_gram @ exact[0] + d_projections @ exact[2]  # G = R R^T, and B = R Z^T
        d_factor = (d_covariance + d_covariance.mT) @ exact[1]  # U = L L^T
        d_codes = (d_code_gram + d_code_gram.mT) @ exact[2] + d_projections.mT @ exact[0]  # Q = Z Z^T, and B = R Z^T
        sums = d_loc.sum_to_size(loc.shape).to(loc), d_factor.sum_to_size(factor.shape).to(factor)
        return *sums, d_codes.to(codes), d_variance.to(variance), None, None, None


def _rank_two(inverse: Tensor, address: Tensor, gain: Tensor, residual: Tensor) -> Tensor:
    """The inverse of ``A + c w^T + w c^T + d c c^T`` from that of A, for w, c (B, K, 1) and d (B, 1, 1).

    With ``V = [w, c]`` and ``S^-1 = [[0, 1], [1, d]]^-1 = [[-d, 1], [1, 0]]``, it is Woodbury's
    ``A^-1 - A^-1 V (S^-1 + V^T A^-1 V)^-1 V^T A^-1``.
    """
    pair = torch.cat([address, gain], -1)
    images = inverse @ pair  # A^-1 V
    inner = images.mT @ pair  # V^T A^-1 V, then with S^-1 added
    inner[..., 0, 0] -= residual[..., 0, 0]
    inner[..., 0, 1] += 1
    determinant = inner[..., 0, 0] * inner[..., 1, 1] - inner[..., 0, 1].square()
    inner[..., 1, 0] = inner[..., 0, 1]
    adjugate = inner.flip(-2, -1)
    adjugate[..., 0, 1].neg_(), adjugate[..., 1, 0].neg_()
    return torch.baddbmm(inverse, images @ (adjugate / determinant[..., None, None]), images.mT, alpha=-1)
