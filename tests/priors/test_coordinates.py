"""Real coordinates of addresses: there and back, and their density."""

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva import (
    CategoricalAddress,
    GaussianAddress,
    HorseshoeAddress,
    LaplaceAddress,
    MixtureAddress,
    SimplexAddress,
    StudentTAddress,
)
from pyro_kanerva.distributions import GaussianMixture
from pyro_kanerva.priors import has_real_support, point_address, real_coordinates

pytestmark = pytest.mark.usefixtures("float64")

PRIORS = {
    "Gaussian": lambda size: GaussianAddress(size)(),
    "Laplace": lambda size: LaplaceAddress(size)(),
    "StudentT": lambda size: StudentTAddress(size)(),
    "Horseshoe": lambda size: HorseshoeAddress(size)(),
    "Mixture": lambda size: MixtureAddress(size, 0.4)(),
    "Simplex": lambda size: SimplexAddress(size)(),
    "HalfNormal": lambda size: dist.HalfNormal(torch.full((size,), 0.8)).to_event(1),
    "Gamma": lambda size: dist.Gamma(torch.full((size,), 2.0), torch.tensor(1.5)).to_event(1),
    "Beta": lambda size: dist.Beta(torch.full((size,), 2.0), torch.tensor(3.0)).to_event(1),
    "Dirichlet": lambda size: dist.Dirichlet(torch.full((size,), 1.5)),
    "LogNormal": lambda size: dist.LogNormal(torch.zeros(size), 0.7).to_event(1),
}
ON_SIMPLEX = ("Simplex", "Dirichlet")


@pytest.mark.parametrize("name", PRIORS)
def test_coordinates_there_and_back(name):
    prior = PRIORS[name](3)
    coordinates = real_coordinates(prior)
    assert coordinates.size == (2 if name in ON_SIMPLEX else 3)
    points = 1.5 * torch.randn(7, 5, coordinates.size)
    addresses = coordinates.address(points)
    assert addresses.shape == (7, 5, 3)
    assert prior.support.check(addresses).all()
    torch.testing.assert_close(coordinates.inverse(addresses), points, rtol=1e-6, atol=1e-6)
    assert coordinates.log_density(points).shape == (7, 5)
    assert coordinates.center(points).shape == (coordinates.size,)
    assert coordinates.log_density(coordinates.center(points)).isfinite()
    precision = coordinates.precision(points)
    assert precision.shape == (coordinates.size, coordinates.size)
    assert torch.linalg.eigvalsh(precision).min() > 0
    assert has_real_support(prior) == (coordinates.transform is None)
    factor = coordinates.posterior_scale_tril(torch.randn(2, 3, 4), torch.tensor(0.7))
    assert factor.shape == (2, coordinates.size, coordinates.size)
    if coordinates.transform is not None:
        expected = [torch.autograd.functional.jacobian(coordinates.address, u) for u in points.flatten(0, 1)]
        torch.testing.assert_close(coordinates.jacobian(points).flatten(0, 1), torch.stack(expected))
        assert coordinates.jacobian(points[0, 0]).shape == (3, coordinates.size)


@pytest.mark.parametrize("name", PRIORS)
def test_log_density_of_coordinates_integrates_to_one(name):
    """In one coordinate: K = 2 on the simplex, else K = 1."""
    prior = PRIORS[name](2 if name in ON_SIMPLEX else 1)
    coordinates = real_coordinates(prior)
    logs = torch.linspace(-25, 16, 20_001)
    if coordinates.transform is None:  # also the tails of the horseshoe: both halves in log u
        points = logs.exp()
        total = sum(
            (coordinates.log_density(sign * points.unsqueeze(-1)) + logs).exp().sum() * (logs[1] - logs[0])
            for sign in (1, -1)
        )
    else:
        grid = torch.linspace(-40, 40, 40_001)
        total = coordinates.log_density(grid.unsqueeze(-1)).exp().sum() * (grid[1] - grid[0])
    assert total.item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_log_density_of_coordinates_is_the_change_of_variables(name):
    """p(u) = p(w) |dw / du|, the first K - 1 weights on the simplex; entries add up where they are independent."""
    prior = PRIORS[name](3)
    coordinates = real_coordinates(prior)
    points = torch.randn(6, coordinates.size)
    address = coordinates.address(points)
    expected = prior.log_prob(address)
    if coordinates.transform is not None:
        square = torch.stack([torch.autograd.functional.jacobian(coordinates.address, u) for u in points])
        expected = expected + torch.linalg.slogdet(square[:, : coordinates.size]).logabsdet
    torch.testing.assert_close(coordinates.log_density(points), expected, rtol=1e-6, atol=1e-6)
    if coordinates.entry is not None:
        torch.testing.assert_close(coordinates.entry_log_density(points).sum(-1), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PRIORS)
