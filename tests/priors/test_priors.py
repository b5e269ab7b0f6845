"""Memory and address priors, the Gaussians that stand for them, and their real coordinates."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO

from pyro_kanerva import (
    CategoricalAddress,
    GaussianAddress,
    GaussianMemory,
    HierarchicalMemory,
    HorseshoeAddress,
    KanervaMachine,
    LaplaceAddress,
    LaplaceMemory,
    LowRankMemory,
    MatrixNormal,
    NormalLikelihood,
    SimplexAddress,
    StudentTAddress,
    StudentTMemory,
    Surrogate,
)
from pyro_kanerva.priors import (
    as_distribution,
    coordinates,
    divergence,
    gaussian_address,
    gaussian_memory,
    is_real,
    point_address,
)

pytestmark = pytest.mark.usefixtures("float64")


MEMORIES = {
    "GaussianMemory": GaussianMemory,
    "LowRankMemory": LowRankMemory,
    "LaplaceMemory": LaplaceMemory,
    "StudentTMemory": StudentTMemory,
    "HierarchicalMemory": HierarchicalMemory,
}


# ---------------------------------------------------------------------- memory priors


def test_low_rank_covariance():
    prior = LowRankMemory(5, 3, rank=2)
    with torch.no_grad():
        prior.log_scale.copy_(torch.linspace(-1.0, 0.5, 5))
    q, factor = prior(), prior.factor
    expected = torch.stack([torch.outer(column, column) for column in factor.mT]).sum(0)
    expected = expected + torch.linspace(-1.0, 0.5, 5).exp().square().diag()
    torch.testing.assert_close(q.row_covariance, expected)
    flat = dist.MultivariateNormal(q.loc.mT.flatten(), torch.block_diag(expected, expected, expected))
    memory = torch.randn(5, 3)
    torch.testing.assert_close(q.log_prob(memory), flat.log_prob(memory.mT.flatten()))
    assert sum(parameter.numel() for parameter in (prior.factor, prior.log_scale)) == 5 * 3


@pytest.mark.parametrize("name", MEMORIES)
def test_memory_priors_start_at_the_stated_scale(name):
    """Standard deviations of 1 / sqrt(K), of the entries and of the mean."""
    prior = MEMORIES[name](100, 50)
    assert prior().event_shape == (100, 50)
    assert prior().batch_shape == ()
    variance = gaussian_memory(prior).variance
    assert variance.mean().item() == pytest.approx(0.01, rel=0.2)  # the random half of LowRankMemory fluctuates
    assert prior.loc.std().item() == pytest.approx(0.1, rel=0.05)
    prior().log_prob(torch.randn(100, 50)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in prior.parameters())
    assert all(parameter.grad.abs().sum() > 0 for parameter in prior.parameters())


@pytest.mark.parametrize("name", ["LaplaceMemory", "StudentTMemory", "HierarchicalMemory"])
def test_scale_is_that_of_the_named_distribution(name):
    prior = MEMORIES[name](3, 2, scale=0.7)
    if name == "HierarchicalMemory":
        assert prior().variance.mean().item() == pytest.approx(0.49)  # E v
    else:
        torch.testing.assert_close(prior().base_dist.scale.expand(3, 2), torch.full((3, 2), 0.7))


def slot_variances(prior, number=40_001):
    """A grid of log v and the logarithm of p(v) dv."""
    logs = torch.linspace(-12, 12, number)
    inverse_gamma = dist.InverseGamma(prior.concentration, prior.log_rate.detach().exp())
    return logs.exp(), inverse_gamma.log_prob(logs.exp()) + logs + (logs[1] - logs[0]).log()


@pytest.mark.parametrize("concentration", [1.5, 2.0, 6.0])
@pytest.mark.parametrize("size", [1, 4])
def test_hierarchical_density_and_relevance(concentration, size):
    """Density and E[v | M] by quadrature over the variance of every slot."""
    prior = HierarchicalMemory(3, size, concentration, scale=0.8)
    memory = prior.loc.detach() + torch.tensor([[0.1], [0.7], [2.5]]) * torch.randn(3, size)
    variance, log_weight = slot_variances(prior)
    squared = (memory - prior.loc.detach()).square().sum(-1)  # (K,)
    log_joint = log_weight - 0.5 * squared.unsqueeze(-1) / variance - 0.5 * size * (2 * math.pi * variance).log()
    with torch.no_grad():
        torch.testing.assert_close(prior().log_prob(memory), log_joint.logsumexp(-1).sum(), rtol=1e-7, atol=1e-7)
        expected = (log_joint.softmax(-1) * variance).sum(-1)
        torch.testing.assert_close(prior.relevance(memory), expected, rtol=1e-4, atol=1e-6)
        batch = prior.relevance(memory.expand(4, 2, 3, size))
    assert batch.shape == (4, 2, 3)


def test_entries_of_a_hierarchical_slot_share_a_variance():
    """Squared deviations of one slot are correlated, those of two slots are not."""
    prior = HierarchicalMemory(2, 2, concentration=6.0)
    with torch.no_grad():
        deviations = (prior().sample((200_000,)) - prior.loc).square().flatten(1)
    correlation = torch.corrcoef(deviations.mT)
    assert correlation[0, 1] > 0.05
    assert correlation[2, 3] > 0.05
    assert correlation[:2, 2:].abs().max() < 0.02


# ---------------------------------------------------------------------- Gaussians that stand for them


@pytest.mark.parametrize("name", MEMORIES)
def test_surrogate_moments(name):
    """Against the moments of 400,000 samples."""
    options = {"HierarchicalMemory": {"concentration": 4.0}, "LowRankMemory": {"rank": 2}}.get(name, {})
    prior = MEMORIES[name](3, 2, **options)
    gaussian = gaussian_memory(prior)
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
    torch.testing.assert_close(gaussian_memory(prior).row_covariance, prior().row_covariance)
    distribution = MatrixNormal(torch.zeros(3, 2), torch.eye(3))
    assert gaussian_memory(distribution) is distribution
    columns = MatrixNormal(torch.ones(3, 2), 2 * torch.eye(3), torch.tensor([1.0, 3.0]).diag())
    stands = gaussian_memory(columns)
    torch.testing.assert_close(stands.variance, torch.full((3, 2), 4 * 5.0))


def test_surrogate_class():
    prior, gaussian = StudentTMemory(3, 2, df=3.0), GaussianMemory(3, 2)
    both = Surrogate(prior, gaussian)
    memory = torch.randn(3, 2)
    torch.testing.assert_close(both().log_prob(memory), prior().log_prob(memory))
    torch.testing.assert_close(gaussian_memory(both).log_prob(memory), gaussian().log_prob(memory))
    assert {id(p) for p in both.parameters()} == {id(p) for part in (prior, gaussian) for p in part.parameters()}
    fixed = MatrixNormal(torch.randn(3, 2), torch.eye(3))
    assert gaussian_memory(Surrogate(prior, fixed)) is fixed
    # a prior without moments works with one
    cauchy = Surrogate(dist.Cauchy(torch.zeros(3, 2), 1.0).to_event(2), fixed)
    machine = KanervaMachine(
        lambda x: x, lambda z: z, memory_prior=cauchy, likelihood=NormalLikelihood(0.5), code_scale=0.5
    )
    x = torch.randn(2, 4, 2)
    assert machine.bound(x).bound.isfinite().all()
    torch.testing.assert_close(
        machine.write_codes(x).memory.loc, machine.writer(x, fixed, machine.code_scale).memory.loc
    )
    # and both parts of a learned one are trained
    machine = KanervaMachine(lambda x: x, lambda z: z, memory_prior=both, likelihood=NormalLikelihood(0.5))
    machine.bound(x).bound.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in both.parameters())


def test_gaussian_address_moments():
    prior = dist.MultivariateNormal(torch.randn(3), torch.eye(3) + 0.5)
    mean, precision = gaussian_address(prior)
    torch.testing.assert_close(mean, prior.loc)
    torch.testing.assert_close(precision.inverse(), prior.covariance_matrix)
    mean, precision = gaussian_address(dist.Gamma(torch.tensor([2.0, 3.0]), 4.0).to_event(1))
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.75]))
    torch.testing.assert_close(precision, torch.tensor([8.0, 16 / 3]).diag())
    mean, precision = gaussian_address(LaplaceAddress(2, 0.5)())
    torch.testing.assert_close(precision, 2 * torch.eye(2))


def test_divergence():
    """In closed form where it is known, else the log ratio at the value."""
    q, p = dist.Normal(0.3, 0.5), dist.Normal(0.0, 1.0)
    closed = math.log(2) + (0.25 + 0.09) / 2 - 0.5
    assert divergence(q, p, torch.tensor(7.0)).item() == pytest.approx(closed, rel=1e-6)
    value, heavy = torch.tensor(0.7), dist.StudentT(3.0, 0.0, 1.0)
    torch.testing.assert_close(divergence(q, heavy, value), q.log_prob(value) - heavy.log_prob(value))
    samples = dist.Normal(torch.zeros(()), 1.0).sample((100_000,))
    estimates = divergence(dist.Normal(torch.zeros(()), 1.0), dist.StudentT(torch.tensor(3.0)), samples)
    grid = torch.linspace(-10, 10, 20_001)
    log_ratio = dist.Normal(0.0, 1.0).log_prob(grid) - dist.StudentT(3.0).log_prob(grid)
    exact = (dist.Normal(0.0, 1.0).log_prob(grid).exp() * log_ratio).sum() * (grid[1] - grid[0])
    assert abs(estimates.mean() - exact) < 5 * estimates.std() / math.sqrt(100_000)


# ---------------------------------------------------------------------- address priors

ADDRESSES = {
    "GaussianAddress": GaussianAddress,
    "LaplaceAddress": LaplaceAddress,
    "StudentTAddress": StudentTAddress,
    "HorseshoeAddress": HorseshoeAddress,
    "SimplexAddress": SimplexAddress,
    "CategoricalAddress": CategoricalAddress,
}


@pytest.mark.parametrize("name", ADDRESSES)
def test_slots_are_exchangeable(name):
    """No density changes when slots are permuted; the simplex treats its last slot no other than the rest."""
    prior = ADDRESSES[name](4)()
    address = prior.sample((50,))
    expected = prior.log_prob(address)
    for order in itertools.permutations(range(4)):
        torch.testing.assert_close(prior.log_prob(address[:, list(order)]), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ADDRESSES)
def test_address_priors_are_modules_of_one_event(name):
    module = ADDRESSES[name](5)
    prior = module()
    assert (prior.batch_shape, prior.event_shape) == ((), (5,))
    assert prior.sample((3, 2)).shape == (3, 2, 5)
    assert not module.state_dict()  # nothing learned, so nothing to save
    assert module.float()().sample().dtype == torch.float32
    assert prior.has_enumerate_support == (name == "CategoricalAddress")
    assert as_distribution(module).event_shape == (5,)
    assert as_distribution(prior) is prior


def test_address_priors_are_the_named_ones():
    w = torch.randn(3)
    torch.testing.assert_close(GaussianAddress(3)().log_prob(w), dist.Normal(0.0, 1.0).log_prob(w).sum())
    torch.testing.assert_close(LaplaceAddress(3)().log_prob(w), (-(w.abs() * 2**0.5) - 0.5 * math.log(2)).sum())
    assert LaplaceAddress(3)().variance.tolist() == pytest.approx([1.0] * 3)
    t = dist.StudentT(torch.tensor(5.0), 0.0, 0.7)
    torch.testing.assert_close(StudentTAddress(3, df=5.0, scale=0.7)().log_prob(w), t.log_prob(w).sum())
    density = (torch.log1p(0.25 / w.square()) / (2 * math.pi * 0.5)).log().sum()
    torch.testing.assert_close(HorseshoeAddress(3)().log_prob(w), density)


def test_simplex_address_is_the_softmax_of_independent_normals():
    """The covariance of log ratios is scale^2 (I + 1 1^T)."""
    prior = SimplexAddress(4, scale=1.3)()
    torch.testing.assert_close(prior.base_dist.covariance_matrix, 1.69 * (torch.eye(3) + torch.ones(3, 3)))
    weights = prior.sample((200_000,))
    torch.testing.assert_close(weights.sum(-1), torch.ones(200_000))
    error = weights.std(0) / math.sqrt(200_000)
    assert ((weights.mean(0) - 0.25).abs() < 5 * error).all()
    ratios = weights.log()[:, :3] - weights.log()[:, 3:]
    torch.testing.assert_close(ratios.mT.cov(), 1.69 * (torch.eye(3) + torch.ones(3, 3)), rtol=0.02, atol=0)


def test_categorical_address_enumerates_the_slots():
    prior = CategoricalAddress(4)()
    support = prior.enumerate_support(expand=False)
    assert torch.equal(support, torch.eye(4))
    torch.testing.assert_close(prior.log_prob(support), torch.full((4,), -math.log(4)))
    assert (prior.sample((100,)).sum(-1) == 1).all()
    machine = KanervaMachine(
        lambda x: x,
        lambda z: z,
        memory_prior=GaussianMemory(4, 2),
        address_prior=CategoricalAddress(4),
        likelihood=NormalLikelihood(0.5),
    )
    loss = TraceEnum_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, torch.randn(2, 3, 2))
    assert math.isfinite(loss)


# ---------------------------------------------------------------------- real coordinates


PRIORS = {
    "Gaussian": lambda size: GaussianAddress(size)(),
    "Laplace": lambda size: LaplaceAddress(size)(),
    "StudentT": lambda size: StudentTAddress(size)(),
    "Horseshoe": lambda size: HorseshoeAddress(size)(),
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
    where = coordinates(prior)
    assert where.size == (2 if name in ON_SIMPLEX else 3)
    points = 1.5 * torch.randn(7, 5, where.size)
    addresses = where.address(points)
    assert addresses.shape == (7, 5, 3)
    assert prior.support.check(addresses).all()
    torch.testing.assert_close(where.inverse(addresses), points, rtol=1e-6, atol=1e-6)
    assert where.log_density(points).shape == (7, 5)
    assert where.center(points).shape == (where.size,)
    assert where.log_density(where.center(points)).isfinite()
    precision = where.precision(points)
    assert precision.shape == (where.size, where.size)
    assert torch.linalg.eigvalsh(precision).min() > 0
    assert is_real(prior) == (where.transform is None)
    factor = where.posterior_scale_tril(torch.randn(2, 3, 4), torch.tensor(0.7))
    assert factor.shape == (2, where.size, where.size)
    if where.transform is not None:
        expected = [torch.autograd.functional.jacobian(where.address, u) for u in points.flatten(0, 1)]
        torch.testing.assert_close(where.jacobian(points).flatten(0, 1), torch.stack(expected))
        assert where.jacobian(points[0, 0]).shape == (3, where.size)


@pytest.mark.parametrize("name", PRIORS)
def test_log_density_of_coordinates_integrates_to_one(name):
    """In one coordinate: K = 2 on the simplex, else K = 1."""
    prior = PRIORS[name](2 if name in ON_SIMPLEX else 1)
    where = coordinates(prior)
    logs = torch.linspace(-25, 16, 20_001)
    if where.transform is None:  # also the tails of the horseshoe: both halves in log u
        points = logs.exp()
        total = sum(
            (where.log_density(sign * points.unsqueeze(-1)) + logs).exp().sum() * (logs[1] - logs[0])
            for sign in (1, -1)
        )
    else:
        grid = torch.linspace(-40, 40, 40_001)
        total = where.log_density(grid.unsqueeze(-1)).exp().sum() * (grid[1] - grid[0])
    assert total.item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_log_density_of_coordinates_is_the_change_of_variables(name):
    """p(u) = p(w) |dw / du|, the first K - 1 weights on the simplex; entries add up where they are independent."""
    prior = PRIORS[name](3)
    where = coordinates(prior)
    points = torch.randn(6, where.size)
    address = where.address(points)
    expected = prior.log_prob(address)
    if where.transform is not None:
        square = torch.stack([torch.autograd.functional.jacobian(where.address, u) for u in points])
        expected = expected + torch.linalg.slogdet(square[:, : where.size]).logabsdet
    torch.testing.assert_close(where.log_density(points), expected, rtol=1e-6, atol=1e-6)
    if where.entry is not None:
        torch.testing.assert_close(where.entry_log_density(points).sum(-1), expected, rtol=1e-6, atol=1e-6)


def test_point_address():
    """The mean, or the image of the mean of the base."""
    prior = SimplexAddress(3)()
    torch.testing.assert_close(point_address(prior), torch.full((3,), 1 / 3))
    torch.testing.assert_close(point_address(dist.Normal(torch.ones(3), 1.0).to_event(1)), torch.ones(3))
    torch.testing.assert_close(point_address(CategoricalAddress(4)()), torch.full((4,), 0.25))


# ---------------------------------------------------------------------- errors


class WrongSurrogate:
    def __call__(self):
        return dist.Laplace(torch.zeros(3, 2), 1.0).to_event(2)

    def surrogate(self):
        return self()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LowRankMemory(0, 3), "LowRankMemory: num_slots is 0; expected a positive integer"),
        (lambda: LowRankMemory(3, 3, 0), "LowRankMemory: rank is 0"),
        (lambda: LowRankMemory(3, 3, 4), "LowRankMemory: rank is 4; expected at most num_slots, 3"),
        (lambda: LowRankMemory(3, 3, 1, scale=-1.0), "LowRankMemory: scale is -1.0; expected a positive"),
        (lambda: LaplaceMemory(3, 0), "LaplaceMemory: code_size is 0"),
        (lambda: LaplaceMemory(3, 3, math.inf), "LaplaceMemory: scale is inf"),
        (lambda: LaplaceMemory(3, 3, math.nan), "LaplaceMemory: scale is nan"),
        (lambda: StudentTMemory(3, 3, df=2.0), "StudentTMemory: df is 2.0; expected more than 2"),
        (lambda: StudentTMemory(3, 3, df=math.inf), "StudentTMemory: df is inf"),
        (lambda: HierarchicalMemory(3, 3, concentration=1.0), "concentration is 1.0; expected more than 1"),
        (lambda: HierarchicalMemory(3, 3, scale=0.0), "HierarchicalMemory: scale is 0.0"),
        (lambda: LaplaceAddress(0), "LaplaceAddress: num_slots is 0; expected at least 1"),
        (lambda: LaplaceAddress(3, 0.0), "LaplaceAddress: scale is 0.0; expected a positive"),
        (lambda: StudentTAddress(3, df=-1.0), "StudentTAddress: df is -1.0"),
        (lambda: HorseshoeAddress(3, math.nan), "HorseshoeAddress: scale is nan"),
        (lambda: SimplexAddress(1), "SimplexAddress: num_slots is 1; expected at least 2"),
        (lambda: SimplexAddress(3, -2.0), "SimplexAddress: scale is -2.0"),
        (lambda: CategoricalAddress(0), "CategoricalAddress: num_slots is 0"),
        (lambda: gaussian_memory(dist.Cauchy(torch.zeros(3, 2), 1.0).to_event(2)), "no finite mean.*Surrogate"),
        (lambda: gaussian_memory(dist.StudentT(2.0, torch.zeros(3, 2), 1.0).to_event(2)), "no finite mean.*variance"),
        (lambda: gaussian_memory(WrongSurrogate()), "surrogate of WrongSurrogate is Independent; expected a MatrixN"),
        (
            lambda: gaussian_memory(
                Surrogate(GaussianMemory(3, 2), MatrixNormal(torch.zeros(3, 2), torch.eye(3), torch.eye(2)))
            ),
            "scale_tril_column=None",
        ),
        (lambda: gaussian_address(HorseshoeAddress(3)()), r"no finite mean and variance.*LaplaceReader\(\)"),
        (lambda: gaussian_address(StudentTAddress(3, df=1.5)()), "no finite mean and variance"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_surrogate_of_another_shape():
    """The Gaussian must have the event shape of the prior."""
    wrong = Surrogate(StudentTMemory(3, 2), GaussianMemory(4, 2))
    machine = KanervaMachine(lambda x: x, lambda z: z, memory_prior=wrong, likelihood=NormalLikelihood(0.5))
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        machine.write(torch.randn(2, 4, 2))
