"""The distributions that neither Pyro nor torch has, against quadrature, autograd and brute force."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import random_factor
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.autograd import gradcheck
from torch.autograd.functional import jacobian
from torch.distributions import kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pyro_kanerva import SimplexAddress
from pyro_kanerva.distributions import AdditiveLogistic, DiscretizedLogistic, HorseshoeLike, SharedCovarianceNormal

# ---------------------------------------------------------------------- one covariance for T Gaussians

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


# ---------------------------------------------------------------------- horseshoe-like


def log_grid(low, high, number=20_001):
    """x > 0 and the logarithm of dx: integrals by the trapezoid rule in log x."""
    logs = torch.linspace(math.log(low), math.log(high), number, dtype=torch.float64)
    return logs.exp(), logs + (logs[1] - logs[0]).log()


def horseshoe_cdf(scale):
    """P(|x| <= value) of the stated construction x = scale u c: E_u[2 atan(v / (scale u)) / pi]."""
    uniform = (torch.arange(200, dtype=torch.float64) + 0.5) / 200

    def cdf(value):
        return (2 / math.pi * torch.atan(value.unsqueeze(-1) / (scale * uniform))).mean(-1)

    return cdf


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_horseshoe_is_normalized(scale):
    points, log_step = log_grid(1e-14, 1e8)
    density = HorseshoeLike(torch.tensor(scale, dtype=torch.float64))
    total = 2 * (density.log_prob(points) + log_step).exp().sum()
    tail = 2 * scale / (2 * math.pi) * 2 / 1e8  # log(1 + s^2/x^2) is about s^2 / x^2
    assert total.item() == pytest.approx(1.0, abs=1e-6 + tail)
    torch.testing.assert_close(density.log_prob(-points), density.log_prob(points), rtol=0, atol=0)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_horseshoe_is_the_stated_product(scale):
    """The mass of intervals under the density, and under scale * uniform * Cauchy."""
    points, log_step = log_grid(1e-12, 1e6)
    mass = 2 * (HorseshoeLike(torch.tensor(scale, dtype=torch.float64)).log_prob(points) + log_step).exp()
    cumulative = mass.cumsum(0)
    index = torch.arange(4000, 20_000, 2000)
    torch.testing.assert_close(cumulative[index], horseshoe_cdf(scale)(points[index]), rtol=0, atol=2e-3)


@pytest.mark.parametrize("scale", [0.1, 2.0])
def test_horseshoe_samples(scale):
    """Kolmogorov and Smirnov: the distance of 20,000 samples is below 1.95 / sqrt(n) with probability 0.999."""
    number = 20_000
    samples = HorseshoeLike(torch.tensor(scale, dtype=torch.float64)).sample((number,))
    assert abs((samples > 0).double().mean().item() - 0.5) < 4 * 0.5 / math.sqrt(number)
    absolute = samples.abs().sort().values
    cdf = horseshoe_cdf(scale)(absolute)
    empirical = torch.arange(number + 1, dtype=torch.float64) / number
    distance = torch.maximum((cdf - empirical[:-1]).abs(), (cdf - empirical[1:]).abs()).max()
    assert distance < 1.95 / math.sqrt(number) + 1e-3  # the second term for the CDF's own quadrature


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_horseshoe_is_finite_everywhere(dtype):
    scale = torch.tensor([0.01, 1.0, 100.0], dtype=dtype, requires_grad=True)
    values = [0.0, 1e-30, -1e-10, 1e-3, 1.0, 1e3, -1e10]
    points = torch.tensor(values, dtype=dtype).unsqueeze(-1).expand(-1, 3).clone().requires_grad_()
    log_prob = HorseshoeLike(scale).log_prob(points)
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert points.grad.isfinite().all()
    assert scale.grad.isfinite().all()


def test_horseshoe_far_out_decays_like_a_square():
    """log p(x) = log(scale / (2 pi)) - 2 log x for large x."""
    density = HorseshoeLike(torch.tensor(1.0, dtype=torch.float64))
    for value in (1e4, 1e6, 1e7):
        expected = -math.log(2 * math.pi) - 2 * math.log(value)
        assert density.log_prob(torch.tensor(value, dtype=torch.float64)).item() == pytest.approx(expected, rel=1e-6)


def test_horseshoe_shapes_and_gradients():
    density = HorseshoeLike(torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64))
    assert density.batch_shape == (3,)
    assert density.sample((4, 2)).shape == (4, 2, 3)
    assert density.expand((5, 3)).sample().shape == (5, 3)
    joint = dist.Independent(density, 1)
    assert joint.log_prob(joint.sample((7,))).shape == (7,)
    torch.testing.assert_close(joint.log_prob(torch.ones(3).double()), density.log_prob(torch.ones(3).double()).sum())
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    value = torch.tensor([0.3, -1.7], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda s, v: HorseshoeLike(s).log_prob(v), (scale, value))
    torch.manual_seed(3)
    samples = HorseshoeLike(scale).rsample((10,))
    (gradient,) = torch.autograd.grad(samples.sum(), scale)
    torch.testing.assert_close(gradient, (samples / scale).sum(0))
    with pytest.raises(ValueError, match="scale"):
        HorseshoeLike(torch.tensor(-1.0), validate_args=True)


# ---------------------------------------------------------------------- logistic-normal


@pytest.mark.parametrize("size", [2, 3, 6])
def test_additive_logistic_and_back(size):
    transform = AdditiveLogistic()
    points = 3 * torch.randn(5, 4, size - 1, dtype=torch.float64)
    weights = transform(points)
    assert weights.shape == (5, 4, size)
    torch.testing.assert_close(weights.sum(-1), torch.ones(5, 4, dtype=torch.float64))
    torch.testing.assert_close(weights.log().diff(dim=-1)[..., -1], -points[..., -1])
    torch.testing.assert_close(transform._inverse(weights), points)
    torch.testing.assert_close(transform.inv(transform(points)), points)
    assert transform.forward_shape(points.shape) == weights.shape
    assert transform.inverse_shape(weights.shape) == points.shape


@pytest.mark.parametrize("size", [2, 3, 6])
def test_jacobian_of_the_additive_logistic(size):
    transform = AdditiveLogistic()
    points = 2 * torch.randn(5, size - 1, dtype=torch.float64)
    expected = torch.stack([jacobian(transform, u) for u in points])  # (5, K, K - 1)
    torch.testing.assert_close(transform.jacobian(points), expected)
    determinant = torch.linalg.slogdet(expected[:, :-1]).logabsdet  # of the first K - 1 weights
    torch.testing.assert_close(transform.log_abs_det_jacobian(points, transform(points)), determinant)
    assert gradcheck(transform, (points.requires_grad_(),))


def test_additive_logistic_far_out():
    """Weights of zero in float32: log determinant and inverse stay finite."""
    points = torch.tensor([[200.0, 0.0], [-200.0, 200.0], [0.0, -500.0]], requires_grad=True)
    transform = AdditiveLogistic()
    determinant = transform.log_abs_det_jacobian(points, transform(points))
    assert determinant.isfinite().all()
    determinant.sum().backward()
    assert points.grad.isfinite().all()
    assert transform._inverse(transform(points)).isfinite().all()


def test_logistic_normal_integrates_to_one():
    """Over the first K - 1 weights: a segment for K = 2, a triangle for K = 3."""
    prior = SimplexAddress(2, scale=1.5).double()()
    first = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    log_prob = prior.log_prob(torch.stack([first, 1 - first], -1))
    assert log_prob.exp().mean().item() == pytest.approx(1.0, abs=1e-4)
    prior = SimplexAddress(3, scale=1.0).double()()
    number = 600
    one, two = torch.meshgrid(*[(torch.arange(number, dtype=torch.float64) + 0.5) / number] * 2, indexing="ij")
    inside = one + two < 1 - 1e-9
    weights = torch.stack([one, two, 1 - one - two], -1)[inside]
    total = prior.log_prob(weights).exp().sum() / number**2
    assert total.item() == pytest.approx(1.0, abs=2e-3)


def test_logistic_normal_against_its_definition():
    """softmax of K independent normals: mean weights, and the density of log ratios."""
    scale, number = 1.5, 100_000
    prior = SimplexAddress(4, scale).double()()
    samples = prior.sample((number,))
    direct = (scale * torch.randn(number, 4, dtype=torch.float64)).softmax(-1)
    for function in (lambda w: w, lambda w: w.square(), lambda w: w.log()):
        one, other = function(samples), function(direct)
        error = ((one.var(0) + other.var(0)) / number).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 5 * error).all()


# ---------------------------------------------------------------------- discretized logistic


def double(value):
    return torch.tensor(value, dtype=torch.float64)


def levels_of(number, dtype):
    return torch.arange(number, dtype=dtype) / (number - 1)


EXTREMES = [(0.5, 0.1), (0.0, 0.05), (1.0, 0.2), (0.3, 1e-3), (0.31, 1e-5), (-3.0, 0.1), (4.0, 0.01), (0.5, 50.0)]


def brute_force(loc, scale, number):
    """The probability of every level, from the logistic CDF in float64."""
    bounds = (torch.arange(1, number, dtype=torch.float64) - 0.5) / (number - 1)
    cdf = torch.cat([torch.zeros(1), ((bounds - loc) / scale).sigmoid(), torch.ones(1)]).double()
    return cdf.diff()


@pytest.mark.parametrize("number", [2, 5, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_of_the_levels(number, dtype):
    levels = levels_of(number, dtype)
    tolerance = 1e-10 if dtype == torch.float64 else 2e-4
    for loc, scale in EXTREMES:
        entries = DiscretizedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype), number)
        log_prob = entries.log_prob(levels)
        assert log_prob.isfinite().all(), (loc, scale)
        assert log_prob.double().exp().sum().item() == pytest.approx(1.0, abs=tolerance), (loc, scale)
        if dtype == torch.float64:
            torch.testing.assert_close(log_prob.exp(), brute_force(loc, scale, number), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("number", [2, 5, 256])
def test_mean_and_mode_of_the_levels(number):
    levels = levels_of(number, torch.float64)
    for loc, scale in EXTREMES:
        entries = DiscretizedLogistic(double(loc), double(scale), number)
        probabilities = brute_force(loc, scale, number)
        assert entries.mean.item() == pytest.approx((probabilities * levels).sum().item(), abs=1e-10)
        mode = entries.mode
        best = probabilities[(levels - mode).abs().argmin()]
        assert mode in levels
        assert best.item() == pytest.approx(probabilities.max().item(), rel=1e-6), (loc, scale)


def test_samples_of_the_levels():
    """Counts within 5 standard errors, and every sample a level."""
    number, draws = 5, 40_000
    for loc, scale in [(0.5, 0.1), (0.0, 0.3), (0.95, 0.02), (0.5, 5.0)]:
        entries = DiscretizedLogistic(double(loc), double(scale), number)
        counts = (entries.sample((draws,)).unsqueeze(-1) == levels_of(number, torch.float64)).double()
        assert (counts.sum(-1) == 1).all()
        expected = brute_force(loc, scale, number)
        error = (expected * (1 - expected) / draws).sqrt()
        assert ((counts.mean(0) - expected).abs() <= 5 * error + 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_of_the_levels_are_finite(dtype):
    number = 256
    loc, scale = (torch.tensor(values, dtype=dtype) for values in zip(*EXTREMES, strict=True))
    loc.requires_grad_()
    scale.requires_grad_()
    log_prob = DiscretizedLogistic(loc, scale, number).log_prob(levels_of(number, dtype).unsqueeze(-1))
    assert log_prob.isfinite().all()
    log_prob.sum().backward()
    assert loc.grad.isfinite().all()
    assert scale.grad.isfinite().all()


def test_gradients_of_the_levels_against_differences():
    loc = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.05, 0.1, 0.3], dtype=torch.float64, requires_grad=True)
    levels = levels_of(16, torch.float64).unsqueeze(-1)
    assert gradcheck(lambda m, s: DiscretizedLogistic(m, s, 16).log_prob(levels), (loc, scale))
    assert gradcheck(lambda m, s: DiscretizedLogistic(m, s, 16).mean, (loc, scale))


def test_shapes_of_the_levels():
    entries = DiscretizedLogistic(torch.zeros(3, 1), torch.ones(4), 8)
    assert entries.batch_shape == (3, 4)
    assert entries.sample((2,)).shape == (2, 3, 4)
    assert entries.mean.shape == entries.mode.shape == (3, 4)
    wider = entries.expand((5, 3, 4))
    assert wider.log_prob(torch.zeros(5, 3, 4)).shape == (5, 3, 4)
    assert wider.num_levels == 8
    with pytest.raises(ValueError, match="scale"):
        DiscretizedLogistic(torch.zeros(2), torch.zeros(2), 8, validate_args=True)
    with pytest.raises(ValueError, match="support"):
        DiscretizedLogistic(torch.zeros(2), torch.ones(2), 8, validate_args=True).log_prob(torch.tensor([0.5, 1.5]))
