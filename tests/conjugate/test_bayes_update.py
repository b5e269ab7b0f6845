"""The closed forms against brute force: Gaussian conditioning on the vectorized matrix, in float64."""

import math

import pytest
import torch
from conftest import random_factor, random_memory
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_kanerva import MatrixNormal, OnlineWriter, conjugate
from pyro_kanerva.factorization import cholesky

sizes = st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 9))  # K, C, T


def condition(loc, covariance, design, value, noise_covariance):
    """Brute-force conditioning of a Gaussian vector on ``value = design @ vector + noise``."""
    joint = design @ covariance @ design.mT + noise_covariance
    gain = torch.linalg.solve(joint, design @ covariance).mT
    return loc + gain @ (value - design @ loc), covariance - gain @ design @ covariance


def brute_force_write(memory, addresses, codes, sigma):
    """Mean (K, C) and row covariance (K, K) from conditioning all K C entries of M on all T C codes."""
    (slots, size), number = memory.event_shape, len(codes)
    eye = torch.eye(size, dtype=torch.float64)
    loc, covariance = condition(
        memory.loc.flatten(),
        torch.kron(memory.row_covariance, eye),
        torch.kron(addresses, eye),
        codes.flatten(),
        sigma**2 * torch.eye(number * size, dtype=torch.float64),
    )
    covariance = covariance.view(slots, size, slots, size)
    torch.testing.assert_close(covariance[:, 0, :, 0], covariance[:, -1, :, -1])
    return loc.view(slots, size), covariance[:, 0, :, 0]


