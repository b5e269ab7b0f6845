"""The bound: its terms, Pyro's ELBOs, and the exact evidence of a machine with K = C = 1."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import assert_bound_agrees, linear_machine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

from pyro_kanerva import ExactReader, MatrixNormal, OnlineWriter, ScalarReader


@pytest.mark.parametrize("reader", [ExactReader, ScalarReader])
@pytest.mark.parametrize("writer", [OnlineWriter(), OnlineWriter(3), OnlineWriter(8, sweeps=2)])
def test_elbos_and_bound_agree(make_machine, patterns, reader, writer):
    """Trace_ELBO, TraceMeanField_ELBO and bound() estimate one number."""
    machine = make_machine(reader=reader(), writer=writer)
    assert_bound_agrees(machine, patterns.repeat(20, 1, 1, 1, 1), [Trace_ELBO, TraceMeanField_ELBO])


def test_vectorized_particles_agree(make_machine, patterns):
    machine = make_machine()
    with torch.no_grad():
        elbo = Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=2)
        vectorized = -elbo.loss(machine.model, machine.guide, patterns) / 24
        bounds = torch.stack([machine.bound(patterns, num_particles=2).bound.mean() for _ in range(100)])
    assert abs(vectorized - bounds.mean()) < 6 * bounds.std() / math.sqrt(100) * math.sqrt(2)


def test_bound_terms(make_machine, patterns):
    machine = make_machine()
    bound = machine.bound(patterns, num_particles=3)
    assert bound.reconstruction.shape == bound.address_kl.shape == bound.memory_kl.shape == (3,)
    assert (bound.address_kl > 0).all()
    assert (bound.memory_kl > 0).all()
    torch.testing.assert_close(bound.bound, bound.reconstruction - bound.address_kl - bound.memory_kl)
    torch.testing.assert_close(bound.conditional_bound, bound.reconstruction - bound.address_kl)
    single = machine.bound(patterns[0])
    assert single.bound.shape == (1,)
    torch.testing.assert_close(single.memory_kl, bound.memory_kl[:1])


def test_bad_number_of_particles(make_machine, patterns):
    with pytest.raises(ValueError, match="num_particles is 0"):
        make_machine().bound(patterns, 0)


# ---------------------------------------------------------------------- is the bound a bound?


def scalar_machine(memory_scale, sigma=0.7):
    """K = C = 1: x ~ Normal(M w, sigma), for which log p(X) is a one-dimensional integral."""
    memory_prior = MatrixNormal(
        torch.full((1, 1), 0.8, dtype=torch.float64), torch.full((1, 1), memory_scale, dtype=torch.float64)
    )
    writer = OnlineWriter(1, sweeps=3)
    return linear_machine(1, 1, sigma, memory_prior=memory_prior, writer=writer).double()


def log_evidence(x, memory_scale, sigma=0.7):
    """log of the integral of p(M) prod_t Normal(x_t; 0, M^2 + sigma^2), by quadrature, per pattern."""
    grid = 0.8 + memory_scale * torch.linspace(-10, 10, 20001, dtype=torch.float64)
    log_joint = dist.Normal(0.8, memory_scale).log_prob(grid)
    log_joint = log_joint + dist.Normal(0.0, (grid**2 + sigma**2).sqrt()).log_prob(x.flatten(1)[..., None]).sum(-2)
    return (torch.logsumexp(log_joint, -1) + (grid[1] - grid[0]).log()) / x.shape[1]


def test_bound_is_below_the_exact_log_evidence():
    x = 1.2 * torch.randn(4, 6, 1, dtype=torch.float64)
    machine, exact = scalar_machine(1.0), log_evidence(x, 1.0)
    with torch.no_grad():
        bounds = torch.stack([machine.bound(x, 200).bound for _ in range(20)])
    assert (bounds.mean(0) + 5 * bounds.std(0) / math.sqrt(20) < exact).all()
    assert (exact - bounds.mean(0) < 1.0).all()  # and not far below


def test_elbo_equals_the_log_evidence_at_the_exact_posterior():
    """With a memory that is known, the reader is exact and every single sample gives log p(X)."""
    x = torch.randn(4, 6, 1, dtype=torch.float64)
    machine, exact = scalar_machine(1e-7), log_evidence(x, 1e-7)
    for _ in range(3):
        loss = Trace_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, x)
        assert -loss / 6 == pytest.approx(exact.sum().item(), rel=1e-5)
