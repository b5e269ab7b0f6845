"""The address of a code: against Gaussian conditioning, and as the optimum of the mean-field bound."""

import math

import pytest
import torch
from helpers import condition, random_factor, random_write
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from pyro_kanerva import conjugate

sizes = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 9))  # K, C, T


@given(shape=sizes, sigma=st.floats(0.2, 3), seed=st.integers(0, 99))
def test_address_posterior_is_gaussian_conditioning(shape, sigma, seed):
    posterior, _, codes = random_write(*shape, seed=seed)
    prior_loc, prior_factor = torch.randn(shape[0], dtype=torch.float64), random_factor(shape[0])
    prior_covariance = prior_factor @ prior_factor.mT
    q = conjugate.address_posterior(
        codes, posterior.loc, sigma, prior_loc=prior_loc, prior_precision=torch.linalg.inv(prior_covariance)
    )
    noise = sigma**2 * torch.eye(shape[1], dtype=torch.float64)
    for code, loc in zip(codes, q.loc, strict=True):
        expected = condition(prior_loc, prior_covariance, posterior.loc.mT, code, noise)
        torch.testing.assert_close(loc, expected[0], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(q.scale_tril @ q.scale_tril.mT, expected[1], rtol=1e-6, atol=1e-7)


def test_mean_field_addresses_maximize_the_bound():
    """With an uncertain memory, E[M M^T] = R R^T + C U: no Gaussian nearby has a better bound."""
    posterior, _, codes = random_write(4, 3, 1)
    sigma, samples = 0.8, posterior.rsample((400,))

    def bound(loc, factor):
        # E_q log p(z, w | M) + entropy, exact in w; the memory by the moments of the same samples
        covariance = factor @ factor.mT
        second = covariance + loc.mT @ loc
        outer = samples @ samples.mT
        expected = -0.5 / sigma**2 * ((outer.mean(0) * second).sum() - 2 * (loc @ samples.mean(0) * codes).sum())
        return expected - 0.5 * second.trace() + factor.diagonal().log().sum()

    centered = samples - samples.mean(0)
    covariance = torch.einsum("nkc,nlc->kl", centered, centered) / (len(samples) * 3)
    q = conjugate.address_posterior(codes, samples.mean(0), sigma, row_covariance=covariance)
    best = bound(q.loc, q.scale_tril)
    for _ in range(50):
        assert bound(q.loc + 0.1 * torch.randn_like(q.loc), q.scale_tril) < best
        twist = torch.eye(4, dtype=torch.float64) + 0.1 * torch.randn(4, 4, dtype=torch.float64).tril()
        assert bound(q.loc, q.scale_tril @ twist) < best


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_address_mean_is_the_mean_of_the_posterior(shape, sigma, seed):
    posterior, _, codes = random_write(*shape, seed=seed)
    mean = conjugate.address_mean(codes, posterior.loc, sigma)
    expected = conjugate.address_posterior(codes, posterior.loc, sigma).loc
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("codes_batch", "matrix_batch"), [((2,), ()), ((), (2,)), ((3, 2), (2,)), ((3, 1), (1, 2))])
@pytest.mark.parametrize("length", [2, 9])  # fewer patterns than entries of a code, and more: two orders of products
def test_address_mean_of_a_batch(codes_batch, matrix_batch, length):
    codes = torch.randn(*codes_batch, length, 5, dtype=torch.float64)
    matrix = torch.randn(*matrix_batch, 4, 5, dtype=torch.float64)
    mean = conjugate.address_mean(codes, matrix, torch.tensor(0.4, dtype=torch.float64))
    expected = conjugate.address_posterior(codes, matrix, 0.4).loc
    assert mean.shape == (*torch.broadcast_shapes(codes_batch, matrix_batch), length, 4)
    torch.testing.assert_close(mean, expected)


@pytest.mark.parametrize("length", [2, 9])
def test_gradients_of_the_address_mean(length):
    codes = torch.randn(length, 5, dtype=torch.float64, requires_grad=True)
    matrix = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    sigma = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(conjugate.address_mean, (codes, matrix, sigma))


def test_code_information_is_the_precision_that_a_code_adds():
    """``I = E[M M^T] / sigma^2``, with the mean over 200,000 draws of M for an uncertain memory."""
    posterior, _, codes = random_write(3, 4, 5)
    known = conjugate.code_information(posterior.loc, torch.tensor(0.25))
    torch.testing.assert_close(known, posterior.loc @ posterior.loc.mT / 0.25)
    q = conjugate.address_posterior(codes, posterior.loc, 0.5)
    torch.testing.assert_close(torch.linalg.inv(q.scale_tril @ q.scale_tril.mT), known + torch.eye(3).double())
    uncertain = conjugate.code_information(posterior.loc, torch.tensor(0.25), posterior.row_covariance)
    draws = posterior.sample((200_000,))
    products = draws @ draws.mT / 0.25
    error = products.std(0) / math.sqrt(len(products))
    assert ((products.mean(0) - uncertain).abs() < 5 * error).all()


def test_address_precision_in_other_coordinates():
    """``P + J^T I J``: for ``w = J u`` the curvature of ``w^T I w / 2 + u^T P u / 2`` in u."""
    root, jacobian = torch.randn(4, 6, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    information, identity = root @ root.mT, torch.eye(4, dtype=torch.float64)

    def energy(u):
        return 0.5 * (jacobian @ u) @ information @ (jacobian @ u) + u.square().sum()

    expected = torch.autograd.functional.hessian(energy, torch.zeros(3, dtype=torch.float64))
    found = conjugate.address_precision(information, 2 * identity[:3, :3], jacobian.expand(5, 4, 3))
    torch.testing.assert_close(found, expected.expand(5, 3, 3))
    torch.testing.assert_close(conjugate.address_precision(information, identity), information + identity)


@pytest.mark.parametrize("address", [conjugate.address_posterior, conjugate.address_mean])
def test_a_memory_that_is_not_finite(address):
    with pytest.raises(ValueError, match=r"address precision .* NaN or infinite entries.*code_scale"):
        address(torch.ones(2, 3), torch.full((4, 3), torch.inf), 1.0)
    with pytest.raises(ValueError, match=r"noise_scale is 0.0; expected a positive number"):
        address(torch.ones(2, 3), torch.ones(4, 3), 0.0)
