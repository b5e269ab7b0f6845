"""Proof of inference: bounds, sampling and enumeration against brute force, for a linear decoder.

With an identity or linear decoder and a Normal likelihood, a pattern is Gaussian given the memory, and Gaussian given
the addresses; what is left is an integral over few dimensions.
"""

import itertools
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import assert_bound_agrees, linear_machine
from pyro import poutine
from pyro.infer import MCMC, NUTS, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.ops.stats import effective_sample_size

from pyro_kanerva import (
    AmortizedReader,
    AmortizedWriter,
    CategoricalAddress,
    ExactReader,
    GaussianAddress,
    GaussianMemory,
    HierarchicalMemory,
    HorseshoeAddress,
    LaplaceAddress,
    LaplaceMemory,
    LowRankMemory,
    MatrixNormal,
    MixtureAddress,
    MixtureWriter,
    MLPEncoder,
    NormalLikelihood,
    OnlineWriter,
    PseudoInverseWriter,
    ReadingWriter,
    ScalarReader,
    SimplexAddress,
    SlotWriter,
    StudentTAddress,
    StudentTMemory,
    kanerva_2018,
)
from pyro_kanerva.conjugate import mixture_address_posterior

SIGMA = 0.8


pytestmark = pytest.mark.usefixtures("float64")


def gaussian_prior(slots, size):
    """A memory prior with slots that differ and are correlated."""
    factor = 0.8 * torch.eye(slots) + 0.3 * torch.ones(slots, slots).tril(-1)
    return MatrixNormal(torch.linspace(-0.5, 1.0, slots * size).view(slots, size), factor)


def linear_map(size):
    """The decoder's matrix D (C, C), far from the identity."""
    return torch.eye(size) + 0.5 * torch.ones(size, size).triu(1) - 0.2 * torch.ones(size, size).tril(-1)


def linear_model(slots, size, mapping=None, **parts):
    """x ~ Normal(D M^T w, SIGMA^2 I), for a matrix D; the encoder is the identity."""
    parts.setdefault("memory_prior", gaussian_prior(slots, size))
    if mapping is not None:
        parts["decoder"] = lambda z: z @ mapping.mT
    return linear_machine(slots, size, SIGMA, **parts)


# ---------------------------------------------------------------------- brute force


def log_prob_given_addresses(x, addresses, prior, mapping=None, sigma=SIGMA):
    """log p(X | W), (N,), of X (T, C) and W (N, T, K), with M ~ ``prior`` integrated out in closed form."""
    mapping = torch.eye(x.shape[-1]) if mapping is None else mapping
    mean = addresses @ prior.loc @ mapping.mT
    rows = addresses @ prior.row_covariance @ addresses.mT
    columns = mapping @ mapping.mT
    size = x.numel()
    covariance = torch.einsum("nts,cd->ntcsd", rows, columns).reshape(-1, size, size) + sigma**2 * torch.eye(size)
    return dist.MultivariateNormal(mean.flatten(1), covariance, validate_args=False).log_prob(x.flatten())


def log_prob_given_memory(x, matrix, mapping=None, sigma=SIGMA):
    """log p(X | M), (N,), of X (T, C) and M (N, K, C), with w ~ Normal(0, I) integrated out in closed form."""
    mapping = torch.eye(x.shape[-1]) if mapping is None else mapping
    slots = matrix @ mapping.mT
    covariance = slots.mT @ slots + sigma**2 * torch.eye(x.shape[-1])
    entries = dist.MultivariateNormal(torch.zeros(x.shape[-1]), covariance, validate_args=False)
    return entries.log_prob(x.unsqueeze(1)).sum(0)


