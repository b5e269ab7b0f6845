"""Readers: how a cue becomes q(w | x, M), against closed forms and Bayes' rule by hand."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import random_gaussian
from torch.autograd import gradcheck

from pyro_kanerva import (
    AmortizedReader,
    CategoricalAddress,
    ExactReader,
    GaussianAddress,
    HorseshoeAddress,
    LaplaceAddress,
    LaplaceReader,
    MixtureAddress,
    MixtureReader,
    ScalarReader,
    SimplexAddress,
    SlotReader,
    StudentTAddress,
)
from pyro_kanerva.distributions import GaussianMixture

SIGMA = 0.7

pytestmark = pytest.mark.usefixtures("float64")


def sigma():
    return torch.tensor(SIGMA)


# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("kind", ["dependent", "independent"])
def test_exact_reader_is_the_closed_form(kind):
    codes, matrix, prior = torch.randn(2, 5, 3), torch.randn(2, 4, 3), random_gaussian(kind, 4)
    precision = prior.precision_matrix if kind == "dependent" else prior.variance.reciprocal().diag()
    covariance = (precision + matrix @ matrix.mT / SIGMA**2).inverse()
    mean = (codes @ matrix.mT / SIGMA**2 + precision @ prior.mean) @ covariance
    q = ExactReader()(codes, matrix, prior, sigma())
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.covariance_matrix, covariance.unsqueeze(1).expand(2, 5, 4, 4))
    scalar = ScalarReader(0.4)(codes, matrix, prior, sigma())
    torch.testing.assert_close(scalar.mean, mean)
    torch.testing.assert_close(scalar.stddev, torch.full_like(mean, 0.4))


@pytest.mark.parametrize("probs", [None, [0.5, 0.3, 0.15, 0.05]])
def test_slot_reader_is_bayes_rule(probs):
    codes, matrix = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    prior = CategoricalAddress(4)() if probs is None else dist.OneHotCategorical(torch.tensor(probs))
    q = SlotReader()(codes, matrix, prior, sigma())
    for b in range(2):
        for t in range(5):
            joint = [
                (0.25 if probs is None else probs[k])
                * math.exp(-0.5 * sum(((codes[b, t] - matrix[b, k]) ** 2).tolist()) / SIGMA**2)
                for k in range(4)
            ]
            expected = torch.tensor(joint) / sum(joint)
            torch.testing.assert_close(q.probs[b, t], expected)


def test_amortized_reader_is_its_network():
    network = torch.nn.Linear(3, 8)
    codes, matrix = torch.randn(2, 5, 3), torch.randn(6, 2, 4, 3)
    q = AmortizedReader(network)(codes, matrix, GaussianAddress(4)(), sigma())
    assert q.batch_shape == (6, 2, 5)
    output = network(codes)
    torch.testing.assert_close(q.mean, output[..., :4].expand(6, 2, 5, 4))
    torch.testing.assert_close(q.stddev, output[..., 4:].exp().expand(6, 2, 5, 4))


@pytest.mark.parametrize("size", [4, 7, 16])
def test_amortized_reader_of_another_size(size):
    reader = AmortizedReader(torch.nn.Linear(3, size))
    with pytest.raises(ValueError, match=rf"AmortizedReader: the network returned shape \(10, {size}\); .*\(10, 8\)"):
        reader(torch.randn(2, 5, 3), torch.randn(2, 4, 3), GaussianAddress(4)(), sigma())


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match=f"ScalarReader: scale is {scale}; expected a positive number"):
        ScalarReader(scale)


# ---------------------------------------------------------------------- all readers

PRIORS = {
    "Gaussian": lambda slots: GaussianAddress(slots)(),
    "Laplace": lambda slots: LaplaceAddress(slots)(),
    "StudentT": lambda slots: StudentTAddress(slots)(),
    "Horseshoe": lambda slots: HorseshoeAddress(slots)(),
    "Simplex": lambda slots: SimplexAddress(slots)(),
    "HalfNormal": lambda slots: dist.HalfNormal(torch.linspace(0.5, 1.5, slots)).to_event(1),
    "Gamma": lambda slots: dist.Gamma(torch.full((slots,), 2.0), torch.linspace(1.0, 3.0, slots)).to_event(1),
    "Dirichlet": lambda slots: dist.Dirichlet(torch.linspace(0.7, 2.0, slots)),
}


def parameters(q):
    """The tensors that make q."""
    if isinstance(q, torch.distributions.TransformedDistribution):
        q = q.base_dist
    if isinstance(q, dist.OneHotCategorical):
        return (q.probs,)
    if isinstance(q, GaussianMixture):
        covariance = q.covariance_of_components.unsqueeze(-3)
        return q.component_means, q.weights, covariance.expand(*q.batch_shape, *covariance.shape[-2:])
    if isinstance(q, dist.MultivariateNormal):
        return q.loc, q.covariance_matrix.expand(*q.loc.shape, q.loc.shape[-1])
    return q.mean, q.stddev


CASES = {
    **{name: (LaplaceReader, prior) for name, prior in PRIORS.items()},
    "Exact": (ExactReader, PRIORS["Gaussian"]),
    "Scalar": (ScalarReader, PRIORS["Gaussian"]),
    "Mixture": (MixtureReader, lambda slots: MixtureAddress(slots, 0.4)()),
    "Slot": (SlotReader, lambda slots: CategoricalAddress(slots)()),
    "Amortized": (lambda: AmortizedReader(torch.nn.Linear(3, 6)), PRIORS["Gaussian"]),
}


@pytest.mark.parametrize("name", CASES)
def test_particles_are_read_one_by_one(name):
    """A matrix (P, B, K, C) with codes (B, T, C): the same as P calls, and as P B calls."""
    make, prior = CASES[name]
    reader, prior = make(), prior(3)
    codes, matrix = torch.randn(2, 4, 3), torch.randn(5, 2, 3, 3)
    whole = reader(codes, matrix, prior, sigma())
    assert whole.batch_shape == (5, 2, 4)
    assert whole.event_shape == (3,)
    assert whole.sample().shape == (5, 2, 4, 3)
    assert whole.log_prob(whole.sample()).shape == (5, 2, 4)
    for p in range(5):
        parts = parameters(reader(codes, matrix[p], prior, sigma()))
        for one, other in zip(parameters(whole), parts, strict=True):
            torch.testing.assert_close(one[p], other, rtol=1e-9, atol=1e-9)
    single = parameters(reader(codes[1], matrix[3, 1], prior, sigma()))
    for one, other in zip(parameters(whole), single, strict=True):
        torch.testing.assert_close(one[3, 1], other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    """In the codes, the matrix and sigma, against finite differences."""
    make, prior = CASES[name]
    slots = 2 if name in ("Dirichlet", "HalfNormal", "Gamma") else 3
    if name == "Amortized":
        make = lambda: AmortizedReader(torch.nn.Linear(3, 2 * slots))  # noqa: E731
    reader, prior = make(), prior(slots)
    codes, matrix = torch.randn(2, 3, requires_grad=True), torch.randn(slots, 3, requires_grad=True)
    scale = sigma().requires_grad_()
    assert gradcheck(lambda *inputs: parameters(reader(inputs[0], inputs[1], prior, inputs[2])), (codes, matrix, scale))
