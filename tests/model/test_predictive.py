"""Draws of patterns with Pyro's ``Predictive``: from the prior, and from the posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import Identity, linear_machine, small_machine
from pyro import poutine
from pyro.infer import Predictive

import pyro_kanerva as pk

K, C, E = 3, 4, (5,)

ADDRESSES = {
    "gaussian": pk.GaussianAddress(K),
    "laplace": pk.LaplaceAddress(K),
    "student": pk.StudentTAddress(K),
    "horseshoe": pk.HorseshoeAddress(K),
    "simplex": pk.SimplexAddress(K),
    "mixture": pk.MixtureAddress(K),
    "slots": pk.CategoricalAddress(K),
    "positive": dist.HalfNormal(torch.ones(K)).to_event(1),
}
LIKELIHOODS = {  # and the shape of the decoder's output
    "bernoulli": (pk.BernoulliLikelihood(), E),
    "normal": (pk.NormalLikelihood(0.5), E),
    "levels": (pk.DiscretizedLogisticLikelihood(), E),
    "classes": (pk.CategoricalLikelihood(6), (*E, 6)),
    "event": (lambda output: dist.MultivariateNormal(output, torch.eye(5)), E),
}
MACHINES = {
    **{name: lambda prior=prior: small_machine(E, K, C, address_prior=prior) for name, prior in ADDRESSES.items()},
    **{
        name: lambda likelihood=likelihood, shape=shape: small_machine(
            E, K, C, output_shape=shape, likelihood=likelihood
        )
        for name, (likelihood, shape) in LIKELIHOODS.items()
    },
    "2018": lambda: pk.kanerva_2018(pk.MLPEncoder(E, C), pk.MLPDecoder(C, E), memory_prior=pk.LaplaceMemory(K, C)),
}


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", MACHINES)
def test_sites_of_the_prior_predictive(name, parallel):
    machine = MACHINES[name]()
    sizes = {"num_patterns": 7, "num_episodes": 2}
    for model in (machine.model, machine.training_pair(memory_kl_weight=0.1)[0]):
        returned = model(None, **sizes)
        assert (returned.shape, returned.dtype) == ((2, 7, *E), torch.float32)
        trace = poutine.trace(model).get_trace(None, **sizes)
        assert not trace.nodes["pattern"]["is_observed"]
        assert trace.nodes["pattern"]["fn"].batch_shape == (2, 7)
        assert trace.nodes["pattern"]["fn"].event_shape == E
        frames = {frame.name: (frame.dim, frame.size) for frame in trace.nodes["pattern"]["cond_indep_stack"]}
        assert frames == {"episode": (-2, 2), "pattern_plate": (-1, 7)}
        draws = Predictive(model, num_samples=4, parallel=parallel)(None, **sizes)
        latent = {"code"} if name == "2018" else set()
        assert draws.keys() == {"memory", "address", "pattern"} | latent
        assert draws["memory"].shape == (4, 2, 1, K, C)
        assert draws["address"].shape == (4, 2, 7, K)
        assert draws["pattern"].shape == (4, 2, 7, *E)
    assert machine.write(returned).read(returned).shape == returned.shape  # the draws are patterns


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", MACHINES)
def test_sites_of_the_posterior_predictive(name, parallel):
    machine = MACHINES[name]()
    with torch.no_grad():
        patterns = machine.model(None, num_patterns=7, num_episodes=2)
    model, trained = machine.training_pair()
    for guide in (machine.guide, trained):
        draws = Predictive(model, guide=guide, num_samples=4, parallel=parallel)(patterns)
        assert draws["memory"].shape == (4, 2, 1, K, C)
        assert draws["address"].shape == (4, 2, 7, K)
        assert torch.equal(draws["pattern"], patterns.expand(4, 2, 7, *E))  # those observed
        draws = Predictive(poutine.uncondition(model), guide=guide, num_samples=4, parallel=parallel)(patterns)
        assert draws["pattern"].shape == (4, 2, 7, *E)
        assert (draws["pattern"] != patterns).any()
    draws = Predictive(machine.model, {"memory": draws["memory"]}, parallel=parallel)(
        None, num_patterns=5, num_episodes=2
    )
    assert draws["address"].shape == (4, 2, 5, K)
    assert draws["pattern"].shape == (4, 2, 5, *E)


def test_the_model_returns_the_patterns(make_machine, patterns):
    machine = make_machine()
    assert machine.model(patterns) is patterns
    assert torch.equal(machine.model(patterns[0]), patterns[:1])  # a single episode
    draws = Predictive(machine.model, num_samples=2, return_sites=["_RETURN"])(None)
    assert draws["_RETURN"].shape == (2, 1, 6, 1, 5, 7)  # as many patterns as slots


def test_numbers_of_draws_that_do_not_fit(make_machine, patterns):
    machine = make_machine()
    for numbers in ({"num_patterns": 8}, {"num_episodes": 3}):
        with pytest.raises(ValueError, match=r"model\(\): num_patterns is .* there are patterns.*Pass None"):
            machine.model(patterns, **numbers)
        with pytest.raises(ValueError, match=rf"model\(\): {next(iter(numbers))} is 0; expected at least 1"):
            machine.model(None, **dict.fromkeys(numbers, 0))
    with pytest.raises(ValueError, match=r"model\(\): without patterns, the encoder must state .*event_shape"):
        linear_machine(3, 4, encoder=lambda x: x).model(None)
    with pytest.raises(ValueError, match=r"guide\(\): patterns is None.*Only the model draws patterns"):
        machine.guide(None)
    memory = machine.write(patterns).posterior.loc.unsqueeze(1)
    with pytest.raises(ValueError, match=r'site "memory" has shape \(3, 1, 6, 10\), 3 episodes; expected 1'):
        poutine.condition(machine.model, {"memory": memory})(None)


# ---------------------------------------------------------------------- moments


def close_means(draws, expected):
    """The mean over dim 0 is the expected one, within 6 standard errors."""
    error = draws.std(0) / len(draws) ** 0.5
    return bool(((draws.mean(0) - expected).abs() < 6 * error).all())


@pytest.mark.parametrize("name", ["gaussian", "slots"])
def test_moments_of_the_prior_predictive(name):
    r"""x = M^T w + noise with known moments; the patterns of an episode share the memory, others do not.

    With m = E[w] and S = E[w w^T], the column c of M has the mean R[:, c] and the covariance U::

        E[x_c] = m^T R_c,    E[x_c^2] = tr(S (R_c R_c^T + U)) + noise^2,    E[x_tc x_sc] = m^T (R_c R_c^T + U) m
    """
    prior = pk.GaussianMemory(K, C, 0.8)
    machine = linear_machine(K, C, 0.3, memory_prior=prior, address_prior=ADDRESSES[name])
    address = machine.address_prior()
    mean = torch.zeros(K) if name == "gaussian" else address.probs
    second = torch.eye(K) if name == "gaussian" else address.probs.diag()
    loc, covariance = prior().loc.detach(), prior().row_covariance.detach()
    product = torch.einsum("kc,lc->ckl", loc, loc) + covariance
    draws = Predictive(machine.model, num_samples=1, return_sites=["pattern"])(
        None, num_patterns=2, num_episodes=40_000
    )["pattern"][0]
    one, other = draws.unbind(1)
    assert close_means(one, mean @ loc)
    assert close_means(one.square(), torch.einsum("ckl,kl->c", product, second) + 0.3**2)
    assert close_means(one * other, torch.einsum("ckl,k,l->c", product, mean, mean))
    assert close_means(one * other.roll(1, 0), (mean @ loc).square())


@pytest.mark.parametrize("name", ["laplace", "simplex", "mixture", "2018"])
def test_prior_predictive_against_generate(name):
    """``generate`` reads a draw of the prior memory at new addresses: the means of the same patterns."""
    machine = MACHINES[name]()
    number = 4000
    patterns = machine.model(None, num_patterns=1, num_episodes=number)[:, 0]
    memory = machine.prior_memory(number)
    matrix = memory.posterior.sample()
    if name == "2018":  # its memory prior is a Laplace, which posterior only matches
        matrix = machine.memory_prior().sample((number,))
    means = memory.generate(1, matrix=matrix)[:, 0]
    error = ((patterns.var(0) + means.var(0)) / number).sqrt()
    assert ((patterns.mean(0) - means.mean(0)).abs() < 6 * error).all()


def test_posterior_predictive_of_a_known_memory():
    """New patterns at new addresses have the moments of ``memory.generate`` plus the noise."""
    machine = linear_machine(K, C, 0.3, encoder=Identity(C))
    patterns = machine.model(None, num_patterns=20).detach()
    draws = Predictive(machine.model, guide=machine.guide, num_samples=500, parallel=True)(patterns)
    new = Predictive(machine.model, {"memory": draws["memory"]}, parallel=True)(None, num_patterns=30)["pattern"]
    posterior = machine.write(patterns).posterior
    expected = posterior.loc[0].square().sum(0) + posterior.row_covariance[0].diagonal().sum() + 0.3**2
    assert close_means(new[:, 0].square().mean(1), expected)
    # at their own addresses, the replicated patterns are the observed ones and the noise
    own = Predictive(poutine.uncondition(machine.model), guide=machine.guide, num_samples=500)(patterns)
    code = own["address"] @ own["memory"].squeeze(2)
    assert close_means((own["pattern"] - code).square().flatten(1).mean(1), torch.tensor(0.3**2))


def test_draws_leave_the_parameter_store_alone(make_machine):
    """Apart from the machine's own parameters."""
    machine = make_machine()
    Predictive(machine.model, num_samples=2)(None)
    assert len(pyro.get_param_store()) == len(list(machine.parameters()))
