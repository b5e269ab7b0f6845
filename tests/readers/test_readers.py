"""Readers: how a cue becomes q(w | x, M), against closed forms, quadrature and Bayes' rule by hand."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck

from pyro_kanerva import (
    AmortizedReader,
    CategoricalAddress,
    ExactReader,
    GaussianAddress,
    GaussianMemory,
    HorseshoeAddress,
    KanervaMachine,
    LaplaceAddress,
    LaplaceReader,
    MatrixNormal,
    NormalLikelihood,
    OnlineWriter,
    ScalarReader,
    SimplexAddress,
    SlotReader,
    StudentTAddress,
)
from pyro_kanerva.readers import reader_for

SIGMA = 0.7


pytestmark = pytest.mark.usefixtures("float64")


def sigma():
    return torch.tensor(SIGMA)


def half_normal(slots):
    return dist.HalfNormal(torch.linspace(0.5, 1.5, slots)).to_event(1)


def gamma(slots):
    return dist.Gamma(torch.full((slots,), 2.0), torch.linspace(1.0, 3.0, slots)).to_event(1)


def dirichlet(slots):
    return dist.Dirichlet(torch.linspace(0.7, 2.0, slots))


PRIORS = {
    "Gaussian": lambda slots: GaussianAddress(slots)(),
    "Laplace": lambda slots: LaplaceAddress(slots)(),
    "StudentT": lambda slots: StudentTAddress(slots)(),
    "Horseshoe": lambda slots: HorseshoeAddress(slots)(),
    "Simplex": lambda slots: SimplexAddress(slots)(),
    "HalfNormal": half_normal,
    "Gamma": gamma,
    "Dirichlet": dirichlet,
}


# ---------------------------------------------------------------------- Newton steps


def gaussian_priors(slots):
    noise = torch.randn(slots, 2 * slots)
    return {
        "dependent": dist.MultivariateNormal(torch.randn(slots), noise @ noise.mT / slots),
        "independent": dist.Normal(torch.randn(slots), torch.rand(slots) + 0.5).to_event(1),
    }


@pytest.mark.parametrize("kind", ["dependent", "independent"])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_exact_reader_is_the_laplace_reader_of_a_gaussian(kind, num_steps):
    codes, memory, prior = torch.randn(2, 5, 3), torch.randn(2, 4, 3), gaussian_priors(4)[kind]
    exact = ExactReader()(codes, memory, prior, sigma())
    newton = LaplaceReader(num_steps)(codes, memory, prior, sigma())
    torch.testing.assert_close(newton.mean, exact.mean, rtol=0, atol=1e-8)
    torch.testing.assert_close(
        newton.covariance_matrix, exact.covariance_matrix.expand_as(newton.covariance_matrix), rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("kind", ["dependent", "independent"])
def test_exact_reader_is_the_closed_form(kind):
    codes, memory, prior = torch.randn(2, 5, 3), torch.randn(2, 4, 3), gaussian_priors(4)[kind]
    precision = prior.precision_matrix if kind == "dependent" else prior.variance.reciprocal().diag()
    covariance = (precision + memory @ memory.mT / SIGMA**2).inverse()
    mean = (codes @ memory.mT / SIGMA**2 + precision @ prior.mean) @ covariance
    q = ExactReader()(codes, memory, prior, sigma())
    torch.testing.assert_close(q.mean, mean)
    torch.testing.assert_close(q.covariance_matrix, covariance.unsqueeze(1).expand(2, 5, 4, 4))
    scalar = ScalarReader(0.4)(codes, memory, prior, sigma())
    torch.testing.assert_close(scalar.mean, mean)
    torch.testing.assert_close(scalar.stddev, torch.full_like(mean, 0.4))


def log_posterior(address, codes, memory, prior):
    """log p(w) p(z | w, M), (...), up to a constant, of w (..., T, K)."""
    return prior.log_prob(address) - 0.5 * (codes - address @ memory).square().sum(-1) / SIGMA**2


@pytest.mark.parametrize("name", ["Laplace", "StudentT"])
def test_no_other_gaussian_is_nearer_to_the_posterior(name):
    """KL(q || p) by common random numbers, for means that move and covariances that grow, shrink and turn."""
    codes, memory, prior = torch.randn(6, 2), torch.randn(2, 2), PRIORS[name](2)
    q = LaplaceReader(40)(codes, memory, prior, sigma())
    noise = torch.randn(40_000, 1, 2)
    noise = torch.cat([noise, -noise])

    def divergence(loc, factor):
        points = loc + (factor @ noise.unsqueeze(-1)).squeeze(-1)
        return -log_posterior(points, codes, memory, prior).mean(0) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    loc, factor = q.loc, q.scale_tril
    best = divergence(loc, factor)
    deviation = q.stddev
    for shift in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.7, -0.7])):
        for step in (0.2, -0.2, 1.0, -1.0):
            assert (divergence(loc + step * shift * deviation, factor) > best).all()
    for stretch in (torch.tensor([[0.8, 0.0], [0.0, 0.8]]), torch.tensor([[1.25, 0.0], [0.0, 1.25]])):
        assert (divergence(loc, factor @ stretch) > best).all()
    for corner in (0.3, -0.3):
        assert (divergence(loc, factor @ torch.tensor([[1.0, 0.0], [corner, 1.0]])) > best).all()


@pytest.mark.parametrize("name", ["Laplace", "StudentT"])
def test_one_slot_against_quadrature(name):
    """Mean and deviation of the posterior of one slot, at an informative code and a vague one."""
    prior, memory = PRIORS[name](1), torch.tensor([[0.9, -1.2, 0.4]])
    codes = torch.cat([torch.linspace(-3, 3, 7).unsqueeze(-1) @ memory, torch.randn(5, 3)])
    q = LaplaceReader(20)(codes, memory, prior, sigma())
    grid = torch.linspace(-8, 8, 8001).view(-1, 1, 1)
    weights = log_posterior(grid, codes, memory, prior).softmax(0).unsqueeze(-1)
    mean = (weights * grid).sum(0)
    deviation = (weights * (grid - mean).square()).sum(0).sqrt()
    assert ((q.mean - mean).abs() < 0.1 * deviation).all()
    assert ((q.stddev / deviation).log().abs() < 0.1).all()


@pytest.mark.parametrize("name", ["Laplace", "StudentT", "Horseshoe"])
def test_more_steps_bring_the_gaussian_nearer(name):
    """The default number of steps, too, is better than the start, the posterior of a standard normal prior."""
    codes, memory, prior = torch.randn(50, 4), torch.randn(3, 4), PRIORS[name](3)
    noise = torch.randn(4000, 1, 3)

    def divergence(q):
        points = q.loc + (q.scale_tril @ noise.unsqueeze(-1)).squeeze(-1)
        value = -log_posterior(points, codes, memory, prior).mean(0) - q.scale_tril.logdet()
        return value.mean()

    standard = ExactReader()(codes, memory, GaussianAddress(3)(), sigma())
    four, many = (divergence(LaplaceReader(number)(codes, memory, prior, sigma())) for number in (4, 40))
    assert four < divergence(standard)
    assert abs(four - many) < 0.1


def test_simplex_mode_is_stationary():
    codes, memory = torch.randn(8, 3), torch.randn(4, 3)
    prior = SimplexAddress(4)()
    q = LaplaceReader(200)(codes, memory, prior, sigma())
    mode = q.base_dist.loc.detach().requires_grad_()

    def log_density(points):
        weights = torch.cat([points, torch.zeros_like(points[..., :1])], -1).softmax(-1)
        return prior.base_dist.log_prob(points) - 0.5 * (codes - weights @ memory).square().sum(-1) / SIGMA**2

    (gradient,) = torch.autograd.grad(log_density(mode).sum(), mode)
    assert gradient.abs().max() < 1e-4
    value = log_density(q.base_dist.loc)
    for _ in range(50):  # nothing near is better
        assert (log_density(mode + 0.1 * torch.randn(8, 3)) <= value + 1e-3).all()
    # the covariance is that of the linearized decoder at the mode
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(lambda u: torch.cat([u, u.new_zeros(1)]).softmax(-1), u) for u in mode]
    )  # (T, K, K - 1)
    precision = prior.base_dist.precision_matrix + jacobian.mT @ memory @ memory.mT @ jacobian / SIGMA**2
    torch.testing.assert_close(q.base_dist.covariance_matrix, precision.inverse(), rtol=1e-3, atol=1e-4)


def test_simplex_steps_never_lower_the_posterior():
    codes, memory, prior = 2 * torch.randn(20, 3), 2 * torch.randn(4, 3), SimplexAddress(4)()
    values = []
    for number in range(1, 12):
        points = LaplaceReader(number)(codes, memory, prior, sigma()).base_dist.loc
        weights = torch.cat([points, torch.zeros_like(points[..., :1])], -1).softmax(-1)
        values.append(prior.base_dist.log_prob(points) - 0.5 * (codes - weights @ memory).square().sum(-1) / SIGMA**2)
    assert (torch.stack(values).diff(dim=0) >= -1e-10).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["HalfNormal", "Gamma"])
@pytest.mark.parametrize("strength", [-10.0, -3.0, -1.0, 1.0, 3.0])
@pytest.mark.parametrize("num_steps", [4, 12])
def test_positive_addresses_against_quadrature(name, strength, dtype, num_steps):
    """Mean and deviation of log w, for codes that ask for positive and, in vain, for negative addresses."""
    prior = (
        dist.HalfNormal(torch.ones(1, dtype=dtype))
        if name == "HalfNormal"
        else dist.Gamma(torch.full((1,), 2.0, dtype=dtype), torch.tensor(1.5, dtype=dtype))
    )
    prior = prior.to_event(1)
    memory, codes = torch.ones(1, 1, dtype=dtype), torch.full((1, 1), strength, dtype=dtype)
    q = LaplaceReader(num_steps)(codes, memory, prior, sigma().to(dtype)).base_dist
    grid = torch.linspace(-25, 6, 20_001, dtype=torch.float64)
    address = grid.exp()
    log_prior = -0.5 * address.square() if name == "HalfNormal" else address.log() - 1.5 * address
    weights = (log_prior + grid - 0.5 * (strength - address).square() / SIGMA**2).softmax(0)
    mean = (weights * grid).sum()
    deviation = (weights * (grid - mean).square()).sum().sqrt()
    assert ((q.mean.double() - mean).abs() < deviation).all()
    assert ((q.stddev.double() / deviation).log().abs() < math.log(2)).all()


# ---------------------------------------------------------------------- slots and networks


@pytest.mark.parametrize("probs", [None, [0.5, 0.3, 0.15, 0.05]])
def test_slot_reader_is_bayes_rule(probs):
    codes, memory = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    prior = CategoricalAddress(4)() if probs is None else dist.OneHotCategorical(torch.tensor(probs))
    q = SlotReader()(codes, memory, prior, sigma())
    for b in range(2):
        for t in range(5):
            joint = [
                (0.25 if probs is None else probs[k])
                * math.exp(-0.5 * sum(((codes[b, t] - memory[b, k]) ** 2).tolist()) / SIGMA**2)
                for k in range(4)
            ]
            expected = torch.tensor(joint) / sum(joint)
            torch.testing.assert_close(q.probs[b, t], expected)


def test_amortized_reader_is_its_network():
    network = torch.nn.Linear(3, 8)
    codes, memory = torch.randn(2, 5, 3), torch.randn(6, 2, 4, 3)
    q = AmortizedReader(network)(codes, memory, GaussianAddress(4)(), sigma())
    assert q.batch_shape == (6, 2, 5)
    output = network(codes)
    torch.testing.assert_close(q.mean, output[..., :4].expand(6, 2, 5, 4))
    torch.testing.assert_close(q.stddev, output[..., 4:].exp().expand(6, 2, 5, 4))


@pytest.mark.parametrize("size", [4, 7, 16])
def test_amortized_reader_of_another_size(size):
    reader = AmortizedReader(torch.nn.Linear(3, size))
    with pytest.raises(ValueError, match=rf"AmortizedReader: the network returned shape \(10, {size}\); .*\(10, 8\)"):
        reader(torch.randn(2, 5, 3), torch.randn(2, 4, 3), GaussianAddress(4)(), sigma())


# ---------------------------------------------------------------------- in a machine


def linear_machine(slots, size, **parts):
    parts.setdefault("memory_prior", GaussianMemory(slots, size))
    return KanervaMachine(lambda x: x, lambda z: z, likelihood=NormalLikelihood(SIGMA), code_scale=SIGMA, **parts)


WRONG_SUPPORT = "whose support is not that of the address prior"
WRONG_PAIRS = [
    (SlotReader, GaussianAddress, "SlotReader: the address prior is MultivariateNormal; expected a OneHotCategorical"),
    (SlotReader, SimplexAddress, "SlotReader: .*CategoricalAddress"),
    (ExactReader, SimplexAddress, "no finite mean and variance.*LaplaceReader"),
    (ExactReader, HorseshoeAddress, "no finite mean and variance.*LaplaceReader"),
    (ExactReader, CategoricalAddress, rf"{WRONG_SUPPORT} OneHotCategorical.*SlotReader\(\)"),
    (ExactReader, half_normal, rf"SharedCovarianceNormal, {WRONG_SUPPORT}.*LaplaceReader\(\)"),
    (ExactReader, dirichlet, rf"{WRONG_SUPPORT} Dirichlet"),
    (ScalarReader, SimplexAddress, "no finite mean and variance.*LaplaceReader"),
    (ScalarReader, CategoricalAddress, rf"{WRONG_SUPPORT} OneHotCategorical.*SlotReader\(\)"),
    (ScalarReader, gamma, WRONG_SUPPORT),
    (LaplaceReader, CategoricalAddress, r"LaplaceReader: the address prior OneHotCategorical is discrete; use Slot"),
    (lambda: AmortizedReader(torch.nn.Linear(2, 6)), SimplexAddress, WRONG_SUPPORT),
    (lambda: AmortizedReader(torch.nn.Linear(2, 6)), CategoricalAddress, WRONG_SUPPORT),
]


@pytest.mark.parametrize(("reader", "prior", "message"), WRONG_PAIRS)
@pytest.mark.parametrize("call", ["bound", "guide", "read"])
def test_wrong_pairs(reader, prior, message, call):
    machine = linear_machine(3, 2, address_prior=prior(3), reader=reader(), writer=OnlineWriter())
    x = torch.randn(2, 4, 2)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        machine.write(x).read(x) if call == "read" else getattr(machine, call)(x)


@pytest.mark.parametrize("number", [0, -1])
def test_bad_number_of_steps(number):
    with pytest.raises(ValueError, match=f"LaplaceReader: num_steps is {number}; expected at least 1"):
        LaplaceReader(number)


def test_default_readers():
    kinds = {name: type(reader_for(prior(3))).__name__ for name, prior in PRIORS.items()}
    assert kinds.pop("Gaussian") == "ExactReader"
    assert set(kinds.values()) == {"LaplaceReader"}
    assert isinstance(reader_for(CategoricalAddress(3)()), SlotReader)


def parameters(q):
    """The tensors that make q."""
    if isinstance(q, torch.distributions.TransformedDistribution):
        q = q.base_dist
    if isinstance(q, dist.OneHotCategorical):
        return (q.probs,)
    if isinstance(q, dist.MultivariateNormal):
        return q.loc, q.covariance_matrix.expand(*q.loc.shape, q.loc.shape[-1])
    return q.mean, q.stddev


CASES = {
    **{name: (LaplaceReader, prior) for name, prior in PRIORS.items()},
    "Exact": (ExactReader, PRIORS["Gaussian"]),
    "Scalar": (ScalarReader, PRIORS["Gaussian"]),
    "Slot": (SlotReader, lambda slots: CategoricalAddress(slots)()),
    "Amortized": (lambda: AmortizedReader(torch.nn.Linear(3, 6)), PRIORS["Gaussian"]),
}


@pytest.mark.parametrize("name", CASES)
def test_particles_are_read_one_by_one(name):
    """A memory (P, B, K, C) with codes (B, T, C): the same as P calls, and as P B calls."""
    make, prior = CASES[name]
    reader, prior = make(), prior(3)
    codes, memory = torch.randn(2, 4, 3), torch.randn(5, 2, 3, 3)
    whole = reader(codes, memory, prior, sigma())
    assert whole.batch_shape == (5, 2, 4)
    assert whole.event_shape == (3,)
    assert whole.sample().shape == (5, 2, 4, 3)
    assert whole.log_prob(whole.sample()).shape == (5, 2, 4)
    for p in range(5):
        parts = parameters(reader(codes, memory[p], prior, sigma()))
        for one, other in zip(parameters(whole), parts, strict=True):
            torch.testing.assert_close(one[p], other, rtol=1e-9, atol=1e-9)
    single = parameters(reader(codes[1], memory[3, 1], prior, sigma()))
    for one, other in zip(parameters(whole), single, strict=True):
        torch.testing.assert_close(one[3, 1], other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name):
    """In the codes, the memory and sigma, against finite differences."""
    make, prior = CASES[name]
    slots = 2 if name in ("Dirichlet", "HalfNormal", "Gamma") else 3
    if name == "Amortized":
        make = lambda: AmortizedReader(torch.nn.Linear(3, 2 * slots))  # noqa: E731
    reader, prior = make(), prior(slots)
    codes, memory = torch.randn(2, 3, requires_grad=True), torch.randn(slots, 3, requires_grad=True)
    scale = sigma().requires_grad_()
    assert gradcheck(lambda *inputs: parameters(reader(inputs[0], inputs[1], prior, inputs[2])), (codes, memory, scale))


# ---------------------------------------------------------------------- priors that nobody thought of


@pytest.mark.parametrize("prior", [half_normal, gamma, dirichlet])
def test_generic_priors(prior):
    """Bound and write; the bound is below the evidence from 50,000 addresses, the memory integrated out."""
    memory_prior = MatrixNormal(torch.randn(2, 2), torch.tensor([[0.8, 0.0], [0.3, 0.6]]))
    machine = linear_machine(2, 2, memory_prior=memory_prior, address_prior=prior(2))
    x = torch.randn(3, 2, 2)
    memory = machine.write(x)
    assert memory.posterior.loc.isfinite().all()
    assert machine.bound(x).bound.isfinite().all()
    machine.bound(x).bound.sum().backward()
    with torch.no_grad():
        bounds = torch.stack([machine.bound(x, 300).bound for _ in range(10)])
    addresses = prior(2).sample((50_000, 2))  # (N, T, K)
    covariance = addresses @ memory_prior.row_covariance @ addresses.mT + SIGMA**2 * torch.eye(2)
    columns = dist.MultivariateNormal(
        (addresses @ memory_prior.loc).mT, covariance.unsqueeze(1), validate_args=False
    )  # (N, C), event (T,)
    values = columns.log_prob(x.mT.unsqueeze(1)).sum(-1)  # (B, N)
    weights = (values - values.amax(-1, keepdim=True)).exp()
    error = weights.std(-1) / weights.mean(-1) / math.sqrt(50_000)
    evidence = values.logsumexp(-1) - math.log(50_000)
    assert (error < 0.02).all()
    assert (bounds.mean(0) + 5 * bounds.std(0) / math.sqrt(10) < (evidence - 5 * error) / 2).all()
    assert (evidence / 2 - bounds.mean(0) < 2.0).all()
    address = machine.read_codes(x, memory.posterior.loc).sample()
    assert prior(2).support.check(address).all()