def problem(slots, size, number, *batch, seed=0):
    torch.manual_seed(seed)
    memory = random_memory(*batch, slots=slots, size=size)
    addresses = torch.randn(*batch, number, slots, dtype=torch.float64)
    codes = torch.randn(*batch, number, size, dtype=torch.float64)
    return memory, addresses, codes


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_block_update_is_gaussian_conditioning(shape, sigma, seed):
    memory, addresses, codes = problem(*shape, seed=seed)
    result = conjugate.block_update(memory, addresses, codes, sigma)
    loc, covariance = brute_force_write(memory, addresses, codes, sigma)
    torch.testing.assert_close(result.loc, loc, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(result.row_covariance, covariance, rtol=1e-8, atol=1e-8)
    assert (result.scale_tril_row.diagonal() > 0).all()
    assert torch.equal(result.scale_tril_row, result.scale_tril_row.tril())


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99), cut=st.integers(1, 8))
def test_one_by_one_equals_blocks_equals_natural_parameters(shape, sigma, seed, cut):
    memory, addresses, codes = problem(*shape, seed=seed)
    batch = conjugate.block_update(memory, addresses, codes, sigma)
    natural = conjugate.add_evidence(memory, conjugate.evidence(addresses, codes, sigma))
    online = blocks = memory
    for address, code in zip(addresses, codes, strict=True):
        online = conjugate.online_update(online, address, code, sigma)
    for some, others in zip(addresses.split(cut), codes.split(cut), strict=True):
        blocks = conjugate.block_update(blocks, some, others, sigma)
    for other in (natural, online, blocks):
        torch.testing.assert_close(other.loc, batch.loc, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(other.row_covariance, batch.row_covariance, rtol=1e-7, atol=1e-7)


@given(shape=sizes, seed=st.integers(0, 99))
def test_patterns_are_exchangeable(shape, seed):
    memory, addresses, codes = problem(*shape, seed=seed)
    order = torch.randperm(len(codes))
    one = conjugate.block_update(memory, addresses, codes, 0.5)
    other = conjugate.block_update(memory, addresses[order], codes[order], 0.5)
    torch.testing.assert_close(one.loc, other.loc)
    torch.testing.assert_close(one.row_covariance, other.row_covariance)


@given(shape=sizes, seed=st.integers(0, 99))
def test_erase_undoes_write(shape, seed):
    memory, addresses, codes = problem(*shape, seed=seed)
    part = conjugate.evidence(addresses, codes, 0.7, random_factor(shape[0]))
    restored = conjugate.erase(conjugate.add_evidence(memory, part), part)
    torch.testing.assert_close(restored.loc, memory.loc, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(restored.row_covariance, memory.row_covariance, rtol=1e-6, atol=1e-6)


@given(shape=sizes, seed=st.integers(0, 99))
def test_merge_commutes_and_equals_one_write(shape, seed):
    memory, addresses, codes = problem(*shape, seed=seed)
    parts = [
        conjugate.block_update(memory, some, others, 0.5)
        for some, others in zip(addresses.split(3), codes.split(3), strict=True)
    ]
    whole = conjugate.block_update(memory, addresses, codes, 0.5)
    for order in (parts, parts[::-1]):
        merged = conjugate.merge(memory, order)
        torch.testing.assert_close(merged.loc, whole.loc, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(merged.row_covariance, whole.row_covariance, rtol=1e-6, atol=1e-6)


def test_batches_are_independent():
    memory, addresses, codes = problem(5, 4, 6, 2, 3)
    result = conjugate.block_update(memory, addresses, codes, 0.5)
    single = conjugate.block_update(
        MatrixNormal(memory.loc[1, 2], memory.scale_tril_row[1, 2]), addresses[1, 2], codes[1, 2], 0.5
    )
    torch.testing.assert_close(result.loc[1, 2], single.loc)
    torch.testing.assert_close(result.scale_tril_row[1, 2], single.scale_tril_row)


@given(shape=sizes, sigma=st.floats(0.1, 3), seed=st.integers(0, 99))
def test_kl_of_a_write(shape, sigma, seed):
    memory, addresses, codes = problem(*shape, seed=seed)
    after = conjugate.online_update(memory, addresses[0], codes[0], sigma)
    kl = conjugate.update_kl(memory, addresses[0], codes[0], sigma)
    torch.testing.assert_close(kl, kl_divergence(after, memory), rtol=1e-6, atol=1e-8)
    assert kl >= 0


@given(shape=sizes, sigma=st.floats(0.2, 3), seed=st.integers(0, 99))
def test_address_posterior_is_gaussian_conditioning(shape, sigma, seed):
    memory, _, codes = problem(*shape, seed=seed)
    prior_loc, prior_factor = torch.randn(shape[0], dtype=torch.float64), random_factor(shape[0])
    prior_covariance = prior_factor @ prior_factor.mT
    posterior = conjugate.address_posterior(
        codes, memory.loc, sigma, prior_loc=prior_loc, prior_precision=torch.linalg.inv(prior_covariance)
    )
    noise = sigma**2 * torch.eye(shape[1], dtype=torch.float64)
    for code, loc in zip(codes, posterior.loc, strict=True):
        expected = condition(prior_loc, prior_covariance, memory.loc.mT, code, noise)
        torch.testing.assert_close(loc, expected[0], rtol=1e-6, atol=1e-7)
        covariance = posterior.scale_tril @ posterior.scale_tril.mT
        torch.testing.assert_close(covariance, expected[1], rtol=1e-6, atol=1e-7)


def log_joint(memory, codes, addresses, sigma, prior):
    """log p(M) + log p(w) + log p(z | w, M), summed over patterns; leading dimensions are samples."""
    read = addresses @ memory
    log_z = torch.distributions.Normal(read, sigma).log_prob(codes).sum((-2, -1))
    log_w = torch.distributions.Normal(0.0, 1.0).log_prob(addresses).sum((-2, -1))
    return prior.log_prob(memory) + log_w + log_z


def test_mean_field_addresses_maximize_the_bound():
    """With an uncertain memory, E[M M^T] = R R^T + C U: no Gaussian nearby has a better bound."""
    memory, _, codes = problem(4, 3, 1)
    sigma, samples = 0.8, memory.rsample((400,))

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


def mean_field_bound(prior, memory, addresses, codes, sigma):
    """E log p(Z | W, M) - KL(q(W) || p(W)) - KL(q(M) || p(M)), in closed form."""
    loc, factor = addresses
    (slots, size), number = memory.event_shape, len(codes)
    second = loc.mT @ loc + number * factor @ factor.mT
    moment = memory.loc @ memory.loc.mT + size * memory.row_covariance
    squared = codes.square().sum() - 2 * (loc @ memory.loc * codes).sum() + (second * moment).sum()
    log_likelihood = -0.5 * (squared / sigma**2 + number * size * math.log(2 * math.pi * sigma**2))
    unit = MultivariateNormal(torch.zeros(slots, dtype=torch.float64), torch.eye(slots, dtype=torch.float64))
    address_kl = kl_divergence(MultivariateNormal(loc, scale_tril=factor), unit).sum()
    return log_likelihood - address_kl - kl_divergence(memory, prior)


@given(shape=sizes, sigma=st.floats(0.2, 2), seed=st.integers(0, 99))
def test_coordinate_ascent_never_lowers_the_bound(shape, sigma, seed):
    prior, addresses, codes = problem(*shape, seed=seed)
    memory, previous = conjugate.block_update(prior, addresses, codes, sigma), -math.inf
    for _ in range(6):
        addresses = conjugate.address_posterior(codes, memory.loc, sigma, row_covariance=memory.row_covariance)
        halfway = mean_field_bound(prior, memory, addresses, codes, sigma)
        memory, addresses = conjugate.coordinate_ascent_sweep(prior, memory, codes, sigma)
        bound = mean_field_bound(prior, memory, addresses, codes, sigma)
        slack = 1e-9 * abs(bound)
        assert previous <= halfway + slack
        assert halfway <= bound + slack
        previous = bound


@pytest.mark.parametrize("sigma", [0.03, 0.3, 3.0])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("block_size", [1, 8])
def test_ten_thousand_writes_in_float32(sigma, dynamic, block_size):
    """The covariance stays positive definite and within 1e-3 of one float64 batch update."""
    slots, size, number = 32, 20, 10_000
    codes = torch.randn(number, size)
    memory = start = MatrixNormal(torch.randn(slots, size), torch.eye(slots), validate_args=False)
    addresses = [] if dynamic else list(torch.randn(number, slots).split(block_size))
    for index, block in enumerate(codes.split(block_size)):
        if dynamic:
            addresses.append(conjugate.address_posterior(block, memory.loc, sigma).loc)
        memory = conjugate.block_update(memory, addresses[index], block, sigma)
    used = torch.cat(addresses).double()
    precision = torch.eye(slots, dtype=torch.float64) + used.mT @ used / sigma**2
    covariance = torch.linalg.inv(precision)
    loc = covariance @ (start.loc.double() + used.mT @ codes.double() / sigma**2)
    assert (memory.scale_tril_row.diagonal() > 0).all()
    assert torch.linalg.eigvalsh(memory.row_covariance.double()).min() > 0
    assert (memory.row_covariance.double() - covariance).norm() < 1e-3 * covariance.norm()
    assert (memory.loc.double() - loc).norm() < 1e-3 * loc.norm()


@pytest.mark.parametrize("block_size", [1, 8])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_the_same_few_patterns_over_and_over_in_float32(block_size, sweeps):
    """A precision of condition 1e9: the covariance stays positive definite, and no factorization fails."""
    codes = torch.randn(5, 20).repeat(400, 1)
    memory, writer = MatrixNormal(torch.randn(32, 20), torch.eye(32)), OnlineWriter(block_size, sweeps)
    for some in codes.split(40):
        memory = writer(some, memory, torch.tensor(0.03)).memory
    assert (memory.scale_tril_row.diagonal() > 0).all()
    assert memory.loc.isfinite().all()


@pytest.mark.parametrize("sigma", [0.03, 0.3, 3.0])
def test_ten_thousand_swept_writes_in_float32(sigma):
    """Write after write of 8 patterns, each with a sweep: precisions add up, within 1e-3 of float64."""
    slots, size, number = 32, 20, 10_000
    writer = OnlineWriter(8, sweeps=1)
    memory = start = MatrixNormal(torch.randn(slots, size), torch.eye(slots), validate_args=False)
    precision = torch.eye(slots, dtype=torch.float64)
    information = start.loc.double()
    for codes in torch.randn(number, size).split(8):
        memory, addresses, factor, _ = writer(codes, memory, torch.tensor(sigma))
        part = conjugate.evidence(addresses.double(), codes.double(), sigma, factor.double())
        precision, information = precision + part.precision, information + part.precision_loc
    covariance = torch.linalg.inv(precision)
    loc = covariance @ information
    assert torch.linalg.eigvalsh(memory.row_covariance.double()).min() > 0
    assert (memory.row_covariance.double() - covariance).norm() < 1e-3 * covariance.norm()
    assert (memory.loc.double() - loc).norm() < 1e-3 * loc.norm()


@pytest.mark.parametrize("block_size", [1, 3])
def test_gradients(block_size):
    memory, addresses, codes = problem(4, 3, 3)
    inputs = [t.clone().requires_grad_() for t in (memory.loc, memory.scale_tril_row, addresses, codes)]
    sigma = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)

    def write(loc, factor, addresses, codes, sigma):
        q = MatrixNormal(loc, factor.tril(), validate_args=False)
        for some, others in zip(addresses.split(block_size), codes.split(block_size), strict=True):
            q = conjugate.block_update(q, some, others, sigma)
        posterior = conjugate.address_posterior(codes, q.loc, sigma, row_covariance=q.row_covariance)
        return q.loc, q.scale_tril_row, posterior.loc, posterior.scale_tril

    assert torch.autograd.gradcheck(write, (*inputs, sigma))


def test_natural_parameters_round_trip():
    memory = random_memory(2, slots=4, size=3)
    again = conjugate.from_natural_parameters(conjugate.natural_parameters(memory))
    torch.testing.assert_close(again.loc, memory.loc)
    torch.testing.assert_close(again.scale_tril_row, memory.scale_tril_row)


def test_erasing_what_was_not_written():
    memory, addresses, codes = problem(4, 3, 8)
    with pytest.raises(ValueError, match=r"memory precision .* is not positive definite"):
        conjugate.erase(memory, conjugate.evidence(10 * addresses, codes, 0.1))


def test_failing_cholesky_names_the_cause():
    with pytest.raises(ValueError, match=r"address precision .* NaN or infinite entries.*code_scale"):
        conjugate.address_posterior(torch.ones(2, 3), torch.full((4, 3), torch.inf), 1.0)
    with pytest.raises(ValueError, match=r"some matrix .* is not positive definite.*float64"):
        cholesky(-torch.eye(2), "some matrix")


def test_bad_memories_and_scales():
    memory, addresses, codes = problem(4, 3, 2)
    tilted = MatrixNormal(memory.loc, memory.scale_tril_row, random_factor(3))
    with pytest.raises(ValueError, match="memory has a column factor"):
        conjugate.block_update(tilted, addresses, codes, 1.0)
    with pytest.raises(ValueError, match="memory has a column factor"):
        conjugate.natural_parameters(tilted)
    with pytest.raises(ValueError, match="noise_scale is 0; expected a positive"):
        conjugate.online_update(memory, addresses[0], codes[0], 0)
    with pytest.raises(ValueError, match="no parts were given"):
        conjugate.add_evidence(memory)


def test_merge_of_nothing():
    with pytest.raises(ValueError, match="memories is empty"):
        conjugate.merge(random_memory(slots=2, size=2), [])
