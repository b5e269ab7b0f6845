"""What holds for all exact writes: parts add up in any order, nothing is lost, and float32 does not drift."""

import math

import pytest
import torch
from helpers import random_factor, random_write
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_kanerva import MatrixNormal, OnlineWriter, conjugate
from pyro_kanerva.conjugate import NaturalParameters

sizes = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 9))  # K, C, T


def assert_same(one, other, tolerance):
    torch.testing.assert_close(one.loc, other.loc, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(one.row_covariance, other.row_covariance, rtol=tolerance, atol=tolerance)


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99), cut=st.integers(1, 8))
def test_one_by_one_equals_blocks_equals_natural_parameters(shape, sigma, seed, cut):
    prior, addresses, codes = random_write(*shape, seed=seed)
    whole = conjugate.block_update(prior, addresses, codes, sigma)
    natural = conjugate.add_statistics(prior, conjugate.statistics(addresses, codes, sigma))
    online = blocks = prior
    for address, code in zip(addresses, codes, strict=True):
        online = conjugate.online_update(online, address, code, sigma)
    for some, others in zip(addresses.split(cut), codes.split(cut), strict=True):
        blocks = conjugate.block_update(blocks, some, others, sigma)
    for other in (natural, online, blocks):
        assert_same(other, whole, 1e-7)


@given(shape=sizes, seed=st.integers(0, 99))
def test_patterns_are_exchangeable(shape, seed):
    prior, addresses, codes = random_write(*shape, seed=seed)
    order = torch.randperm(len(codes))
    one = conjugate.block_update(prior, addresses, codes, 0.5)
    other = conjugate.block_update(prior, addresses[order], codes[order], 0.5)
    assert_same(one, other, 1e-7)


@given(shape=sizes, seed=st.integers(0, 99))
def test_negated_statistics_undo_a_write(shape, seed):
    prior, addresses, codes = random_write(*shape, seed=seed)
    part = conjugate.statistics(addresses, codes, 0.7, random_factor(shape[0]))
    written = conjugate.add_statistics(prior, part)
    restored = conjugate.add_statistics(written, NaturalParameters(-part.precision, -part.precision_loc))
    assert_same(restored, prior, 1e-6)


@given(shape=sizes, seed=st.integers(0, 99))
def test_parts_add_up_in_any_order(shape, seed):
    prior, addresses, codes = random_write(*shape, seed=seed)
    parts = [
        conjugate.statistics(some, others, 0.5) for some, others in zip(addresses.split(3), codes.split(3), strict=True)
    ]
    whole = conjugate.block_update(prior, addresses, codes, 0.5)
    for order in (parts, parts[::-1]):
        assert_same(conjugate.add_statistics(prior, *order), whole, 1e-6)


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_a_write_never_makes_the_memory_less_certain(shape, sigma, seed):
    prior, addresses, codes = random_write(*shape, seed=seed)
    after = conjugate.block_update(prior, addresses, codes, sigma)
    assert torch.linalg.eigvalsh(prior.row_covariance - after.row_covariance).min() > -1e-9
    assert kl_divergence(after, prior) >= 0


def mean_field_bound(prior, posterior, addresses, codes, sigma):
    """E log p(Z | W, M) - KL(q(W) || p(W)) - KL(q(M) || p(M)), in closed form."""
    loc, factor = addresses
    (slots, size), number = posterior.event_shape, len(codes)
    second = loc.mT @ loc + number * factor @ factor.mT
    moment = posterior.loc @ posterior.loc.mT + size * posterior.row_covariance
    squared = codes.square().sum() - 2 * (loc @ posterior.loc * codes).sum() + (second * moment).sum()
    log_likelihood = -0.5 * (squared / sigma**2 + number * size * math.log(2 * math.pi * sigma**2))
    unit = MultivariateNormal(torch.zeros(slots, dtype=torch.float64), torch.eye(slots, dtype=torch.float64))
    address_kl = kl_divergence(MultivariateNormal(loc, scale_tril=factor), unit).sum()
    return log_likelihood - address_kl - kl_divergence(posterior, prior)


