"""MatrixNormal against MultivariateNormal on the vectorized matrix, and against its own samples."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import random_factor
from hypothesis import given
from hypothesis import strategies as st
from pyro.infer import MCMC, NUTS
from torch.distributions import kl_divergence

from pyro_kanerva import MatrixNormal


def make(batch=(), rows=3, columns=2, column_factor=True):
    loc = torch.randn(*batch, rows, columns, dtype=torch.float64)
    column = random_factor(*batch, columns) if column_factor else None
    return MatrixNormal(loc, random_factor(*batch, rows), column)


def vectorized(d):
    """The same distribution on the flattened matrix: covariance row (x) column, by Kronecker's product."""
    row = d.row_covariance.expand(*d.batch_shape, *d.row_covariance.shape[-2:])
    column = d.column_covariance.expand(*d.batch_shape, *d.column_covariance.shape[-2:])
    kronecker = torch.einsum("...ij,...cd->...icjd", row, column)
    size = d.event_shape.numel()
    return dist.MultivariateNormal(d.loc.flatten(-2), kronecker.reshape(*d.batch_shape, size, size))


@pytest.mark.parametrize("column_factor", [False, True])
@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_equals_vectorized_normal(batch, column_factor):
    p, q = make(batch, column_factor=column_factor), make(batch, column_factor=column_factor)
    value = torch.randn(5, *batch, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(value), vectorized(p).log_prob(value.flatten(-2)))
    torch.testing.assert_close(p.entropy(), vectorized(p).entropy())
    torch.testing.assert_close(p.variance.flatten(-2), vectorized(p).variance)
    torch.testing.assert_close(p.mean.flatten(-2), vectorized(p).mean)
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(vectorized(q), vectorized(p)))
    eye = torch.eye(3, dtype=torch.float64).expand(*batch, 3, 3)
    torch.testing.assert_close(p.row_precision @ p.row_covariance, eye)


def test_kl_between_identity_and_full_columns():
    p, q = make(column_factor=True), make(column_factor=False)
    for a, b in ((p, q), (q, p)):
        torch.testing.assert_close(kl_divergence(a, b), kl_divergence(vectorized(a), vectorized(b)))
    assert kl_divergence(p, p).abs() < 1e-12


def test_kl_equals_monte_carlo():
    p, q = make((2,)), make((2,))
    value = q.rsample((20000,))
    difference = q.log_prob(value) - p.log_prob(value)
    bound = 6 * difference.std(0) / math.sqrt(len(value))
    assert (difference.mean(0) - kl_divergence(q, p)).abs().le(bound).all()


@given(rows=st.integers(1, 6), columns=st.integers(1, 5), seed=st.integers(0, 1000))
def test_kl_is_not_negative(rows, columns, seed):
    torch.manual_seed(seed)
    p, q = (make(rows=rows, columns=columns, column_factor=False) for _ in range(2))
    assert kl_divergence(q, p) >= 0


@pytest.mark.parametrize("column_factor", [False, True])
def test_whitened_samples_are_standard_normal(column_factor):
    d = make((2,), column_factor=column_factor)
    number = 20000
    white = d._whiten(d.rsample((number,)) - d.loc)
    if column_factor:
        white = white.flatten(-2)
    white = white.flatten(2)  # (number, 2, 6)
    assert white.mean(0).abs().max() < 6 / math.sqrt(number)
    covariance = torch.einsum("nbi,nbj->bij", white, white) / number
    assert (covariance - torch.eye(6, dtype=torch.float64)).abs().max() < 6 * math.sqrt(2 / number)


def test_expand_keeps_the_factor_and_broadcasts():
    d = MatrixNormal(torch.zeros(3, 2), random_factor(3, dtype=torch.float32))
    wide = d.expand((5, 4))
    assert wide.batch_shape == (5, 4)
    assert wide.scale_tril_row is d.scale_tril_row
    assert wide.rsample((2,)).shape == (2, 5, 4, 3, 2)
    value = wide.rsample()
    torch.testing.assert_close(wide.log_prob(value), d.log_prob(value))
    assert d.expand((4,)).unsqueeze(-1).batch_shape == (4, 1)


def test_gradients_reach_all_parameters():
    loc = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    row = random_factor(2, 3).requires_grad_()
    column = random_factor(2, 2).requires_grad_()

    def energy(loc, row, column):
        d = MatrixNormal(loc, row.tril(), column.tril(), validate_args=False)
        return d.log_prob(torch.ones(3, 2, dtype=torch.float64)) + d.entropy()

    assert torch.autograd.gradcheck(energy, (loc, row, column))


def test_nuts_finds_the_moments():
    d = make(column_factor=True)
    kernel = NUTS(lambda: pyro.sample("x", d))
    mcmc = MCMC(kernel, num_samples=400, warmup_steps=200, disable_progbar=True)
    mcmc.run()
    draws = mcmc.get_samples()["x"]
    # NUTS draws of a Gaussian are hardly correlated; 100 effective ones are a careful count
    assert ((draws.mean(0) - d.mean).abs() < 6 * (d.variance / 100).sqrt()).all()
    assert ((draws.var(0) / d.variance).log().abs() < 6 * math.sqrt(2 / 100)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(3), torch.eye(3)), r"loc has shape \(3,\); expected \(..., K, C\)"),
        ((torch.zeros(3, 2), torch.eye(2)), r"scale_tril_row has shape \(2, 2\); expected \(..., 3, 3\)"),
        ((torch.zeros(3, 2), torch.eye(3), torch.eye(3)), r"scale_tril_column has shape \(3, 3\)"),
        ((torch.zeros(4, 3, 2), torch.eye(3).expand(5, 3, 3)), "does not broadcast"),
        ((torch.zeros(3, 2), -torch.eye(3)), "scale_tril_row"),
        ((torch.zeros(3, 2), torch.eye(3), -torch.eye(2)), "scale_tril_column is not lower triangular"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        MatrixNormal(*arguments, validate_args=True)


def test_bad_value():
    with pytest.raises(ValueError, match=r"support|Expected value"):
        MatrixNormal(torch.zeros(3, 2), torch.eye(3), validate_args=True).log_prob(torch.full((3, 2), torch.nan))


def test_kl_of_different_shapes():
    with pytest.raises(ValueError, match=r"event shapes \(3, 2\) and \(4, 2\)"):
        kl_divergence(make(), make(rows=4))
