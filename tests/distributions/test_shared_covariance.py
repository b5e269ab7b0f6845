"""One covariance for T Gaussians: the same as a plain ``MultivariateNormal``, and never copied T times."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import random_factor
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.autograd import gradcheck
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_kanerva.distributions import SharedCovarianceNormal

BATCHES = [((), ()), ((2,), ()), ((2,), (2,)), ((), (2,)), ((3, 2), (2,)), ((3, 1), (1, 2))]  # of loc, of the factor


def shared_and_plain(loc_batch=(), factor_batch=(), number=4, slots=3):
    """The same T Gaussians, with one factor and with T."""
    loc = torch.randn(*loc_batch, number, slots, dtype=torch.float64)
    factor = random_factor(*factor_batch, slots)
    copies = factor.unsqueeze(-3).expand(*factor_batch, number, slots, slots).contiguous()
    return SharedCovarianceNormal(loc, factor), dist.MultivariateNormal(loc, scale_tril=copies)


@pytest.mark.parametrize(("loc_batch", "factor_batch"), BATCHES)
def test_shared_covariance_is_a_multivariate_normal(loc_batch, factor_batch):
    q, plain = shared_and_plain(loc_batch, factor_batch)
    assert (q.batch_shape, q.event_shape) == (plain.batch_shape, plain.event_shape)
    for shape in ((), (5,)):
        value = plain.sample(shape)
        assert q.sample(shape).shape == q.rsample(shape).shape == value.shape
        torch.testing.assert_close(q.log_prob(value), plain.log_prob(value))
    for name in ("mean", "mode", "variance", "covariance_matrix", "precision_matrix"):
        torch.testing.assert_close(getattr(q, name), getattr(plain, name))
    torch.testing.assert_close(q.entropy(), plain.entropy())


@pytest.mark.parametrize(("loc_batch", "factor_batch"), BATCHES)
@pytest.mark.parametrize("other_batch", [(), (1,), (4,), (2, 1), (2, 4)])
def test_divergence_of_shared_covariances(loc_batch, factor_batch, other_batch):
    """KL(q || p) for a p of any batch, KL(p || q), and KL between two of them."""
    q, plain = shared_and_plain(loc_batch, factor_batch)
    p = dist.MultivariateNormal(
        torch.randn(*other_batch, 3, dtype=torch.float64), scale_tril=random_factor(*other_batch, 3)
    )
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(plain, p))
    torch.testing.assert_close(kl_divergence(p, q), kl_divergence(p, plain))
    other, plain_other = shared_and_plain(loc_batch, factor_batch)
    torch.testing.assert_close(kl_divergence(q, other), kl_divergence(plain, plain_other))
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros(q.batch_shape).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("loc_batch", "factor_batch"), BATCHES)
def test_expanded_shared_covariances(loc_batch, factor_batch):
    q, plain = shared_and_plain(loc_batch, factor_batch)
    shape = (7, *q.batch_shape)
    q, plain = q.expand(shape), plain.expand(shape)
    assert isinstance(q, SharedCovarianceNormal)
    value = q.rsample((2,))
    assert value.shape == (2, *shape, 3)
    torch.testing.assert_close(q.log_prob(value), plain.log_prob(value))
    torch.testing.assert_close(q.entropy(), plain.entropy())
    p = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())
    torch.testing.assert_close(kl_divergence(q, p), kl_divergence(plain, p))


def test_samples_of_shared_covariances():
    """Means and covariances of 40,000 samples within 5 standard errors; different patterns are independent."""
    q, plain = shared_and_plain((2,), (2,), number=3)
    number = 40_000
    samples = q.rsample((number,)) - q.loc
    variance = plain.variance
    assert (samples.mean(0).abs() < 5 * (variance / number).sqrt()).all()
    joint = samples.flatten(-2)  # (n, 2, T K)
    found = torch.einsum("nbi,nbj->bij", joint, joint) / number
    expected = torch.stack([torch.block_diag(*covariances) for covariances in plain.covariance_matrix])
    scale = expected.diagonal(dim1=-2, dim2=-1)
    # Isserlis: the variance of x y is Var x Var y + Cov(x, y)^2
    error = ((scale.unsqueeze(-1) * scale.unsqueeze(-2) + expected.square()) / number).sqrt()
    assert ((found - expected).abs() < 5 * error).all()


def test_gradients_of_shared_covariances():
    loc, value = (torch.randn(2, 4, 3, dtype=torch.float64).requires_grad_() for _ in range(2))
    factor = random_factor(2, 3).requires_grad_()
    p = dist.MultivariateNormal(torch.randn(3, dtype=torch.float64), scale_tril=random_factor(3))

    def terms(loc, factor, value):
        q = SharedCovarianceNormal(loc, factor, validate_args=False)
        torch.manual_seed(0)
        return q.log_prob(value), q.entropy(), kl_divergence(q, p), q.rsample((2,))

    assert gradcheck(terms, (loc, factor, value))


def test_shared_covariances_in_a_pyro_program():
    """As the address of a guide, with all of Pyro's checks on: its ELBO is that of a plain MultivariateNormal."""
    q, plain = shared_and_plain((2,), (2,))
    prior = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double())

    def program(distribution):
        def run():
            with pyro.plate("episode", 2, dim=-2), pyro.plate("pattern_plate", 4, dim=-1):
                return pyro.sample("address", distribution)

        return run

    with pyro.validation_enabled(True):
        for elbo in (Trace_ELBO, TraceMeanField_ELBO):
            losses = []
            for guide in (q, plain):
                torch.manual_seed(0)
                losses.append(elbo(max_plate_nesting=2).loss(program(prior), program(guide)))
            if elbo is TraceMeanField_ELBO:  # in closed form
                assert losses[0] == pytest.approx(losses[1], rel=1e-12)
                assert losses[0] == pytest.approx(kl_divergence(plain, prior).sum().item(), rel=1e-12)
        trace = poutine.trace(program(q)).get_trace()
        trace.compute_log_prob()
        value = trace.nodes["address"]["value"]
        torch.testing.assert_close(trace.nodes["address"]["log_prob"], plain.log_prob(value))