def hermite(number, dimensions):
    """Nodes (N, dimensions) and log weights (N,) of E f(x), x ~ Normal(0, I)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(number)
    points = torch.cartesian_prod(*[torch.tensor(nodes)] * dimensions).view(-1, dimensions)
    log_weights = torch.tensor(np.log(weights / weights.sum()))
    return points, torch.cartesian_prod(*[log_weights] * dimensions).view(-1, dimensions).sum(-1)


def evidence_over_memory(x, prior, mapping=None, number=20, sigma=SIGMA):
    """log p(X), (B,), of X (B, T, C): quadrature over the K C entries of M."""
    number = 100 if prior.event_shape.numel() < 3 else number  # nodes in each dimension
    points, log_weights = hermite(number, prior.event_shape.numel())
    matrices = prior.loc + prior.scale_tril_row @ points.view(-1, *prior.event_shape)
    return torch.stack([(log_weights + log_prob_given_memory(e, matrices, mapping, sigma)).logsumexp(0) for e in x])


def evidence_over_addresses(x, prior, mapping=None, number=24):
    """The same by quadrature over the T K entries of W."""
    points, log_weights = hermite(number, x.shape[1] * prior.event_shape[0])
    addresses = points.view(len(points), x.shape[1], -1)
    return torch.stack([(log_weights + log_prob_given_addresses(e, addresses, prior, mapping)).logsumexp(0) for e in x])


def evidence_of_slots(x, prior, mapping=None):
    """log p(X), (B,), for one-hot addresses: the sum over all K^T assignments."""
    slots, length = prior.event_shape[0], x.shape[1]
    assignments = torch.tensor(list(itertools.product(range(slots), repeat=length)))
    addresses = torch.eye(slots)[assignments]  # (K^T, T, K)
    values = torch.stack([log_prob_given_addresses(e, addresses, prior, mapping) for e in x])
    return values.logsumexp(-1) - length * math.log(slots)


def average(log_values):
    """log E exp and its standard error, by the delta method, over the last dimension."""
    number = log_values.shape[-1]
    weights = (log_values - log_values.amax(-1, keepdim=True)).exp()
    return log_values.logsumexp(-1) - math.log(number), weights.std(-1) / weights.mean(-1) / math.sqrt(number)


def estimate(machine, x, repetitions=10, particles=500):
    """The bound of every episode, (B,), and its standard error."""
    with torch.no_grad():
        values = torch.stack([machine.bound(x, particles).bound for _ in range(repetitions)])
    return values.mean(0), values.std(0) / math.sqrt(repetitions)


@pytest.mark.parametrize("mapped", [False, True])
def test_the_oracles_agree(mapped):
    """Over the memory, over the addresses, and by samples: three ways to one number."""
    x, prior = torch.randn(1, 2, 2), gaussian_prior(2, 2)
    mapping = linear_map(2) if mapped else None
    exact = evidence_over_memory(x, prior, mapping)
    torch.testing.assert_close(evidence_over_memory(x, prior, mapping, number=22), exact, rtol=0, atol=1e-4)
    # the other integrand is sharper: its quadrature converges to 1e-3 with 24 nodes in each dimension
    torch.testing.assert_close(evidence_over_addresses(x, prior, mapping), exact, rtol=0, atol=2e-3)
    matrices = prior.sample((100_000,))
    sampled, error = average(torch.stack([log_prob_given_memory(e, matrices, mapping) for e in x]))
    assert ((sampled - exact).abs() < 5 * error).all()
    assert (error < 0.02).all()


# ---------------------------------------------------------------------- every bound is a bound


WRITERS = {
    "paper": lambda slots, size: OnlineWriter(1),
    "blocks": lambda slots, size: OnlineWriter(2),
    "sweeps": lambda slots, size: OnlineWriter(2, sweeps=3),
    "reading": lambda slots, size: ReadingWriter(GaussianAddress(slots), ExactReader(), block_size=1),
    "pseudo-inverse": lambda slots, size: PseudoInverseWriter(slots, 0.3),
    "amortized": lambda slots, size: AmortizedWriter(MLPEncoder((size,), slots, 8)),
}


@pytest.mark.parametrize(
    ("slots", "size", "length", "mapped"), [(1, 1, 2, False), (2, 1, 5, False), (2, 2, 2, False), (2, 2, 2, True)]
)
@pytest.mark.parametrize("writer", WRITERS)
def test_bound_of_every_writer_is_below_the_evidence(writer, slots, size, length, mapped):
    """By more than 5 standard errors: the true posterior is not in the family."""
    x = 1.5 * torch.randn(2, length, size)
    mapping = linear_map(size) if mapped else None
    machine = linear_model(slots, size, mapping, writer=WRITERS[writer](slots, size))
    exact = evidence_over_memory(x, gaussian_prior(slots, size), mapping) / length
    bound, error = estimate(machine, x)
    assert (bound + 5 * error < exact).all()


@pytest.mark.parametrize("reader", [ScalarReader(0.5), AmortizedReader(torch.nn.Linear(2, 4, dtype=torch.float64))])
def test_bound_of_other_readers_is_below_the_evidence(reader):
    x = 1.5 * torch.randn(2, 2, 2)
    exact = evidence_over_memory(x, gaussian_prior(2, 2)) / 2
    bound, error = estimate(linear_model(2, 2, reader=reader), x)
    assert (bound + 5 * error < exact).all()


@pytest.mark.parametrize("mapped", [False, True], ids=["identity", "linear"])
@pytest.mark.parametrize("sweeps", [0, 3])
def test_bound_of_slots_is_below_the_exact_evidence(sweeps, mapped):
    """All 3^4 assignments are summed."""
    x = 1.5 * torch.randn(3, 4, 2)
    mapping = linear_map(2) if mapped else None
    machine = linear_model(3, 2, mapping, address_prior=CategoricalAddress(3), writer=SlotWriter(sweeps))
    exact = evidence_of_slots(x, gaussian_prior(3, 2), mapping) / 4
    bound, error = estimate(machine, x)
    assert (bound + 5 * error < exact).all()
    assert (exact - bound < 2.0).all()  # and not far below


ADDRESSES = {
    "GaussianAddress": GaussianAddress,
    "LaplaceAddress": LaplaceAddress,
    "StudentTAddress": StudentTAddress,
    "HorseshoeAddress": HorseshoeAddress,
    "SimplexAddress": SimplexAddress,
    "MixtureAddress": lambda slots: MixtureAddress(slots, 0.4),
    "CategoricalAddress": CategoricalAddress,
}
GENERIC = {
    "HalfNormal": lambda slots: lambda: dist.HalfNormal(torch.linspace(0.5, 1.5, slots)).to_event(1),
    "Gamma": lambda slots: lambda: dist.Gamma(2 * torch.ones(slots), torch.linspace(1.0, 3.0, slots)).to_event(1),
    "Dirichlet": lambda slots: lambda: dist.Dirichlet(torch.linspace(0.7, 2.0, slots)),
}
MEMORIES = {
    "GaussianMemory": GaussianMemory,
    "LowRankMemory": lambda slots, size: LowRankMemory(slots, size, rank=1),
    "LaplaceMemory": LaplaceMemory,
    "StudentTMemory": StudentTMemory,
    "HierarchicalMemory": HierarchicalMemory,
}


@pytest.mark.parametrize("address", [*ADDRESSES, *GENERIC])
def test_bound_of_every_address_prior_is_below_the_evidence(address):
    """The evidence from 100,000 addresses of the prior, the memory integrated out."""
    x, prior = 1.5 * torch.randn(2, 2, 2), gaussian_prior(2, 2)
    address_prior = {**ADDRESSES, **GENERIC}[address](2)
    addresses = address_prior().sample((100_000, 2))
    exact, exact_error = average(torch.stack([log_prob_given_addresses(e, addresses, prior) for e in x]))
    assert (exact_error < 0.02).all()
    machine = linear_model(2, 2, address_prior=address_prior)
    bound, error = estimate(machine, x)
    assert (bound + 5 * error < exact / 2 - 5 * exact_error / 2).all()
    if address in GENERIC:  # nothing here is made for them
        assert (exact / 2 - bound < 2.0).all()
        memory = machine.write(x)
        draws = machine.read_codes(x, memory.posterior.loc).sample()
        assert address_prior().support.check(draws).all()
        machine.bound(x).bound.sum().backward()
        assert machine.log_code_scale.grad.isfinite()


@pytest.mark.parametrize("memory", MEMORIES)
def test_bound_of_every_memory_prior_is_below_the_evidence(memory):
    """The evidence from 100,000 draws of M from the prior, the addresses integrated out."""
    x, prior = 1.5 * torch.randn(2, 2, 2), MEMORIES[memory](2, 2)
    with torch.no_grad():
        matrices = prior().sample((100_000,))
    exact, exact_error = average(torch.stack([log_prob_given_memory(e, matrices) for e in x]))
    assert (exact_error < 0.02).all()
    bound, error = estimate(linear_model(2, 2, memory_prior=prior), x)
    assert (bound + 5 * error < exact / 2 - 5 * exact_error / 2).all()


def log_weights(machine, x):
    """log p(X, M, W) - log q(M, W | X) of one draw for each episode, (B,)."""
    guide = poutine.trace(machine.guide).get_trace(x)
    model = poutine.trace(poutine.replay(machine.model, guide)).get_trace(x)
    guide.compute_log_prob()
    model.compute_log_prob()
    total = torch.zeros(len(x))
    for trace, sign in ((model, 1), (guide, -1)):
        for site in trace.nodes.values():
            if site["type"] == "sample" and not site["name"].endswith(("episode", "pattern_plate")):
                total = total + sign * site["log_prob"].sum(-1)
    return total


@pytest.mark.parametrize("writer", WRITERS)
def test_importance_weights_average_to_the_evidence(writer):
    """Model and guide are normalized: E_q[p / q] = p(X), with a guide made wider than the posterior."""
    x, prior = torch.randn(1, 2, 2), gaussian_prior(2, 2)
    machine = linear_model(2, 2, writer=WRITERS[writer](2, 2), code_scale=2.0)
    if writer == "pseudo-inverse":
        torch.nn.init.zeros_(machine.writer.log_scale)
    with torch.no_grad():
        weights = log_weights(machine, x.expand(20_000, -1, -1))
    evidence, error = average(weights)
    assert error < 0.1
    assert (evidence - evidence_over_memory(x, prior)).abs() < 5 * error


# ---------------------------------------------------------------------- coordinate ascent


def mean_field_bound(z, prior, posterior, loc, scale_tril, sigma=SIGMA):
    """The bound (B,) of the surrogate at q(M) and q(w_t) = Normal(loc_t, scale_tril scale_tril^T), in closed form."""
    covariance, (slots, size) = scale_tril @ scale_tril.mT, posterior.event_shape
    total = -torch.distributions.kl_divergence(posterior, prior)
    second_of_memory = posterior.loc @ posterior.loc.mT + size * posterior.row_covariance
    for t in range(z.shape[1]):
        second = loc[:, t, :, None] * loc[:, t, None, :] + covariance
        squared = z[:, t].square().sum(-1) - 2 * torch.einsum("bc,bkc,bk->b", z[:, t], posterior.loc, loc[:, t])
        squared = squared + (second * second_of_memory).sum((-2, -1))
        total = total - 0.5 * squared / sigma**2 - size * math.log(sigma * math.sqrt(2 * math.pi))
        kl = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) + loc[:, t].square().sum(-1) - slots - covariance.logdet()
        total = total - 0.5 * kl
    return total


def optimal_addresses(z, posterior, sigma=SIGMA):
    second = posterior.loc @ posterior.loc.mT + z.shape[-1] * posterior.row_covariance
    covariance = (torch.eye(posterior.event_shape[0]) + second / sigma**2).inverse()
    return z @ posterior.loc.mT @ covariance / sigma**2, torch.linalg.cholesky(covariance)


@pytest.mark.parametrize("block_size", [1, 3])
def test_sweeps_of_the_online_writer_ascend(block_size):
    z, prior = torch.randn(4, 6, 3), gaussian_prior(4, 3)
    start = OnlineWriter(block_size)(z, prior, torch.tensor(SIGMA)).memory
    batched = prior.expand((4,))
    bounds = [mean_field_bound(z, batched, start, *optimal_addresses(z, start))]
    for sweeps in range(1, 8):
        result = OnlineWriter(block_size, sweeps)(z, prior, torch.tensor(SIGMA))
        bounds.append(mean_field_bound(z, batched, result.memory, result.addresses, result.address_scale_tril))
        bounds.append(mean_field_bound(z, batched, result.memory, *optimal_addresses(z, result.memory)))
    differences = torch.stack(bounds).diff(dim=0)
    assert (differences >= -1e-9).all()
    assert (differences[0] > 1e-3).all()  # the first sweep of the memory, and the second, gain something
    assert (differences[2] > 1e-4).all()


def slot_bound(z, prior, posterior, weights, sigma=SIGMA):
    """The bound (B,) of the slot model at q(M), of independent slots, and the weights (B, T, K)."""
    slots, size = posterior.event_shape
    squared = (z.unsqueeze(-2) - posterior.loc.unsqueeze(-3)).square().sum(-1)  # (B, T, K)
    squared = squared + size * posterior.row_covariance.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    fit = -0.5 * squared / sigma**2 - size * math.log(sigma * math.sqrt(2 * math.pi))
    total = (weights * (fit - math.log(slots)) - torch.xlogy(weights, weights)).sum((-2, -1))
    return total - torch.distributions.kl_divergence(posterior, prior)


def optimal_weights(z, posterior, sigma=SIGMA):
    squared = (z.unsqueeze(-2) - posterior.loc.unsqueeze(-3)).square().sum(-1)
    squared = squared + z.shape[-1] * posterior.row_covariance.diagonal(dim1=-2, dim2=-1).unsqueeze(-2)
    return (-0.5 * squared / sigma**2).softmax(-1)


def test_sweeps_of_the_slot_writer_ascend():
    z = torch.randn(4, 7, 2)
    prior = MatrixNormal(torch.randn(3, 2), torch.tensor([0.6, 0.9, 1.2]).diag())
    batched = prior.expand((4,))
    result = SlotWriter(0)(z, prior, torch.tensor(SIGMA))
    bounds = [
        slot_bound(z, batched, result.memory, result.addresses),
        slot_bound(z, batched, result.memory, optimal_weights(z, result.memory)),
    ]
    for sweeps in range(1, 8):
        result = SlotWriter(sweeps)(z, prior, torch.tensor(SIGMA))
        bounds.append(slot_bound(z, batched, result.memory, result.addresses))
        bounds.append(slot_bound(z, batched, result.memory, optimal_weights(z, result.memory)))
    differences = torch.stack(bounds).diff(dim=0)
    assert (differences >= -1e-9).all()
    assert (differences[0] > 1e-3).all()
    assert (differences[2] > 1e-5).all()
    exact = evidence_of_slots(z, prior)
    assert (bounds[-1] < exact).all()
    assert (exact - bounds[-1] < 7.0).all()


def mixture_bound(z, prior, posterior, seen, address_prior, sigma=SIGMA):
    """The bound (B,) at q(M) = ``posterior`` and the best q(w_t) for the memory ``seen``, in closed form.

    With ``h(w) = E_M log Normal(z; M^T w, sigma^2 I)`` the best q(w) is ``p(w) exp h(w) / Z``, so that its divergence
    from p(w) is ``E_q h - log Z`` for the h of ``seen``. A component of p(w) makes Z a Gaussian integral.
    """
    size = posterior.event_shape[1]
    constant = -size * math.log(sigma * math.sqrt(2 * math.pi))
    precision = torch.cholesky_inverse(address_prior.scale_tril)
    total = -torch.distributions.kl_divergence(posterior, prior)
    for b, t in itertools.product(range(len(z)), range(z.shape[1])):
        code, memories = z[b, t], (seen, posterior)
        seconds = [(q.loc[b] @ q.loc[b].mT + size * q.row_covariance[b]) / sigma**2 for q in memories]
        linears = [q.loc[b] @ code / sigma**2 for q in memories]
        covariance = (precision + seconds[0]).inverse()
        logs, moments = [], []
        for k in range(len(address_prior.logits)):
            m = address_prior.component_means[k]
            mean = covariance @ (precision @ m + linears[0])
            exponent = 0.5 * mean @ (precision + seconds[0]) @ mean - 0.5 * m @ precision @ m
            logs.append(address_prior.logits[k] + exponent + 0.5 * (covariance @ precision).logdet())
            moments.append((mean, covariance + mean.outer(mean)))
        log_z = torch.stack(logs).logsumexp(0)
        for weight, (mean, outer) in zip(torch.stack(logs).softmax(0), moments, strict=True):
            old, new = (
                linear @ mean - 0.5 * (second * outer).sum() for linear, second in zip(linears, seconds, strict=True)
            )
            total[b] = total[b] + weight * (new - old)
        total[b] = total[b] + log_z + constant - 0.5 * code.square().sum() / sigma**2
    return total


@pytest.mark.parametrize("scale", [0.05, 0.3, 1.0])
def test_sweeps_of_the_mixture_writer_ascend(scale):
    z, address_prior = torch.randn(3, 6, 3), MixtureAddress(4, scale)
    batched = gaussian_prior(4, 3).expand((3,))
    memories = [
        MixtureWriter(address_prior, sweeps)(z, gaussian_prior(4, 3), torch.tensor(SIGMA)).memory
        for sweeps in range(1, 8)
    ]
    bounds = [mixture_bound(z, batched, memories[0], memories[0], address_prior())]
    for before, after in itertools.pairwise(memories):
        bounds.append(mixture_bound(z, batched, after, before, address_prior()))
        bounds.append(mixture_bound(z, batched, after, after, address_prior()))
    differences = torch.stack(bounds).diff(dim=0)
    assert (differences >= -1e-9).all()
    assert (differences[:2].sum(0) > 1e-4).all()  # a sweep of both gains something


def test_the_bound_of_the_mixture_writer_is_that_of_draws():
    """Of 200,000 draws of M and of each w_t, within 5 standard errors; and below the evidence."""
    z, address_prior, prior = torch.randn(1, 2, 2), MixtureAddress(2, 0.4), gaussian_prior(2, 2)
    seen, posterior = (MixtureWriter(address_prior, n)(z, prior, torch.tensor(SIGMA)).memory for n in (1, 2))
    bound = mixture_bound(z, prior.expand((1,)), posterior, seen, address_prior())[0]
    q = mixture_address_posterior(z, seen.loc, SIGMA, address_prior(), row_covariance=seen.row_covariance)
    matrices, addresses = posterior.sample((200_000,)), q.sample((200_000,))  # (N, 1, K, C) and (N, 1, T, K)
    fit = dist.Normal(addresses @ matrices, SIGMA).log_prob(z).sum((-2, -1)).squeeze(-1)
    kl = (q.log_prob(addresses) - address_prior().log_prob(addresses)).sum(-1).squeeze(-1)
    values = fit - kl - torch.distributions.kl_divergence(posterior, prior.expand((1,)))
    error = values.std() / math.sqrt(len(values))
    assert error < 0.02
    assert (values.mean() - bound).abs() < 5 * error
    samples = address_prior().sample((100_000, 2))
    exact, exact_error = average(log_prob_given_addresses(z[0], samples, prior))
    assert bound < exact - 5 * exact_error
    assert exact - bound < 2.0


@pytest.mark.parametrize("scale", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("sweeps", [1, 4])
def test_bound_of_the_mixture_writer_is_below_the_evidence(sweeps, scale):
    """More patterns than slots. The evidence from 200,000 addresses of the prior, the memory integrated out."""
    x, prior, address_prior = torch.randn(2, 3, 2), gaussian_prior(2, 2), MixtureAddress(2, scale)
    addresses = address_prior().sample((200_000, 3))
    exact, exact_error = average(torch.stack([log_prob_given_addresses(e, addresses, prior) for e in x]))
    assert (exact_error < 0.02).all()
    machine = linear_model(2, 2, address_prior=address_prior, writer=MixtureWriter(address_prior, sweeps))
    bound, error = estimate(machine, x)
    assert (bound - 5 * error < exact / 3 + 5 * exact_error / 3).all()
    assert (exact / 3 - bound < 1.0).all()


# ---------------------------------------------------------------------- NUTS


def agrees(samples, mean, covariance, deviations=5.0):
    """Moments of ``samples`` (S, n) within ``deviations`` standard errors of the closed form; they are correlated."""
    variance = covariance.diagonal()
    effective = effective_sample_size(samples.unsqueeze(0), 0, 1).clamp(max=len(samples))
    assert (effective > 40).all()
    assert ((samples.mean(0) - mean).abs() < deviations * (variance / effective).sqrt()).all()
    # Var of the product of two standard normals is 1 + rho^2
    error = ((variance[:, None] * variance + covariance.square()) / effective.min()).sqrt()
    assert ((samples.mT.cov() - covariance).abs() < deviations * error).all()


def nuts(model, x):
    kernel = NUTS(model, target_accept_prob=0.7, max_tree_depth=5)
    mcmc = MCMC(kernel, num_samples=150, warmup_steps=50, disable_progbar=True)
    mcmc.run(x)
    return mcmc.get_samples()


def test_nuts_with_a_known_memory_finds_the_exact_reader():
    x = torch.randn(1, 2, 2)
    machine = linear_model(2, 2)
    matrix = 1.2 * torch.randn(1, 1, 2, 2)
    samples = nuts(poutine.condition(machine.model, {"memory": matrix}), x)["address"]
    slots = matrix[0, 0]
    covariance = (torch.eye(2) + slots @ slots.mT / SIGMA**2).inverse()
    mean = x[0] @ slots.mT @ covariance / SIGMA**2
    for t in range(2):
        agrees(samples[:, 0, t], mean[t], covariance)
    torch.testing.assert_close(machine.read_codes(x, matrix[:, 0]).mean[0], mean)


def test_nuts_with_known_addresses_finds_bayes_rule():
    x, prior = torch.randn(1, 3, 2), gaussian_prior(2, 2)
    machine = linear_model(2, 2)
    address = torch.randn(1, 3, 2)
    samples = nuts(poutine.condition(machine.model, {"address": address}), x)["memory"]
    weights = address[0]
    precision = prior.row_covariance.inverse()
    covariance = (precision + weights.mT @ weights / SIGMA**2).inverse()
    mean = covariance @ (precision @ prior.loc + weights.mT @ x[0] / SIGMA**2)
    for c in range(2):
        agrees(samples[:, 0, 0, :, c], mean[:, c], covariance)


# ---------------------------------------------------------------------- one-hot addresses, summed out


def slot_machine(code_scale=SIGMA):
    return linear_model(3, 2, address_prior=CategoricalAddress(3), code_scale=code_scale)


def slot_log_probs(x, matrix):
    """log p(x_t, w_t = e_k | M), (B, T, K), by hand."""
    squared = (x.unsqueeze(-2) - matrix.unsqueeze(-3)).square().sum(-1)
    return -0.5 * squared / SIGMA**2 - x.shape[-1] * math.log(SIGMA * math.sqrt(2 * math.pi)) - math.log(3)


@pytest.mark.parametrize("code_scale", [SIGMA, 1.5])
def test_trace_enum_is_the_sum_over_slots(code_scale):
    """With the memory of the guide, drawn twice from one seed."""
    x, machine = torch.randn(3, 4, 2), slot_machine(code_scale)
    torch.manual_seed(1)
    loss = TraceEnum_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, x)
    torch.manual_seed(1)
    site = poutine.trace(machine.guide).get_trace(x).nodes["memory"]
    matrix = site["value"]
    joint = slot_log_probs(x, matrix.squeeze(-3))
    squared = (x.unsqueeze(-2) - matrix).square().sum(-1)
    log_q = (-0.5 * squared / code_scale**2).log_softmax(-1)
    expected = (log_q.exp() * (joint - log_q)).sum() + machine.memory_prior.log_prob(matrix).sum()
    assert -loss == pytest.approx((expected - site["fn"].log_prob(matrix).sum()).item(), rel=1e-8)


@pytest.mark.parametrize("code_scale", [SIGMA, 1.5])
def test_hidden_addresses_are_summed_out_exactly(code_scale):
    x, machine = torch.randn(3, 4, 2), slot_machine(code_scale)
    matrix = torch.randn(3, 1, 3, 2)
    model, guide = (poutine.condition(program, {"memory": matrix}) for program in (machine.model, machine.guide))
    values = {}
    for name, hidden in {"marginal": ["memory", "address"], "bound": ["memory"]}.items():
        loss = TraceEnum_ELBO(max_plate_nesting=2).loss(model, poutine.block(guide, hide=hidden), x)
        values[name] = -loss - machine.memory_prior.log_prob(matrix).sum().item()
    exact = slot_log_probs(x, matrix.squeeze(-3)).logsumexp(-1).sum().item()
    assert values["marginal"] == pytest.approx(exact, rel=1e-10)
    if code_scale == SIGMA:  # the reader is the posterior
        assert values["bound"] == pytest.approx(exact, rel=1e-8)
    else:
        assert values["bound"] < exact - 1e-3


def test_hidden_addresses_raise_the_bound():
    """For a memory from the guide, too: the same draw, another reader."""
    x, machine = torch.randn(3, 4, 2), slot_machine(1.5)
    losses = []
    for guide in (machine.guide, poutine.block(machine.guide, hide=["address"])):
        torch.manual_seed(1)
        losses.append(TraceEnum_ELBO(max_plate_nesting=2).loss(machine.model, guide, x))
    assert losses[1] < losses[0] - 1e-3


# ---------------------------------------------------------------------- the machine of 2018


def machine_of_2018():
    return linear_machine(
        2, 2, machine=kanerva_2018, memory_prior=gaussian_prior(2, 2), likelihood=NormalLikelihood(0.5), code_scale=0.6
    )


def test_bound_of_the_2018_machine_is_below_the_evidence():
    """Latent codes add their variance to that of the pattern."""
    x, machine = torch.randn(2, 3, 2), machine_of_2018()
    exact = evidence_over_memory(x, gaussian_prior(2, 2), sigma=math.hypot(0.5, 0.6)) / 3
    bound, error = estimate(machine, x)
    assert (bound + 5 * error < exact).all()


# ---------------------------------------------------------------------- bound() and Pyro's ELBOs


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("memory", MEMORIES)
def test_bound_agrees_with_the_elbos_for_all_priors(memory, address):
    """Of 50 copies of one episode."""
    machine = linear_model(3, 2, memory_prior=MEMORIES[memory](3, 2), address_prior=ADDRESSES[address](3))
    elbos = [TraceEnum_ELBO] if address == "CategoricalAddress" else [Trace_ELBO, TraceMeanField_ELBO]
    assert_bound_agrees(machine, torch.randn(3, 2).expand(50, 3, 2), elbos, repetitions=8, deviations=6)


def test_bound_agrees_with_the_elbos_for_the_2018_machine():
    elbos = [Trace_ELBO, TraceMeanField_ELBO]
    assert_bound_agrees(machine_of_2018(), torch.randn(3, 2).expand(200, 3, 2), elbos, repetitions=8, deviations=6)


def test_a_fixed_scale_does_not_warn():
    """Warnings are errors in these tests."""
    machine = linear_model(2, 2, likelihood=NormalLikelihood(SIGMA, learned=False))
    loss = Trace_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, torch.randn(2, 3, 2))
    assert math.isfinite(loss)
