"""Address priors: their densities and supports."""

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine
from pyro.infer import TraceEnum_ELBO

from pyro_kanerva import (
    CategoricalAddress,
    GaussianAddress,
    HorseshoeAddress,
    LaplaceAddress,
    MixtureAddress,
    SimplexAddress,
    StudentTAddress,
)
from pyro_kanerva.priors import as_distribution, has_real_support

pytestmark = pytest.mark.usefixtures("float64")

ADDRESSES = {
    "GaussianAddress": GaussianAddress,
    "LaplaceAddress": LaplaceAddress,
    "StudentTAddress": StudentTAddress,
    "HorseshoeAddress": HorseshoeAddress,
    "SimplexAddress": SimplexAddress,
    "MixtureAddress": MixtureAddress,
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


@pytest.mark.parametrize("scale", [0.1, 0.8])
def test_mixture_address_is_a_gaussian_around_each_slot(scale):
    prior, w = MixtureAddress(3, scale)(), torch.randn(50, 3)
    components = dist.Normal(torch.eye(3), scale).to_event(1)
    expected = dist.MixtureSameFamily(dist.Categorical(torch.ones(3)), components)
    torch.testing.assert_close(prior.log_prob(w), expected.log_prob(w))
    torch.testing.assert_close(prior.mean, torch.full((3,), 1 / 3))
    torch.testing.assert_close(prior.variance, torch.full((3,), scale**2 + 2 / 9))


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
    machine = linear_machine(4, 2, address_prior=CategoricalAddress(4))
    loss = TraceEnum_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, torch.randn(2, 3, 2))
    assert math.isfinite(loss)


def test_logistic_normal_integrates_to_one():
    """Over the first K - 1 weights: a segment for K = 2, a triangle for K = 3."""
    prior = SimplexAddress(2, scale=1.5)()
    first = (torch.arange(20_000) + 0.5) / 20_000
    log_prob = prior.log_prob(torch.stack([first, 1 - first], -1))
    assert log_prob.exp().mean().item() == pytest.approx(1.0, abs=1e-4)
    prior = SimplexAddress(3, scale=1.0)()
    number = 600
    one, two = torch.meshgrid(*[(torch.arange(number) + 0.5) / number] * 2, indexing="ij")
    inside = one + two < 1 - 1e-9
    weights = torch.stack([one, two, 1 - one - two], -1)[inside]
    total = prior.log_prob(weights).exp().sum() / number**2
    assert total.item() == pytest.approx(1.0, abs=2e-3)


def test_logistic_normal_against_its_definition():
    """softmax of K independent normals: mean weights, and the density of log ratios."""
    scale, number = 1.5, 100_000
    prior = SimplexAddress(4, scale)()
    samples = prior.sample((number,))
    direct = (scale * torch.randn(number, 4)).softmax(-1)
    for function in (lambda w: w, lambda w: w.square(), lambda w: w.log()):
        one, other = function(samples), function(direct)
        error = ((one.var(0) + other.var(0)) / number).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 5 * error).all()


def test_real_supports():
    """All of R^K; also of a mixture, whose support is that of its components."""
    real = {name: has_real_support(ADDRESSES[name](3)()) for name in ADDRESSES}
    assert not real.pop("SimplexAddress")
    assert not real.pop("CategoricalAddress")
    assert all(real.values())
    for component, expected in ((dist.Normal, True), (dist.Gamma, False)):
        entries = component(torch.full((3, 2), 2.0), torch.tensor([0.3, 2.0]))
        mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(3, 2)), entries).to_event(1)
        assert has_real_support(mixture) == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianAddress(0), "GaussianAddress: num_slots is 0; expected at least 1"),
        (lambda: LaplaceAddress(0), "LaplaceAddress: num_slots is 0; expected at least 1"),
        (lambda: LaplaceAddress(3, 0.0), "LaplaceAddress: scale is 0.0; expected a positive number"),
        (lambda: StudentTAddress(3, df=-1.0), "StudentTAddress: df is -1.0; expected a positive number"),
        (lambda: HorseshoeAddress(3, math.nan), "HorseshoeAddress: scale is nan; expected a positive number"),
        (lambda: SimplexAddress(1), "SimplexAddress: num_slots is 1; expected at least 2"),
        (lambda: SimplexAddress(3, -2.0), "SimplexAddress: scale is -2.0; expected a positive number"),
        (lambda: MixtureAddress(0), "MixtureAddress: num_slots is 0; expected at least 1"),
        (lambda: MixtureAddress(3, 0.0), "MixtureAddress: scale is 0.0; expected a positive number"),
        (lambda: CategoricalAddress(0), "CategoricalAddress: num_slots is 0; expected at least 1"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
