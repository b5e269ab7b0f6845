"""Bayes' rule for the memory, against conditioning of the vectorized matrix, in float64."""

import pytest
import torch
from helpers import condition, random_factor, random_write
from hypothesis import given
from hypothesis import strategies as st

from pyro_kanerva import MatrixNormal, conjugate

sizes = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 9))  # K, C, T


def brute_force_write(prior, addresses, codes, sigma):
    """Mean (K, C) and row covariance (K, K) from conditioning all K C entries of M on all T C codes."""
    (slots, size), number = prior.event_shape, len(codes)
    eye = torch.eye(size, dtype=torch.float64)
    loc, covariance = condition(
        prior.loc.flatten(),
        torch.kron(prior.row_covariance, eye),
        torch.kron(addresses, eye),
        codes.flatten(),
        sigma**2 * torch.eye(number * size, dtype=torch.float64),
    )
    covariance = covariance.view(slots, size, slots, size)
    torch.testing.assert_close(covariance[:, 0, :, 0], covariance[:, -1, :, -1])
    return loc.view(slots, size), covariance[:, 0, :, 0]


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_block_update_is_gaussian_conditioning(shape, sigma, seed):
    prior, addresses, codes = random_write(*shape, seed=seed)
    result = conjugate.block_update(prior, addresses, codes, sigma)
    loc, covariance = brute_force_write(prior, addresses, codes, sigma)
    torch.testing.assert_close(result.loc, loc, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(result.row_covariance, covariance, rtol=1e-8, atol=1e-8)
    assert (result.scale_tril_row.diagonal() > 0).all()
    assert torch.equal(result.scale_tril_row, result.scale_tril_row.tril())


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_online_update_is_the_rule_of_the_paper(shape, sigma, seed):
    """``R <- R + u delta^T / s`` and ``U <- U - u u^T / s``."""
    prior, addresses, codes = random_write(*shape, seed=seed)
    result = conjugate.online_update(prior, addresses[0], codes[0], sigma)
    u = prior.row_covariance @ addresses[0]
    s = addresses[0] @ u + sigma**2
    delta = codes[0] - prior.loc.mT @ addresses[0]
    torch.testing.assert_close(result.loc, prior.loc + torch.outer(u, delta) / s, rtol=1e-9, atol=1e-9)
    covariance = prior.row_covariance - torch.outer(u, u) / s
    torch.testing.assert_close(result.row_covariance, covariance, rtol=1e-9, atol=1e-9)
    assert (result.scale_tril_row.diagonal() > 0).all()
    assert torch.equal(result.scale_tril_row, result.scale_tril_row.tril())


def test_batches_are_independent():
    prior, addresses, codes = random_write(5, 4, 6, 2, 3)
    result = conjugate.block_update(prior, addresses, codes, 0.5)
    single = conjugate.block_update(
        MatrixNormal(prior.loc[1, 2], prior.scale_tril_row[1, 2]), addresses[1, 2], codes[1, 2], 0.5
    )
    torch.testing.assert_close(result.loc[1, 2], single.loc)
    torch.testing.assert_close(result.scale_tril_row[1, 2], single.scale_tril_row)


@pytest.mark.parametrize("number", [1, 3, 16])  # one pattern, a block, and a block of at least 4 K patterns
def test_uncertain_addresses_add_their_covariance(number):
    """``U^-1 += sum_t E[w_t w_t^T] / sigma^2``, by plain inversion."""
    prior, addresses, codes = random_write(4, 3, number, 2)
    factor = random_factor(2, 4)
    result = conjugate.block_update(prior, addresses, codes, 0.6, factor)
    start = torch.linalg.inv(prior.row_covariance)
    second_moment = addresses.mT @ addresses + number * factor @ factor.mT
    covariance = torch.linalg.inv(start + second_moment / 0.36)
    torch.testing.assert_close(result.row_covariance, covariance)
    torch.testing.assert_close(result.loc, covariance @ (start @ prior.loc + addresses.mT @ codes / 0.36))


@pytest.mark.parametrize("block_size", [1, 3])
def test_gradients(block_size):
    prior, addresses, codes = random_write(4, 3, 3)
    inputs = [t.clone().requires_grad_() for t in (prior.loc, prior.scale_tril_row, addresses, codes)]
    sigma = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def write(loc, factor, addresses, codes, sigma):
        q = MatrixNormal(loc, factor.tril(), validate_args=False)
        for some, others in zip(addresses.split(block_size), codes.split(block_size), strict=True):
            q = conjugate.block_update(q, some, others, sigma)
        posterior = conjugate.address_posterior(codes, q.loc, sigma, row_covariance=q.row_covariance)
        return q.loc, q.scale_tril_row, posterior.loc, posterior.scale_tril

    assert torch.autograd.gradcheck(write, (*inputs, sigma))


def test_bad_memories_and_scales():
    prior, addresses, codes = random_write(4, 3, 2)
    tilted = MatrixNormal(prior.loc, prior.scale_tril_row, random_factor(3))
    with pytest.raises(ValueError, match="memory has a column factor"):
        conjugate.block_update(tilted, addresses, codes, 1.0)
    with pytest.raises(ValueError, match="memory has a column factor"):
        conjugate.online_update(tilted, addresses[0], codes[0], 1.0)
    with pytest.raises(ValueError, match="noise_scale is 0; expected a positive number"):
        conjugate.online_update(prior, addresses[0], codes[0], 0)
    with pytest.raises(ValueError, match=r"noise_scale is -1.0; expected a positive number"):
        conjugate.block_update(prior, addresses, codes, -1.0)