def test_the_center_is_near_the_mean_and_at_no_kink(name):
    """The density has a slope there, the same from both sides; at 0 that of a horseshoe or a Laplace has none."""
    coordinates = real_coordinates(PRIORS[name](3))
    center = coordinates.center(torch.zeros(()))
    for step in 1e-5 * torch.eye(coordinates.size):
        left, here, right = (coordinates.log_density(center + sign * step) for sign in (-1, 0, 1))
        assert (right - here).item() == pytest.approx((here - left).item(), abs=1e-8)
    if coordinates.transform is None and name != "Horseshoe":  # which has no mean
        assert ((center - coordinates.prior.mean).abs() < 0.2 * coordinates.prior.stddev).all()


@pytest.mark.parametrize("name", PRIORS)
def test_the_covariance_of_an_address(name):
    """(P + J^T M M^T J / sigma^2)^-1: P of the prior, or the identity in coordinates without a closed form."""
    coordinates, matrix = real_coordinates(PRIORS[name](3)), torch.randn(2, 3, 4)
    if name == "Simplex":
        precision = torch.linalg.inv(9 * (torch.eye(2) + 1))  # of log ratios of weights, with the scale 3
    elif coordinates.transform is None and name not in ("Horseshoe", "Mixture"):
        precision = (1 / coordinates.prior.variance).diag()
    else:
        precision = torch.eye(coordinates.size) / (0.16 if name == "Mixture" else 1)
    torch.testing.assert_close(coordinates.precision(matrix), precision)
    jacobian = torch.autograd.functional.jacobian(coordinates.address, coordinates.center(matrix))
    factor = coordinates.posterior_scale_tril(matrix, torch.tensor(0.7))
    expected = (precision + jacobian.mT @ matrix @ matrix.mT @ jacobian / 0.49).inverse()
    torch.testing.assert_close(factor @ factor.mT, expected)


def test_coordinates_of_a_mixture():
    """The center is the mean; the precision is that of every component."""
    prior, like = MixtureAddress(4, 0.5)(), torch.zeros(())
    coordinates = real_coordinates(prior)
    torch.testing.assert_close(coordinates.center(like), torch.full((4,), 0.25))
    torch.testing.assert_close(coordinates.precision(like), 4 * torch.eye(4))


def test_point_address_of_a_mixture():
    """The mean of the heaviest component, not the mean between the components."""
    offsets, logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.1, 0.2], [0.3, 0.0]])
    q = GaussianMixture(torch.tensor([[1.0, 1.0], [0.0, -1.0]]), offsets, logits, torch.eye(2))
    torch.testing.assert_close(point_address(q), torch.tensor([[3.0, 1.0], [0.0, 0.0]]))


def test_point_address():
    """The mean, or the image of the mean of the base."""
    prior = SimplexAddress(3)()
    torch.testing.assert_close(point_address(prior), torch.full((3,), 1 / 3))
    torch.testing.assert_close(point_address(dist.Normal(torch.ones(3), 1.0).to_event(1)), torch.ones(3))
    torch.testing.assert_close(point_address(CategoricalAddress(4)()), torch.full((4,), 0.25))
