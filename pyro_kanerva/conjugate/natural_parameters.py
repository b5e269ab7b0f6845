"""Writing in natural parameters, where contributions of patterns, blocks and machines add up."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._checks import describe
from pyro_kanerva._repr import short_repr
from pyro_kanerva.conjugate.closed_form import closed_form
from pyro_kanerva.conjugate.exact_address_posterior import variance_of
from pyro_kanerva.conjugate.factorization import precision_to_scale_tril
from pyro_kanerva.distributions import MatrixNormal


@short_repr
class NaturalParameters(NamedTuple):
    """Information form of a matrix normal, or what patterns add to it.

    ``precision`` (..., K, K) is U^-1, ``precision_loc`` (..., K, C) is U^-1 R.
    """

    precision: Tensor
    precision_loc: Tensor


def row_factor(posterior: MatrixNormal) -> Tensor:
    """The Cholesky factor of the row covariance of a memory, which must have no column factor."""
    if posterior.scale_tril_column is not None:
        raise ValueError(
            "The memory has a column factor; the closed forms expect independent columns, MN(R, U, I). Build it with "
            "scale_tril_column=None."
        )
    return posterior.scale_tril_row


def address_second_moment(addresses: Tensor, address_scale_tril: Tensor | None) -> Tensor:
    """``sum_t E[w_t w_t^T]``, (..., K, K)."""
    second_moment = addresses.mT @ addresses
    if address_scale_tril is None:
        return second_moment
    return second_moment + addresses.shape[-2] * (address_scale_tril @ address_scale_tril.mT)


@closed_form("statistics()", exact=True, addresses="nK", codes="nC", address_scale_tril="KK")
def statistics(
    addresses: Tensor, codes: Tensor, noise_scale: Tensor | float, address_scale_tril: Tensor | None = None
) -> NaturalParameters:
    r"""What ``T`` patterns add to the natural parameters of the memory, in float64.

    ::

        sum_t E[w_t w_t^T] / sigma^2,      sum_t E[w_t] z_t^T / sigma^2

    :param addresses: means ``E[w_t]``, shape ``(..., T, K)``.
    :param codes: shape ``(..., T, C)``.
    :param noise_scale: ``sigma``, a standard deviation.
    :param address_scale_tril: Cholesky factor of the covariance shared by the addresses,
        shape ``(..., K, K)``; ``None`` where the addresses are points.
    :raises ValueError: if ``noise_scale`` is a number that is not positive.
    """
    variance = variance_of(noise_scale, codes)
    precision = address_second_moment(addresses, address_scale_tril) / variance
    return NaturalParameters(precision, (addresses / variance).mT @ codes)


def add_statistics(posterior: MatrixNormal, *parts: NaturalParameters) -> MatrixNormal:
    r"""Bayes' rule in natural parameters: ``posterior`` with the contributions of ``parts`` added.

    ::

        U^-1 <- U^-1 + P,   U^-1 R <- U^-1 R + H,     for P, H the sums over parts

    computed in factor form: ``L <- L T`` with ``T T^T = (I + L^T P L)^-1``, then ``R <- R + U (H - P R)``.
    Negative contributions take patterns out again.

    :raises ValueError: if no positive definite precision results, or there are no parts.
    """
    if not parts or not all(isinstance(part, NaturalParameters) for part in parts):
        raise ValueError(f"add_statistics(): parts are {describe(parts)}; expected at least one NaturalParameters.")
    precisions, locs = ([part[index].double() for part in parts] for index in (0, 1))
    return _add(posterior, sum(precisions[1:], start=precisions[0]), sum(locs[1:], start=locs[0]))


@closed_form("add_statistics()", posterior="KC", precision="KK", information="KC")
def _add(posterior: MatrixNormal, precision: Tensor, information: Tensor) -> MatrixNormal:
    factor = row_factor(posterior)
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    change = precision_to_scale_tril(identity + factor.mT @ precision @ factor, "the memory precision")
    factor = factor @ change
    loc = posterior.loc + (factor @ factor.mT) @ (information - precision @ posterior.loc)
    return MatrixNormal(loc, factor, validate_args=False)
