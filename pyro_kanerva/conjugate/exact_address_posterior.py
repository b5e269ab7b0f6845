"""The address of a code, given the memory."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._checks import check_dense, check_number, check_positive, checks_values
from pyro_kanerva._precision import full_precision
from pyro_kanerva._repr import short_repr
from pyro_kanerva.conjugate.closed_form import closed_form
from pyro_kanerva.conjugate.factorization import inverse_positive, precision_to_scale_tril
from pyro_kanerva.distributions import GaussianMixture

ADDRESS_PRECISION = "the address precision"  # its name in errors


@short_repr
class AddressPosterior(NamedTuple):
    """q(w_t | z_t, M) of mean ``loc`` (..., T, K); one covariance serves all T patterns.

    ``scale_tril`` (..., K, K) is its lower Cholesky factor.
    """

    loc: Tensor
    scale_tril: Tensor


def variance_of(noise_scale: Tensor | float, like: Tensor) -> Tensor:
    """``sigma^2``, a tensor of the dtype and device of ``like``."""
    if isinstance(noise_scale, Tensor):
        check_dense("conjugate: noise_scale", noise_scale)
        if noise_scale.dim():
            raise ValueError(f"conjugate: noise_scale has shape {tuple(noise_scale.shape)}; expected ().")
        if checks_values() and not bool((noise_scale > 0) & noise_scale.isfinite()):
            raise ValueError(
                f"conjugate: noise_scale is {noise_scale.item()}; expected a positive number. If training diverged, "
                "lower the learning rate."
            )
    else:
        check_number("conjugate: noise_scale", noise_scale, "a standard deviation")
        check_positive("conjugate", noise_scale=noise_scale)
    return torch.as_tensor(noise_scale, dtype=like.dtype, device=like.device).square()


@full_precision
def code_information(memory_loc: Tensor, variance: Tensor, row_covariance: Tensor | None = None) -> Tensor:
    r"""The precision that a code adds to that of its address: ``(R R^T + C U) / sigma^2``, shape ``(..., K, K)``.

    :param memory_loc: ``R``, shape ``(..., K, C)``.
    :param variance: ``sigma^2``, shape ``()``.
    :param row_covariance: ``U``, a covariance, shape ``(..., K, K)``; ``None`` for a known memory, ``M = R``.
    """
    second_moment = memory_loc @ memory_loc.mT
    if row_covariance is not None:
        second_moment = second_moment + memory_loc.shape[-1] * row_covariance
    return second_moment / variance


@full_precision
def address_precision(information: Tensor, prior_precision: Tensor, jacobian: Tensor | None = None) -> Tensor:
    r"""The precision of an address given its code: ``A = P + J^T I J``, shape ``(..., n, n)``.

    :param information: ``I``, of :func:`code_information`, shape ``(..., K, K)``.
    :param prior_precision: ``P``, shape ``(..., n, n)``.
    :param jacobian: ``J = dw/du``, shape ``(..., K, n)``, for the precision of other coordinates u of the address;
        ``None`` for that of the address itself, ``n = K``.
    """
    return prior_precision + (information if jacobian is None else jacobian.mT @ information @ jacobian)


@closed_form(
    "address_posterior()", codes="nC", memory_loc="KC", prior_loc="K", prior_precision="KK", row_covariance="KK"
)
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
    if prior_precision is None:
        prior_precision = torch.eye(memory_loc.shape[-2], dtype=codes.dtype, device=codes.device)
    variance = variance_of(noise_scale, codes)
    precision = address_precision(code_information(memory_loc, variance, row_covariance), prior_precision)
    scale_tril = precision_to_scale_tril(precision, ADDRESS_PRECISION)
    precision_loc = codes @ memory_loc.mT / variance  # (..., T, K)
    if prior_loc is not None:
        precision_loc = precision_loc + prior_precision @ prior_loc
    return AddressPosterior(precision_loc @ scale_tril @ scale_tril.mT, scale_tril)


@closed_form("mixture_address_posterior()", codes="nC", memory_loc="KC", row_covariance="KK")
def mixture_address_posterior(
    codes: Tensor,
    memory_loc: Tensor,
    noise_scale: Tensor | float,
    prior: GaussianMixture,
    *,
    row_covariance: Tensor | None = None,
) -> GaussianMixture:
    r"""Exact posterior of the addresses of ``codes`` under a mixture prior: attention over its components.

    For a prior ``p(w) = sum_k pi_k Normal(m_k, P^-1)`` and ``I = (R R^T + C U) / sigma^2``::

        A = P + I        q(w_t) = sum_k r_tk Normal(A^-1 (P m_k + R z_t / sigma^2), A^-1)
        r_tk is proportional to pi_k Normal(z_t; R^T m_k, sigma^2 I + R^T P^-1 R)                    where U = 0

    Arguments as for :func:`address_posterior`.

    :param prior: of batch shape () and event shape (K,).
    :return: batch shape ``(..., T)``, event shape ``(K,)``.
    :raises ValueError: if the precision ``A`` cannot be factorized.
    """
    variance = variance_of(noise_scale, codes)
    prior_precision = torch.cholesky_inverse(prior.scale_tril)
    information = code_information(memory_loc, variance, row_covariance)
    scale_tril = precision_to_scale_tril(address_precision(information, prior_precision), ADDRESS_PRECISION)
    projected = codes @ memory_loc.mT / variance  # R z / sigma^2, (..., T, K)
    means = prior.component_means  # (J, K)
    offsets = means @ prior_precision @ scale_tril @ scale_tril.mT  # A^-1 P m_k, (..., J, K)
    # log r_tk = log pi_k + (A^-1 P m_k)^T (R z / sigma^2 - I m_k / 2), up to a term that all components share
    fit = (offsets * (means @ information)).sum(-1)
    logits = prior.logits + projected @ offsets.mT - 0.5 * fit.unsqueeze(-2)
    return GaussianMixture(projected @ scale_tril @ scale_tril.mT, offsets, logits, scale_tril, validate_args=False)


@closed_form("address_mean()", codes="nC", memory_loc="KC")
def address_mean(codes: Tensor, memory_loc: Tensor, noise_scale: Tensor | float) -> Tensor:
    """``E[w | z, M = R]`` under the address prior Normal(0, I): the mean of :func:`address_posterior` alone.

    ::

        W = Z R^T (R R^T + sigma^2 I)^-1

    Arguments as for :func:`address_posterior`; returns ``W``, shape ``(..., T, K)``.

    :raises ValueError: if the matrix cannot be factorized.
    """
    variance = variance_of(noise_scale, codes)
    identity = torch.eye(memory_loc.shape[-2], dtype=codes.dtype, device=codes.device)
    inverse = inverse_positive(memory_loc @ memory_loc.mT + variance * identity, ADDRESS_PRECISION)
    if codes.shape[-2] > codes.shape[-1]:  # the cheaper order of the two products
        return codes @ (inverse @ memory_loc).mT
    return codes @ memory_loc.mT @ inverse