def test_bad_arguments_of_shared_covariances():
    loc, factor = torch.zeros(4, 3), torch.eye(3)
    with pytest.raises(ValueError, match="scale_tril"):
        SharedCovarianceNormal(loc, -factor, validate_args=True)
    q = SharedCovarianceNormal(loc, factor, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        q.log_prob(torch.full((4, 3), torch.nan))
    with pytest.raises(ValueError, match="right-most size"):
        q.log_prob(torch.zeros(4, 2))


class Largest(TorchDispatchMode):
    """The number of entries in the largest storage that any operation makes; views have no storage of their own."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.number = max(self.number, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def test_a_shared_covariance_is_never_copied():
    """No tensor of T K K entries, forward or backward, where a plain MultivariateNormal has some."""
    batch, number, slots = 2, 64, 16
    copies = number * slots**2
    prior = dist.MultivariateNormal(torch.zeros(slots), torch.eye(slots), validate_args=False)

    def largest(make):
        loc, factor = torch.randn(batch, number, slots), random_factor(batch, slots, dtype=torch.float32)
        leaves = loc.requires_grad_(), factor.requires_grad_()
        with Largest() as found:
            q = make(*leaves)
            divergences = kl_divergence(q, prior), kl_divergence(q, prior.expand((batch, number)))
            terms = q.log_prob(q.rsample()), q.entropy(), *divergences
            torch.autograd.grad(sum(term.sum() for term in terms), leaves)
        return found.number

    assert largest(lambda loc, factor: SharedCovarianceNormal(loc, factor, validate_args=False)) < copies / 2
    plain = largest(
        lambda loc, factor: dist.MultivariateNormal(loc, scale_tril=factor.unsqueeze(-3), validate_args=False)
    )
    assert plain >= copies  # or this would not see them