@given(shape=sizes, sigma=st.floats(0.2, 2), seed=st.integers(0, 99))
def test_coordinate_ascent_never_lowers_the_bound(shape, sigma, seed):
    prior, addresses, codes = random_write(*shape, seed=seed)
    posterior, previous = conjugate.block_update(prior, addresses, codes, sigma), -math.inf
    for _ in range(6):
        addresses = conjugate.address_posterior(codes, posterior.loc, sigma, row_covariance=posterior.row_covariance)
        halfway = mean_field_bound(prior, posterior, addresses, codes, sigma)
        posterior, addresses = conjugate.coordinate_ascent_sweep(prior, posterior, codes, sigma)
        bound = mean_field_bound(prior, posterior, addresses, codes, sigma)
        slack = 1e-9 * abs(bound)
        assert previous <= halfway + slack
        assert halfway <= bound + slack
        previous = bound


# ---------------------------------------------------------------------- float32


@pytest.mark.parametrize("sigma", [0.03, 0.3, 3.0])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("block_size", [1, 8])
def test_ten_thousand_writes_in_float32(sigma, dynamic, block_size):
    """The covariance stays positive definite and within 1e-3 of one float64 batch update."""
    slots, size, number = 32, 20, 10_000
    codes = torch.randn(number, size)
    posterior = start = MatrixNormal(torch.randn(slots, size), torch.eye(slots), validate_args=False)
    addresses = [] if dynamic else list(torch.randn(number, slots).split(block_size))
    for index, block in enumerate(codes.split(block_size)):
        if dynamic:
            addresses.append(conjugate.address_mean(block, posterior.loc, sigma))
        posterior = conjugate.block_update(posterior, addresses[index], block, sigma)
    used = torch.cat(addresses).double()
    precision = torch.eye(slots, dtype=torch.float64) + used.mT @ used / sigma**2
    covariance = torch.linalg.inv(precision)
    loc = covariance @ (start.loc.double() + used.mT @ codes.double() / sigma**2)
    assert (posterior.scale_tril_row.diagonal() > 0).all()
    assert torch.linalg.eigvalsh(posterior.row_covariance.double()).min() > 0
    assert (posterior.row_covariance.double() - covariance).norm() < 1e-3 * covariance.norm()
    assert (posterior.loc.double() - loc).norm() < 1e-3 * loc.norm()


@pytest.mark.parametrize("block_size", [1, 8])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_the_same_few_patterns_over_and_over_in_float32(block_size, sweeps):
    """A precision of condition 1e9: the covariance stays positive definite, and no factorization fails."""
    codes = torch.randn(5, 20).repeat(400, 1)
    posterior, writer = MatrixNormal(torch.randn(32, 20), torch.eye(32)), OnlineWriter(block_size, sweeps)
    for some in codes.split(40):
        posterior = writer(some, posterior, torch.tensor(0.03)).memory
    assert (posterior.scale_tril_row.diagonal() > 0).all()
    assert posterior.loc.isfinite().all()


@pytest.mark.parametrize("sigma", [0.03, 0.3, 3.0])
def test_ten_thousand_swept_writes_in_float32(sigma):
    """Writes of 8 patterns, each with a sweep. Their statistics add up, within 1e-3 of float64."""
    slots, size, number = 32, 20, 10_000
    writer = OnlineWriter(8, sweeps=1)
    posterior = start = MatrixNormal(torch.randn(slots, size), torch.eye(slots), validate_args=False)
    precision = torch.eye(slots, dtype=torch.float64)
    information = start.loc.double()
    for codes in torch.randn(number, size).split(8):
        posterior, addresses, factor, _ = writer(codes, posterior, torch.tensor(sigma))
        part = conjugate.statistics(addresses.double(), codes.double(), sigma, factor.double())
        precision, information = precision + part.precision, information + part.precision_loc
    covariance = torch.linalg.inv(precision)
    loc = covariance @ information
    assert torch.linalg.eigvalsh(posterior.row_covariance.double()).min() > 0
    assert (posterior.row_covariance.double() - covariance).norm() < 1e-3 * covariance.norm()
    assert (posterior.loc.double() - loc).norm() < 1e-3 * loc.norm()
