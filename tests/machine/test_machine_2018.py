"""The machine of 2018: latent codes, and addresses from a network."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import Identity, known_memory_machine, linear_machine
from pyro import poutine

from pyro_kanerva import (
    AmortizedReader,
    AmortizedWriter,
    CategoricalAddress,
    GaussianCode,
    GaussianMemory,
    NormalLikelihood,
    kanerva_2018,
)
from pyro_kanerva.diagnostics import importance_weights

pytestmark = pytest.mark.usefixtures("float64")

K, C = 4, 5


def test_parts():
    """Writer and reader share one network, and the codes are latent."""
    machine = kanerva_2018(Identity(5), Identity(5), memory_prior=GaussianMemory(4, 5), code_scale=0.6)
    assert isinstance(machine.writer, AmortizedWriter)
    assert isinstance(machine.reader, AmortizedReader)
    assert machine.writer.network is machine.reader.network
    assert isinstance(machine.code_posterior, GaussianCode)
    assert machine.code_scale.item() == pytest.approx(0.6)


def test_terms_of_the_2018_machine():
    """One draw, replayed by hand: reconstruction, and the three divergences in closed form."""
    likelihood = NormalLikelihood(0.5, learned=False)
    machine = linear_machine(2, 2, machine=kanerva_2018, likelihood=likelihood, code_scale=0.6)
    x = torch.randn(2, 3, 2)
    with torch.no_grad():
        torch.manual_seed(1)
        bound = machine.bound(x)
        posterior = machine.write_codes(x).memory
        torch.manual_seed(1)
        matrix = posterior.rsample((1,))
        reader = machine.read_codes(x, matrix)
        address = reader.rsample()
        loc = (address @ matrix)[0]
        code = machine.code_posterior(x).rsample((1,))[0]
    scale, sigma = 0.5, 0.6
    code_kl = math.log(sigma / scale) + (scale**2 + (x - loc).square()) / (2 * sigma**2) - 0.5
    torch.testing.assert_close(bound.code_kl, code_kl.sum(-1).mean(-1))
    loc, scale = reader.mean[0], reader.stddev[0]
    address_kl = 0.5 * (loc.square() + scale.square() - 1) - scale.log()
    torch.testing.assert_close(bound.address_kl, address_kl.sum(-1).mean(-1))
    squared = (x - code).square().sum(-1)
    reconstruction = -0.5 * squared / 0.5**2 - 2 * math.log(0.5 * math.sqrt(2 * math.pi))
    torch.testing.assert_close(bound.reconstruction, reconstruction.mean(-1))
    torch.testing.assert_close(
        bound.bound, bound.reconstruction - bound.address_kl - bound.code_kl - bound.memory_kl, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianCode(0), "GaussianCode: code_size is 0; expected at least 1"),
        (lambda: GaussianCode(3, 0.0), "GaussianCode: scale is 0.0; expected a positive number"),
        (
            lambda: kanerva_2018(Identity(5), Identity(5), memory_prior=dist.Normal(torch.zeros(4, 5), 1.0)),
            r"memory_prior has batch shape \(4, 5\)",
        ),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------------- latent codes in other machines


def test_draws_of_latent_codes_have_their_noise():
    """Of patterns generated at one address, the variance is that of z and of x given z."""
    built = linear_machine(K, C, 0.3, code_posterior=GaussianCode(C), code_scale=1.0, address_prior=narrow(K))
    memory = built.write(torch.randn(1, 3, C))
    means = memory.generate(20_000)[0]  # of x given z
    torch.testing.assert_close(means.var(0), torch.ones(C), atol=6 * (2 / 20_000) ** 0.5, rtol=0)
    # Gibbs: with w known, x ~ Normal(M^T w, sigma^2 + 0.3^2) in every sweep
    patterns = memory.sample(torch.zeros(1, 1, C), 4000, burn_in=0).patterns[:, 0, 0]
    spread = memory.posterior.loc.new_tensor(1.09)
    assert ((patterns.var(0) / spread - 1).abs() < 6 * (2 / 4000) ** 0.5).all()


def narrow(slots):
    """Addresses that are always 1 / K."""
    return dist.Normal(torch.full((slots,), 1 / slots), 1e-4).to_event(1)


def test_latent_codes_with_slots():
    built = linear_machine(K, C, 0.3, code_posterior=GaussianCode(C), address_prior=CategoricalAddress(K))
    bound = built.bound(torch.randn(2, 6, C), 3)
    assert bound.code_kl.shape == (2,)
    assert (bound.code_kl > 0).all()


def test_the_site_of_the_code():
    """q(z | x) of a scale of its own in the guide, Normal(M^T w, sigma^2 I) in the model, whose draw is decoded."""
    built = linear_machine(K, C, 0.3, code_posterior=GaussianCode(C, 0.2), code_scale=0.7)
    x = torch.randn(2, 6, C)
    guide = poutine.trace(built.guide).get_trace(x)
    model = poutine.trace(poutine.replay(built.model, trace=guide)).get_trace(x)
    q, p, pattern = guide.nodes["code"]["fn"], model.nodes["code"]["fn"], model.nodes["pattern"]["fn"]
    torch.testing.assert_close(q.mean, x)
    torch.testing.assert_close(q.stddev, torch.full_like(x, 0.2))
    torch.testing.assert_close(p.mean, guide.nodes["address"]["value"] @ guide.nodes["memory"]["value"].squeeze(1))
    torch.testing.assert_close(p.stddev, torch.full_like(x, 0.7))
    torch.testing.assert_close(pattern.mean, guide.nodes["code"]["value"])


def test_the_code_divergence_is_an_average_over_slots():
    """sum_k q(w = e_k) KL(q(z | x) || Normal(M[k], sigma^2 I)), at one draw of M."""
    built = linear_machine(K, C, 0.3, code_posterior=GaussianCode(C), address_prior=CategoricalAddress(K))
    x = torch.randn(2, 6, C)
    with torch.no_grad():
        posterior = built.write_codes(x).memory
        torch.manual_seed(1)
        bound = built.bound(x)
        torch.manual_seed(1)
        matrix = posterior.rsample((1,))[0]
        weights = built.read_codes(x, matrix).probs  # (B, T, K)
    q, p = dist.Normal(x.unsqueeze(-2), 0.5), dist.Normal(matrix.unsqueeze(1), 0.3)
    divergences = torch.distributions.kl_divergence(q, p).sum(-1)
    torch.testing.assert_close(bound.code_kl, (weights * divergences).sum(-1).mean(-1))


def test_importance_weights_with_latent_codes():
    """Their mean is ``p(x | M) = Normal(0, M^T M + (sigma^2 + noise^2) I)``, by memory and by guide."""
    code_posterior, number = GaussianCode(2, 0.4), 20_000
    built, matrix = known_memory_machine(2, 2, 0.5, code_posterior=code_posterior, code_scale=0.7)
    x = torch.randn(3, 1, 2)
    covariance = matrix.mT @ matrix + (0.7**2 + 0.5**2) * torch.eye(2)
    exact = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(x.squeeze(1))
    draws = built.prior_memory(3).log_evidence(x.expand(3, number, 2), num_samples=1).mT
    for log_weights in (draws, importance_weights(built, x, number)):
        weights = (log_weights - exact).exp()  # of mean 1
        error = weights.std(0) / math.sqrt(number)
        assert error.max() < 0.03
        assert ((weights.mean(0) - 1).abs() < 5 * error).all()
