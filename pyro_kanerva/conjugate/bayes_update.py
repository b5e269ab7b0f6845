"""Bayes' rule for the memory, given the addresses of one pattern, of a block, or of an episode."""

import torch
from torch import Tensor

from pyro_kanerva.conjugate.closed_form import closed_form
from pyro_kanerva.conjugate.exact_address_posterior import AddressPosterior, address_posterior, variance_of
from pyro_kanerva.conjugate.factorization import precision_to_scale_tril
from pyro_kanerva.conjugate.natural_parameters import add_statistics, address_second_moment, row_factor, statistics
from pyro_kanerva.distributions import MatrixNormal


@closed_form("online_update()", posterior="KC", address="K", code="C")
def online_update(posterior: MatrixNormal, address: Tensor, code: Tensor, noise_scale: Tensor | float) -> MatrixNormal:
    r"""The paper's online Bayes rule, for one pattern.

    ::

        delta = z - R^T w,  u = U w,  s = w^T u + sigma^2,   R <- R + u delta^T / s,   U <- U - u u^T / s

    Arguments as for :func:`block_update`, with ``address`` w, shape ``(..., K)``, and ``code`` z, shape ``(..., C)``.

    :raises ValueError: if the memory has a column factor, or ``noise_scale`` is a number that is not positive.
    """
    variance, factor = variance_of(noise_scale, code), row_factor(posterior)
    delta = code.unsqueeze(-2) - address.unsqueeze(-2) @ posterior.loc  # (..., 1, C)
    projection = factor.mT @ address.unsqueeze(-1)  # L^T w, (..., K, 1)
    direction = projection.squeeze(-1)
    gain = factor @ projection / (direction.square().sum(-1) + variance)[..., None, None]  # u / s
    return MatrixNormal(posterior.loc + gain @ delta, _downdate(factor, direction, variance), validate_args=False)


def _downdate(factor: Tensor, projection: Tensor, variance: Tensor) -> Tensor:
    """Lower Cholesky factor of ``L (I - a a^T / (a^T a + variance)) L^T`` for ``a`` = ``projection`` (..., K).

    Carlson's square-root form (Carlson 1973, AIAA Journal 11(9)), with all columns at once. It subtracts no
    squares, so that the diagonal stays positive.
    """
    weighted = factor * projection.unsqueeze(-2)
    total = projection.square().flip(-1).cumsum(-1).flip(-1) + variance  # variance + sum over j >= i
    zeros = torch.zeros_like(weighted[..., :1])
    after = torch.cat([weighted[..., 1:].flip(-1).cumsum(-1).flip(-1), zeros], -1)  # sum over j > i
    total_after = torch.cat([total[..., 1:], variance.expand(total[..., :1].shape)], -1)
    shrink = (total_after / total).sqrt()
    return factor * shrink.unsqueeze(-2) - after * (projection / (total * total_after).sqrt()).unsqueeze(-2)


@closed_form("block_update()", posterior="KC", addresses="nK", codes="nC", address_scale_tril="KK")
def block_update(
    posterior: MatrixNormal,
    addresses: Tensor,
    codes: Tensor,
    noise_scale: Tensor | float,
    address_scale_tril: Tensor | None = None,
) -> MatrixNormal:
    r"""Bayes' rule for ``n`` patterns with addresses ``W`` at once.

    ::

        S = W U W^T + sigma^2 I_n,   G = U W^T S^-1,   R <- R + G (Z - W R),   U <- U - G W U

    computed in factor form: ``U = L L^T``, ``P = sum_t E[w_t w_t^T] / sigma^2`` and ``L <- L T`` with
    ``T T^T = (I + L^T P L)^-1``. One known address is :func:`online_update`.
    From ``n = 4 K`` on, the natural parameters are cheaper: :func:`add_statistics`.

    :param posterior: q(M) before the write, with identity columns; batch ``(...)``, event ``(K, C)``.
    :param addresses: ``W``, the addresses or their means, shape ``(..., n, K)``.
    :param codes: ``Z``, shape ``(..., n, C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :param address_scale_tril: Cholesky factor of the covariance shared by the addresses,
        shape ``(..., K, K)``; ``None`` where the addresses are points.
    :return: q(M) after the write.
    :raises ValueError: if a matrix cannot be factorized, the memory has a column factor, or ``noise_scale``
        is a number that is not positive.
    """
    number, slots = addresses.shape[-2:]
    if number >= 4 * slots:
        return add_statistics(posterior, statistics(addresses, codes, noise_scale, address_scale_tril))
    if number == 1 and address_scale_tril is None:
        return online_update(posterior, addresses.squeeze(-2), codes.squeeze(-2), noise_scale)
    variance, factor, loc = variance_of(noise_scale, codes), row_factor(posterior), posterior.loc
    residual = codes - addresses @ loc  # (..., n, C)
    precision = address_second_moment(addresses, address_scale_tril) / variance
    identity = torch.eye(slots, dtype=factor.dtype, device=factor.device)
    change = precision_to_scale_tril(identity + factor.mT @ precision @ factor, "the precision gained by the block")
    factor = factor @ change
    gain = factor @ (addresses @ factor).mT / variance  # U W^T / sigma^2, with U after the write
    mean = loc + gain @ residual
    if address_scale_tril is not None:  # Cov[w_t] shrinks the mean towards zero
        shrink = factor @ (address_scale_tril.mT @ factor).mT  # U F, for Cov[w_t] = F F^T
        mean = mean - number * shrink @ (address_scale_tril.mT @ loc) / variance
    return MatrixNormal(mean, factor, validate_args=False)


@closed_form("coordinate_ascent_sweep()", prior="KC", posterior="KC", codes="nC")
def coordinate_ascent_sweep(
    prior: MatrixNormal, posterior: MatrixNormal, codes: Tensor, noise_scale: Tensor | float
) -> tuple[MatrixNormal, AddressPosterior]:
    r"""One sweep of coordinate ascent on the mean-field bound of an episode.

    First all q(w_t) given q(M) = ``posterior``, then q(M) given them, from ``prior``::

        U^-1 = U0^-1 + sum_t E[w_t w_t^T] / sigma^2,     U^-1 R = U0^-1 R0 + sum_t E[w_t] z_t^T / sigma^2

    The evidence lower bound of the surrogate never falls from sweep to sweep.

    :param prior: MN(R0, U0), the memory before the episode.
    :param posterior: the current q(M).
    :param codes: shape ``(..., T, C)``.
    :return: the new q(M), and the q(w_t) that it was made from.
    :raises ValueError: if a matrix cannot be factorized.
    """
    addresses = address_posterior(codes, posterior.loc, noise_scale, row_covariance=posterior.row_covariance)
    return block_update(prior, addresses.loc, codes, noise_scale, addresses.scale_tril), addresses
