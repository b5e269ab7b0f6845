r"""Closed-form addressing and writing in the linear-Gaussian surrogate of a Kanerva machine.

Generative surrogate, for codes ``z`` (C), addresses ``w`` (K) and a memory ``M`` (K, C)::

    M ~ MatrixNormal(R, U, I)        w ~ Normal(m, P^-1)        z | w, M ~ Normal(M^T w, sigma^2 I)

All functions are pure, batched over leading dimensions ``...``, differentiable, and never form a
covariance by subtraction: they carry lower Cholesky factors, so that covariances stay symmetric
positive definite in float32. Source: Wu et al. 2018 (arXiv 1811.09556), sections 3.1, 3.2 and the
appendix on the online update.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva.factorization import precision_to_scale_tril
from pyro_kanerva.matrix_normal import MatrixNormal


class AddressPosterior(NamedTuple):
    """q(w_t | z_t, M) of mean ``loc`` (..., T, K); one covariance serves all T patterns.

    ``scale_tril`` (..., K, K) is its lower Cholesky factor.
    """

    loc: Tensor
    scale_tril: Tensor


class NaturalParameters(NamedTuple):
    """Information form of a matrix normal; contributions of patterns, blocks and machines add up.

    ``precision`` (..., K, K) is U^-1, ``precision_loc`` (..., K, C) is U^-1 R.
    """

    precision: Tensor
    precision_loc: Tensor


def variance_of(noise_scale: Tensor | float, like: Tensor) -> Tensor:
    """``sigma^2``, a tensor like another.

    :raises ValueError: if ``noise_scale`` is a number that is not positive.
    """
    if not isinstance(noise_scale, Tensor) and not noise_scale > 0:
        raise ValueError(f"noise_scale is {noise_scale}; expected a positive standard deviation.")
    return torch.as_tensor(noise_scale, dtype=like.dtype, device=like.device).square()


def _factor(memory: MatrixNormal) -> Tensor:
    if memory.scale_tril_column is not None:
        raise ValueError(
            "The memory has a column factor; the closed forms expect independent columns, MN(R, U, I). Build it with "
            "scale_tril_column=None."
        )
    return memory.scale_tril_row


def address_posterior(
    codes: Tensor,
    memory_loc: Tensor,
    noise_scale: Tensor | float,
    *,
    prior_loc: Tensor | None = None,
    prior_precision: Tensor | None = None,
    row_covariance: Tensor | None = None,
) -> AddressPosterior:
    r"""Exact posterior of the addresses of ``codes``.

    ::

        A = P + (R R^T + C U) / sigma^2        q(w_t) = Normal(A^-1 (P m + R z_t / sigma^2), A^-1)

    With ``row_covariance=None`` the memory is known, ``M = R``, and this is q(w | z, M). With ``U`` it is
    the optimal mean-field factor under an uncertain memory, from ``E[M M^T] = R R^T + C U``.

    :param codes: ``z``, shape ``(..., T, C)``.
    :param memory_loc: ``R``, shape ``(..., K, C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :param prior_loc: ``m``, shape ``(K,)``; ``None`` for zero.
    :param prior_precision: ``P``, shape ``(K, K)``; ``None`` for the identity.
    :param row_covariance: ``U``, a covariance, shape ``(..., K, K)``.
    :raises ValueError: if the precision ``A`` cannot be factorized.
    """
    variance = variance_of(noise_scale, codes)
    second_moment = memory_loc @ memory_loc.mT
    if row_covariance is not None:
        second_moment = second_moment + codes.shape[-1] * row_covariance
    if prior_precision is None:
        prior_precision = torch.eye(memory_loc.shape[-2], dtype=codes.dtype, device=codes.device)
    scale_tril = precision_to_scale_tril(prior_precision + second_moment / variance, "the address precision")
    information = codes @ memory_loc.mT / variance  # (..., T, K)
    if prior_loc is not None:
        information = information + prior_precision @ prior_loc
    return AddressPosterior(information @ scale_tril @ scale_tril.mT, scale_tril)


def _downdate(factor: Tensor, projection: Tensor, variance: Tensor) -> Tensor:
    """Lower Cholesky factor of ``L (I - a a^T / (a^T a + variance)) L^T`` for ``a`` = ``projection`` (..., K).

    Carlson's square-root form (Carlson 1973, AIAA Journal 11(9)), with all columns at once: no
    subtraction of squares, the diagonal stays positive.
    """
    weighted = factor * projection.unsqueeze(-2)
    total = projection.square().flip(-1).cumsum(-1).flip(-1) + variance  # variance + sum over j >= i
    zeros = torch.zeros_like(weighted[..., :1])
    after = torch.cat([weighted[..., 1:].flip(-1).cumsum(-1).flip(-1), zeros], -1)  # sum over j > i
    total_after = torch.cat([total[..., 1:], variance.expand(total[..., :1].shape)], -1)
    shrink = (total_after / total).sqrt()
    return factor * shrink.unsqueeze(-2) - after * (projection / (total * total_after).sqrt()).unsqueeze(-2)


def block_update(
    memory: MatrixNormal,
    addresses: Tensor,
    codes: Tensor,
    noise_scale: Tensor | float,
    address_scale_tril: Tensor | None = None,
) -> MatrixNormal:
    r"""Bayes' rule for ``n`` patterns with addresses ``W`` at once.

    ::

        S = W U W^T + sigma^2 I_n,   G = U W^T S^-1,   R <- R + G (Z - W R),   U <- U - G W U

    computed in factor form: ``U = L L^T``, ``P = sum_t E[w_t w_t^T] / sigma^2`` and ``L <- L T`` with
    ``T T^T = (I + L^T P L)^-1``, of which T is worked out in float64, and for one known address in closed form. From
    ``n = 4 K`` on, it is :func:`add_evidence`.

    :param memory: q(M) before the write, with identity columns; batch ``(...)``, event ``(K, C)``.
    :param addresses: ``W``, the addresses or their means, shape ``(..., n, K)``.
    :param codes: ``Z``, shape ``(..., n, C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :param address_scale_tril: Cholesky factor of the covariance shared by the addresses,
        shape ``(..., K, K)``; ``None`` where the addresses are points.
    :return: q(M) after the write.
    :raises ValueError: if a matrix cannot be factorized, the memory has a column factor, or ``noise_scale``
        is not positive.
    """
    variance = variance_of(noise_scale, codes)
    factor, loc = _factor(memory), memory.loc
    (number, slots), spread = addresses.shape[-2:], address_scale_tril
    if number >= 4 * slots:
        return add_evidence(memory, evidence(addresses, codes, noise_scale, spread))
    residual = codes - addresses @ loc  # (..., n, C)
    if number == 1 and spread is None:
        projection = factor.mT @ addresses.mT  # (..., K, 1)
        direction = projection.squeeze(-1)
        gain = factor @ projection / (direction.square().sum(-1) + variance)[..., None, None]  # G
        return MatrixNormal(loc + gain @ residual, _downdate(factor, direction, variance), validate_args=False)
    precision = _precision(addresses.double(), variance.double(), None if spread is None else spread.double())
    exact = factor.double()
    identity = torch.eye(slots, dtype=exact.dtype, device=exact.device)
    change = precision_to_scale_tril(identity + exact.mT @ precision @ exact, "the precision gained by the block")
    factor = factor @ change.to(factor)
    gain = factor @ (addresses @ factor).mT / variance  # U W^T / sigma^2, with U after the write
    mean = loc + gain @ residual
    if spread is not None:  # Cov[w_t] draws towards zero
        mean = mean - number * (factor @ (spread.mT @ factor).mT) @ (spread.mT @ loc) / variance
    return MatrixNormal(mean, factor, validate_args=False)


def _precision(addresses: Tensor, variance: Tensor, spread: Tensor | None) -> Tensor:
    """``sum_t E[w_t w_t^T] / sigma^2``, (..., K, K)."""
    second_moment = addresses.mT @ addresses
    if spread is not None:
        second_moment = second_moment + addresses.shape[-2] * (spread @ spread.mT)
    return second_moment / variance


def online_update(memory: MatrixNormal, address: Tensor, code: Tensor, noise_scale: Tensor | float) -> MatrixNormal:
    r"""The paper's online Bayes rule: :func:`block_update` for one pattern.

    ::

        delta = z - R^T w,  u = U w,  s = w^T u + sigma^2,   R <- R + u delta^T / s,   U <- U - u u^T / s

    :param memory: q(M) before the write, with identity columns; batch ``(...)``, event ``(K, C)``.
    :param address: ``w``, shape ``(..., K)``.
    :param code: ``z``, shape ``(..., C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :raises ValueError: if the memory has a column factor, or ``noise_scale`` is not positive.
    """
    return block_update(memory, address.unsqueeze(-2), code.unsqueeze(-2), noise_scale)


def update_kl(memory: MatrixNormal, address: Tensor, code: Tensor, noise_scale: Tensor | float) -> Tensor:
    r"""KL(q(M) after || before) of one online update, in nats, shape ``(...)``.

    ::

        1/2 [ -C b + (b / s) |delta|^2 - C log(1 - b) ],   s = w^T U w + sigma^2,   b = w^T U w / s

    :param memory: q(M) before the write, with identity columns; batch ``(...)``, event ``(K, C)``.
    :param address: ``w``, shape ``(..., K)``.
    :param code: ``z``, shape ``(..., C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :raises ValueError: if the memory has a column factor, or ``noise_scale`` is not positive.
    """
    variance = variance_of(noise_scale, code)
    explained = (_factor(memory).mT @ address.unsqueeze(-1)).square().sum((-2, -1))  # w^T U w
    squared = (code.unsqueeze(-2) - address.unsqueeze(-2) @ memory.loc).square().sum((-2, -1))
    fraction = explained / (explained + variance)
    size = code.shape[-1]
    return 0.5 * (fraction * (squared / (explained + variance) - size) + size * torch.log1p(explained / variance))


def natural_parameters(memory: MatrixNormal) -> NaturalParameters:
    """``(U^-1, U^-1 R)`` of a matrix normal with identity columns."""
    return NaturalParameters(memory.row_precision, torch.cholesky_solve(memory.loc, _factor(memory)))


def from_natural_parameters(natural: NaturalParameters) -> MatrixNormal:
    """The matrix normal of a precision ``(..., K, K)`` and ``U^-1 R`` ``(..., K, C)``.

    :raises ValueError: if the precision is not positive definite.
    """
    scale_tril = precision_to_scale_tril(natural.precision, "the memory precision")
    return MatrixNormal(scale_tril @ (scale_tril.mT @ natural.precision_loc), scale_tril, validate_args=False)


def evidence(
    addresses: Tensor, codes: Tensor, noise_scale: Tensor | float, address_scale_tril: Tensor | None = None
) -> NaturalParameters:
    r"""What ``T`` patterns add to the natural parameters of the memory.

    ::

        sum_t E[w_t w_t^T] / sigma^2,      sum_t E[w_t] z_t^T / sigma^2

    :param addresses: means ``E[w_t]``, shape ``(..., T, K)``.
    :param codes: shape ``(..., T, C)``.
    :param address_scale_tril: Cholesky factor of the covariance shared by the addresses,
        shape ``(..., K, K)``; ``None`` where the addresses are points.
    :param noise_scale: ``sigma``, a standard deviation.
    :raises ValueError: if ``noise_scale`` is not positive.
    """
    variance = variance_of(noise_scale, codes)
    precision = _precision(addresses, variance, address_scale_tril)
    return NaturalParameters(precision, (addresses / variance).mT @ codes)


def add_evidence(memory: MatrixNormal, *parts: NaturalParameters) -> MatrixNormal:
    r"""Bayes' rule in natural parameters: ``memory`` with the contributions of ``parts`` added.

    ::

        U^-1 <- U^-1 + P,   U^-1 R <- U^-1 R + H,     for P, H the sums over parts

    computed in factor form: ``L <- L T`` with ``T T^T = (I + L^T P L)^-1``, then ``R <- R + U (H - P R)``.

    :raises ValueError: if no positive definite precision results, or there are no parts.
    """
    if not parts:
        raise ValueError("add_evidence(): no parts were given; expected at least one NaturalParameters.")
    precision = sum((part.precision for part in parts[1:]), start=parts[0].precision)
    information = sum((part.precision_loc for part in parts[1:]), start=parts[0].precision_loc)
    factor = _factor(memory)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    change = precision_to_scale_tril(identity + factor.mT @ precision @ factor, "the memory precision")
    factor = factor @ change
    loc = memory.loc + (factor @ factor.mT) @ (information - precision @ memory.loc)
    return MatrixNormal(loc, factor, validate_args=False)


def erase(memory: MatrixNormal, part: NaturalParameters) -> MatrixNormal:
    """The exact inverse of :func:`add_evidence`: ``memory`` without the contribution of ``part``.

    :raises ValueError: if ``part`` was not in ``memory``, so that no positive definite precision is left.
    """
    return add_evidence(memory, NaturalParameters(-part.precision, -part.precision_loc))


def merge(prior: MatrixNormal, memories: Sequence[MatrixNormal]) -> MatrixNormal:
    """One memory with the evidence of all ``memories``, each written from the same ``prior``.

    ``U^-1 = U0^-1 + sum_i (U_i^-1 - U0^-1)``, and likewise for ``U^-1 R``.

    :raises ValueError: if ``memories`` is empty.
    """
    if not memories:
        raise ValueError("merge(): memories is empty; expected at least one MatrixNormal.")
    base = natural_parameters(prior)
    parts = [natural_parameters(memory) for memory in memories]
    return from_natural_parameters(
        NaturalParameters(
            base.precision + sum(part.precision - base.precision for part in parts),
            base.precision_loc + sum(part.precision_loc - base.precision_loc for part in parts),
        )
    )


def coordinate_ascent_sweep(
    prior: MatrixNormal,
    memory: MatrixNormal,
    codes: Tensor,
    noise_scale: Tensor | float,
    *,
    prior_loc: Tensor | None = None,
    prior_precision: Tensor | None = None,
) -> tuple[MatrixNormal, AddressPosterior]:
    r"""One sweep of coordinate ascent on the mean-field bound of an episode.

    First all q(w_t) given q(M) = ``memory``, then q(M) given them, from ``prior``::

        U^-1 = U0^-1 + sum_t E[w_t w_t^T] / sigma^2,     U^-1 R = U0^-1 R0 + sum_t E[w_t] z_t^T / sigma^2

    The evidence lower bound of the surrogate never falls from sweep to sweep.

    :param prior: MN(R0, U0), the memory before the episode.
    :param memory: the current q(M).
    :param codes: shape ``(..., T, C)``.
    :return: the new q(M), and the q(w_t) that it was made from.
    :raises ValueError: if a matrix cannot be factorized.
    """
    addresses = address_posterior(
        codes,
        memory.loc,
        noise_scale,
        prior_loc=prior_loc,
        prior_precision=prior_precision,
        row_covariance=memory.row_covariance,
    )
    return block_update(prior, addresses.loc, codes, noise_scale, addresses.scale_tril), addresses
