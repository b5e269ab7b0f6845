"""The address of a code: against Gaussian conditioning, and as the optimum of the mean-field bound."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from helpers import condition, random_factor, random_write
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from pyro_kanerva import CategoricalAddress, MixtureAddress, SlotReader, conjugate
from pyro_kanerva.distributions import GaussianMixture

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
    with pytest.raises(ValueError, match=r"memory_loc has NaN or infinite entries"):
        address(torch.ones(2, 3), torch.full((4, 3), torch.inf), 1.0)
    with pytest.raises(ValueError, match=r"noise_scale is 0.0; expected a positive number"):
        address(torch.ones(2, 3), torch.ones(4, 3), 0.0)


# ---------------------------------------------------------------------- under a mixture prior


def random_mixture(slots, components):
    return GaussianMixture(
        torch.randn(slots, dtype=torch.float64),
        1.5 * torch.randn(components, slots, dtype=torch.float64),
        torch.randn(components, dtype=torch.float64),
        random_factor(slots),
    )


@given(shape=sizes, components=st.integers(1, 5), sigma=st.floats(0.2, 3), seed=st.integers(0, 99))
def test_mixture_posterior_is_bayes_rule_for_each_component(shape, components, sigma, seed):
    """Gaussian conditioning within a component, and the marginal density of the code for its weight."""
    posterior, _, codes = random_write(*shape, seed=seed)
    prior = random_mixture(shape[0], components)
    q = conjugate.mixture_address_posterior(codes, posterior.loc, sigma, prior)
    assert (q.batch_shape, q.event_shape) == ((shape[2],), (shape[0],))
    covariance = prior.scale_tril @ prior.scale_tril.mT
    design, noise = posterior.loc.mT, sigma**2 * torch.eye(shape[1], dtype=torch.float64)
    marginal = dist.MultivariateNormal(prior.component_means @ posterior.loc, design @ covariance @ design.mT + noise)
    for t, code in enumerate(codes):
        weights = (prior.logits + marginal.log_prob(code)).softmax(0)
        torch.testing.assert_close(q.weights[t], weights, rtol=1e-6, atol=1e-9)
        for k in range(components):
            expected = condition(prior.component_means[k], covariance, design, code, noise)
            torch.testing.assert_close(q.component_means[t, k], expected[0], rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(q.covariance_of_components, expected[1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("uncertain", [False, True])
def test_mixture_posterior_is_proportional_to_prior_times_likelihood(uncertain):
    """``p(w) exp E_M log Normal(z; M^T w, sigma^2 I)`` on a grid of the plane, which also normalizes it."""
    posterior, _, codes = random_write(2, 3, 2)
    prior, sigma = random_mixture(2, 3), 0.9
    row_covariance = posterior.row_covariance if uncertain else None
    q = conjugate.mixture_address_posterior(codes, posterior.loc, sigma, prior, row_covariance=row_covariance)
    line = torch.linspace(-9.0, 9.0, 361, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    for t, code in enumerate(codes):
        squared = (code - grid @ posterior.loc).square().sum(-1)
        if uncertain:  # E |z - M^T w|^2 adds the variance of M^T w, C entries of w^T U w
            squared = squared + 3 * ((grid @ posterior.row_covariance) * grid).sum(-1)
        log_joint = prior.log_prob(grid) - 0.5 * squared / sigma**2
        expected = log_joint - log_joint.logsumexp(0) - 2 * math.log(0.05)
        near = expected > -25
        assert near.sum() > 1000
        found = q.log_prob(grid.unsqueeze(1))[:, t]
        torch.testing.assert_close(found[near], expected[near], rtol=1e-7, atol=1e-7)


def test_uncertain_memory_of_a_mixture_by_draws():
    """``E_M |z - M^T w|^2`` from 200,000 draws of M: the log density up to a constant, within 5 standard errors."""
    posterior, _, codes = random_write(3, 4, 1)
    prior, sigma = random_mixture(3, 3), 0.9
    q = conjugate.mixture_address_posterior(codes, posterior.loc, sigma, prior, row_covariance=posterior.row_covariance)
    points = torch.randn(6, 3, dtype=torch.float64)
    draws = posterior.sample((200_000,))
    terms = -0.5 * (codes[0] - points @ draws).square().sum(-1) / sigma**2  # (N, 6)
    terms = terms[:, 1:] - terms[:, :1]
    known = prior.log_prob(points)
    found = q.log_prob(points)
    error = terms.std(0) / math.sqrt(len(terms))
    difference = (found - known)[1:] - (found - known)[0] - terms.mean(0)
    assert (difference.abs() < 5 * error).all()
    assert (error < 0.05).all()


@pytest.mark.parametrize(("codes_batch", "matrix_batch"), [((2,), ()), ((2,), (2,)), ((2,), (6, 2))])
@pytest.mark.parametrize("uncertain", [False, True])
def test_mixture_posterior_of_a_batch(codes_batch, matrix_batch, uncertain):
    """A loop over memories and codes."""
    codes = torch.randn(*codes_batch, 5, 3, dtype=torch.float64)
    matrix, factor = torch.randn(*matrix_batch, 4, 3, dtype=torch.float64), random_factor(*matrix_batch, 4)
    prior, rows = random_mixture(4, 3), factor @ factor.mT if uncertain else None
    q = conjugate.mixture_address_posterior(codes, matrix, 0.6, prior, row_covariance=rows)
    batch = torch.broadcast_shapes(codes_batch, matrix_batch)
    assert (q.batch_shape, q.event_shape) == ((*batch, 5), (4,))
    points = torch.randn(*batch, 5, 4, dtype=torch.float64)
    found = q.log_prob(points)
    wide_codes, wide_matrix = codes.expand(*batch, 5, 3), matrix.expand(*batch, 4, 3)
    for index in itertools.product(*map(range, batch)):
        row = None if rows is None else rows.expand(*batch, 4, 4)[index]
        one = conjugate.mixture_address_posterior(wide_codes[index], wide_matrix[index], 0.6, prior, row_covariance=row)
        torch.testing.assert_close(found[index], one.log_prob(points[index]))


def test_a_single_component_is_the_gaussian_posterior():
    posterior, _, codes = random_write(4, 3, 6)
    identity = torch.eye(4, dtype=torch.float64)
    for loc in (torch.zeros(4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)):
        for rows in (None, posterior.row_covariance):
            prior = GaussianMixture(loc, torch.zeros_like(identity[:1]), loc.new_zeros(1), identity)
            q = conjugate.mixture_address_posterior(codes, posterior.loc, 0.6, prior, row_covariance=rows)
            expected = conjugate.address_posterior(codes, posterior.loc, 0.6, prior_loc=loc, row_covariance=rows)
            torch.testing.assert_close(q.mean, expected.loc)
            torch.testing.assert_close(q.scale_tril, expected.scale_tril)
            torch.testing.assert_close(q.weights, torch.ones_like(q.weights))
    slot = MixtureAddress(1, 0.3).double()()
    matrix = posterior.loc[:1]
    q = conjugate.mixture_address_posterior(codes, matrix, 0.6, slot)
    one, precision = torch.ones(1, dtype=torch.float64), torch.full((1, 1), 1 / 0.09, dtype=torch.float64)
    expected = conjugate.address_posterior(codes, matrix, 0.6, prior_loc=one, prior_precision=precision)
    torch.testing.assert_close(q.mean, expected.loc, rtol=1e-6, atol=1e-6)  # the scale 0.3 is in float32
    torch.testing.assert_close(q.scale_tril, expected.scale_tril, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("uncertain", [False, True])
def test_a_narrow_mixture_is_a_slot_memory(uncertain):
    """As the scale falls to 0, the weights become those of one-hot addresses, at the rate of its square."""
    posterior, _, codes = random_write(4, 3, 6)
    rows = posterior.row_covariance if uncertain else None
    squared = (codes.unsqueeze(1) - posterior.loc).square().sum(-1)
    if uncertain:
        squared = squared + 3 * posterior.row_covariance.diagonal()
    expected = (-0.5 * squared / 0.6**2).softmax(-1)
    if not uncertain:
        reader, prior = SlotReader(), CategoricalAddress(4).double()()
        torch.testing.assert_close(reader(codes, posterior.loc, prior, torch.tensor(0.6)).probs, expected)
    errors = []
    for scale in (1e-2, 1e-3, 1e-5):
        prior = MixtureAddress(4, scale).double()()
        q = conjugate.mixture_address_posterior(codes, posterior.loc, 0.6, prior, row_covariance=rows)
        errors.append(max((q.weights - expected).abs().max(), (q.mean - expected).abs().max()).item())
    assert errors[0] > 1e-5
    assert errors[1] < 0.02 * errors[0]
    assert errors[2] < 1e-6


@pytest.mark.parametrize("scale", [0.03, 0.1, 1.0])
def test_mixture_posteriors_in_float32(scale):
    """Weights and means within 1e-3 of those in float64, with narrow components and a precise memory."""
    posterior, addresses, _ = random_write(6, 8, 20)
    codes = addresses.softmax(-1) @ posterior.loc
    wide, narrow = (
        conjugate.mixture_address_posterior(
            codes.to(dtype), posterior.loc.to(dtype), 0.2, MixtureAddress(6, scale).to(dtype)()
        )
        for dtype in (torch.float64, torch.float32)
    )
    assert narrow.logits.dtype == torch.float32
    torch.testing.assert_close(narrow.weights.double(), wide.weights, rtol=0, atol=1e-3)
    torch.testing.assert_close(narrow.mean.double(), wide.mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(narrow.scale_tril.double(), wide.scale_tril, rtol=1e-3, atol=1e-5)


def test_a_memory_that_is_not_finite_under_a_mixture():
    prior = MixtureAddress(4)()
    with pytest.raises(ValueError, match=r"memory_loc has NaN or infinite entries"):
        conjugate.mixture_address_posterior(torch.ones(2, 3), torch.full((4, 3), torch.inf), 1.0, prior)
    with pytest.raises(ValueError, match=r"noise_scale is 0.0; expected a positive number"):
        conjugate.mixture_address_posterior(torch.ones(2, 3), torch.ones(4, 3), 0.0, prior)
