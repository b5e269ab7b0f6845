"""The Gaussians that stand for priors in the guide: of equal moments, or a surrogate of one's own."""

import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine

from pyro_kanerva import (
    GaussianMemory,
    HierarchicalMemory,
    HorseshoeAddress,
    LaplaceAddress,
    LaplaceMemory,
    LowRankMemory,
    MatrixNormal,
    StudentTAddress,
    StudentTMemory,
    Surrogate,
)
from pyro_kanerva.priors import exact_gaussian_or_none, moment_matched_address, moment_matched_memory

pytestmark = pytest.mark.usefixtures("float64")

MEMORIES = {
    "GaussianMemory": GaussianMemory,
    "LowRankMemory": LowRankMemory,
    "LaplaceMemory": LaplaceMemory,
    "StudentTMemory": StudentTMemory,
    "HierarchicalMemory": HierarchicalMemory,
}


@pytest.mark.parametrize("name", MEMORIES)
def test_surrogate_moments(name):
    """Against the moments of 400,000 samples."""
    options = {"HierarchicalMemory": {"concentration": 4.0}, "LowRankMemory": {"rank": 2}}.get(name, {})
    prior = MEMORIES[name](3, 2, **options)
    gaussian = moment_matched_memory(prior)
    assert isinstance(gaussian, MatrixNormal)
    assert gaussian.scale_tril_column is None
    with torch.no_grad():
        samples = prior().sample((400_000,))
    mean, variance = samples.mean(0), samples.var(0)
    error = (variance / 400_000).sqrt()
    assert ((gaussian.loc - mean).abs() < 6 * error).all()
    expected = variance.mean(-1) if name not in ("GaussianMemory", "LowRankMemory") else variance[:, 0]
    torch.testing.assert_close(gaussian.variance[:, 0].detach(), expected, rtol=0.05, atol=0)


def test_a_gaussian_stands_for_itself():
    prior = GaussianMemory(3, 2, 0.5 * torch.eye(3) + 0.2 * torch.ones(3, 3).tril(-1))
    torch.testing.assert_close(moment_matched_memory(prior).row_covariance, prior().row_covariance)
    distribution = MatrixNormal(torch.zeros(3, 2), torch.eye(3))
    assert moment_matched_memory(distribution) is distribution
    columns = MatrixNormal(torch.ones(3, 2), 2 * torch.eye(3), torch.tensor([1.0, 3.0]).diag())
    stands = moment_matched_memory(columns)
    torch.testing.assert_close(stands.variance, torch.full((3, 2), 4 * 5.0))


def test_surrogate_class():
    prior, gaussian = StudentTMemory(3, 2, df=3.0), GaussianMemory(3, 2)
    both = Surrogate(prior, gaussian)
    matrix = torch.randn(3, 2)
    torch.testing.assert_close(both().log_prob(matrix), prior().log_prob(matrix))
    torch.testing.assert_close(moment_matched_memory(both).log_prob(matrix), gaussian().log_prob(matrix))
    assert {id(p) for p in both.parameters()} == {id(p) for part in (prior, gaussian) for p in part.parameters()}
    fixed = MatrixNormal(torch.randn(3, 2), torch.eye(3))
    assert moment_matched_memory(Surrogate(prior, fixed)) is fixed


def test_a_prior_without_moments_takes_a_surrogate():
    """Episodes are written from the surrogate, and the bound is finite."""
    fixed = MatrixNormal(torch.randn(3, 2), torch.eye(3))
    cauchy = Surrogate(dist.Cauchy(torch.zeros(3, 2), 1.0).to_event(2), fixed)
    machine = linear_machine(3, 2, memory_prior=cauchy)
    x = torch.randn(2, 4, 2)
    assert machine.bound(x).bound.isfinite().all()
    expected = machine.writer(x, fixed, machine.code_scale).memory.loc
    torch.testing.assert_close(machine.write_codes(x).memory.loc, expected)


def test_both_parts_of_a_surrogate_are_learned():
    both = Surrogate(StudentTMemory(3, 2, df=3.0), GaussianMemory(3, 2))
    linear_machine(3, 2, memory_prior=both).bound(torch.randn(2, 4, 2)).bound.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in both.parameters())


def test_gaussian_address_moments():
    prior = dist.MultivariateNormal(torch.randn(3), torch.eye(3) + 0.5)
    mean, precision = moment_matched_address(prior)
    torch.testing.assert_close(mean, prior.loc)
    torch.testing.assert_close(precision.inverse(), prior.covariance_matrix)
    mean, precision = moment_matched_address(dist.Gamma(torch.tensor([2.0, 3.0]), 4.0).to_event(1))
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(precision, torch.tensor([8.0, 16 / 3]).diag())
    mean, precision = moment_matched_address(LaplaceAddress(2, 0.5)())
    torch.testing.assert_close(precision, 2 * torch.eye(2))


def test_exact_gaussians():
    """A prior that is Gaussian already, in two forms, and two that are not."""
    joint = dist.MultivariateNormal(torch.randn(3), torch.eye(3) + 0.5)
    assert exact_gaussian_or_none(joint) is joint
    entries = dist.Normal(torch.randn(3), torch.rand(3) + 0.5)
    gaussian = exact_gaussian_or_none(entries.to_event(1))
    w = torch.randn(4, 3)
    torch.testing.assert_close(gaussian.log_prob(w), entries.log_prob(w).sum(-1))
    assert exact_gaussian_or_none(LaplaceAddress(3)()) is None
    assert exact_gaussian_or_none(dist.LogNormal(torch.zeros(3), 1.0).to_event(1)) is None


class WrongSurrogate:
    def __call__(self):
        return dist.Laplace(torch.zeros(3, 2), 1.0).to_event(2)

    def surrogate(self):
        return self()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: moment_matched_memory(dist.Cauchy(torch.zeros(3, 2), 1.0).to_event(2)), "no finite mean.*Surrogate"),
        (
            lambda: moment_matched_memory(dist.StudentT(2.0, torch.zeros(3, 2), 1.0).to_event(2)),
            "no finite mean.*variance",
        ),
        (
            lambda: moment_matched_memory(WrongSurrogate()),
            "surrogate of WrongSurrogate is Independent; expected a MatrixNormal",
        ),
        (
            lambda: moment_matched_memory(
                Surrogate(GaussianMemory(3, 2), MatrixNormal(torch.zeros(3, 2), torch.eye(3), torch.eye(2)))
            ),
            "scale_tril_column=None",
        ),
        (lambda: moment_matched_address(HorseshoeAddress(3)()), r"no finite mean and variance.*LaplaceReader\(\)"),
        (lambda: moment_matched_address(StudentTAddress(3, df=1.5)()), "no finite mean and variance"),
    ],
)
def test_priors_without_a_gaussian(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_surrogate_of_another_shape():
    """The Gaussian must have the event shape of the prior."""
    machine = linear_machine(3, 2, memory_prior=Surrogate(StudentTMemory(3, 2), GaussianMemory(4, 2)))
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        machine.write(torch.randn(2, 4, 2))
