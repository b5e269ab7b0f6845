"""What ArviZ gets: names, dimensions, values and files, with ArviZ 0.23 and 1.x."""

import math
import sys
import types

import arviz as az
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import known_memory_machine, small_machine
from pyro import poutine
from pyro.infer import MCMC, NUTS

from pyro_kanerva import Flip, UnknownLevel
from pyro_kanerva.diagnostics import bound_data, guide_data, khat, mcmc_data, retrieval_data

SLOTS, SIZE, NOISE = 3, 4, 0.6


def values(data, group, name):
    return torch.as_tensor(np.array(data[group][name]))


def test_guide_data(make_machine, patterns):
    machine = make_machine()
    data = guide_data(machine, patterns, 40)
    dims = {name: variable.dims for name, variable in data["posterior"].data_vars.items()}
    assert dims == {
        "memory": ("chain", "draw", "episode", "slot", "code"),
        "address": ("chain", "draw", "episode", "pattern", "slot"),
    }
    assert dict(data["posterior"].sizes) == {
        "chain": 4, "draw": 10, "episode": 3, "slot": 6, "code": 10, "pattern": 8,
    }  # fmt: skip
    assert data["log_likelihood"]["patterns"].dims == ("chain", "draw", "episode", "pattern")
    observed = data["observed_data"]["patterns"]
    assert observed.dims == ("episode", "pattern", "event_0", "event_1", "event_2")
    assert torch.equal(torch.as_tensor(np.array(observed)), patterns)
    assert data["posterior"]["slot"].values.tolist() == list(range(6))
    memory, address = (values(data, "posterior", name) for name in ("memory", "address"))
    expected = machine.decode(address @ memory, (1, 5, 7)).log_prob(patterns)
    torch.testing.assert_close(values(data, "log_likelihood", "patterns"), expected.detach())


def test_guide_data_is_drawn_from_the_guide():
    machine, matrix = known_memory_machine(SLOTS, SIZE, NOISE)
    patterns = torch.randn(1, 2, SIZE, dtype=torch.float64)
    address = values(guide_data(machine, patterns, 4000), "posterior", "address").flatten(0, 1)
    exact = machine.read_codes(patterns, matrix)
    margin = 5 * exact.variance.sqrt() / math.sqrt(4000)
    assert ((address.mean(0) - exact.mean).abs() < margin).all()
    assert ((address.std(0) - exact.variance.sqrt()).abs() < margin / math.sqrt(2)).all()


def test_guide_data_of_a_further_site(make_machine, patterns):
    machine = make_machine(code_posterior=lambda codes: dist.Normal(codes, 0.5).to_event(1))
    data = guide_data(machine, patterns, 16)
    assert data["posterior"]["codes"].dims == ("chain", "draw", "episode", "pattern", "code")
    assert data["posterior"]["codes"].shape == (4, 4, 3, 8, 10)


@pytest.mark.parametrize("number", [0, 12, 41])
def test_guide_data_refuses_other_numbers_of_draws(make_machine, patterns, number):
    with pytest.raises(ValueError, match=f"num_draws is {number}; expected a multiple of 4 of at least 16"):
        guide_data(make_machine(), patterns, number)


def test_mcmc_data():
    machine = small_machine((3,), 5, 2)
    x = (torch.rand(2, 4, 3) < 0.5).float()
    mcmc = MCMC(NUTS(machine.model, max_tree_depth=3), num_samples=6, warmup_steps=4, disable_progbar=True)
    mcmc.run(x)
    data = mcmc_data(mcmc, x)
    assert data["posterior"]["memory"].dims == ("chain", "draw", "episode", "slot", "code")
    assert data["posterior"]["address"].dims == ("chain", "draw", "episode", "pattern", "slot")
    samples = mcmc.get_samples()
    assert torch.equal(values(data, "posterior", "memory")[0], samples["memory"].squeeze(2))
    assert torch.equal(values(data, "posterior", "address")[0], samples["address"])
    assert data["sample_stats"]["diverging"].dims == ("chain", "draw")
    assert data["observed_data"]["patterns"].shape == (2, 4, 3)
    assert data["log_likelihood"]["patterns"].dims == ("chain", "draw", "episode", "pattern")
    expected = machine.decode(samples["address"] @ samples["memory"].squeeze(2), (3,)).log_prob(x)
    torch.testing.assert_close(values(data, "log_likelihood", "patterns")[0], expected.detach())
    with pytest.raises(ValueError, match=r"expected \(chains, draws, 1, .* for 1 episodes of 4 patterns"):
        mcmc_data(mcmc, x[:1])


class Chains:
    """The part of an MCMC with two chains that mcmc_data() uses."""

    def __init__(self, samples, divergences, model):
        self.samples, self.divergences = samples, divergences
        self.kernel = types.SimpleNamespace(model=model)

    def get_samples(self, group_by_chain):
        assert group_by_chain
        return self.samples

    def diagnostics(self):
        return {"divergences": self.divergences} if self.divergences else {}


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto")  # of equal log likelihoods
def test_loo_of_nuts():
    """One-hot addresses are summed out, in the run and in the log likelihood. Of a known memory, the patterns are
    independent, and loo is log p(x | M)."""
    probs = torch.tensor([0.2, 0.3, 0.5]).double()
    machine, matrix = known_memory_machine(SLOTS, SIZE, NOISE, address_prior=dist.OneHotCategorical(probs))
    x = machine.model(None, num_patterns=5).detach()
    mcmc = MCMC(NUTS(machine.model), num_samples=20, warmup_steps=20, disable_progbar=True)
    mcmc.run(x)
    data = mcmc_data(mcmc, x)
    assert set(data["posterior"].data_vars) == {"memory"}
    mixture = dist.MixtureSameFamily(dist.Categorical(probs), dist.Normal(matrix, NOISE).to_event(1))
    expected = mixture.log_prob(x)
    torch.testing.assert_close(values(data, "log_likelihood", "patterns")[0, -1], expected, rtol=1e-3, atol=0)
    found = az.loo(data, pointwise=True)
    assert found.elpd_loo == pytest.approx(expected.sum().item(), rel=1e-3)
    assert found.loo_i.dims == ("episode", "pattern")
    assert az.waic(data).elpd_waic == pytest.approx(expected.sum().item(), rel=1e-3)


def test_loo_of_exact_draws():
    """Of a known memory the addresses are independent, and leaving a pattern out leaves the prior of its address."""
    machine, matrix = known_memory_machine(SLOTS, SIZE, 5.0)  # much noise, so that loo is reliable
    x = machine.model(None, num_patterns=5).detach()
    draws = machine.read_codes(x, matrix).sample((4, 2000))
    samples = {"memory": matrix.expand(4, 2000, 1, 1, SLOTS, SIZE), "address": draws}
    found = az.loo(mcmc_data(Chains(samples, {}, machine.model), x), pointwise=True)
    covariance = matrix.mT @ matrix + 25 * torch.eye(SIZE).double()
    exact = dist.MultivariateNormal(torch.zeros(SIZE).double(), covariance).log_prob(x)
    assert (found.pareto_k < 0.7).all()
    torch.testing.assert_close(torch.as_tensor(found.loo_i.values), exact, rtol=0, atol=0.1)


def test_mcmc_data_of_chains():
    samples = {"memory": torch.randn(2, 9, 3, 1, 5, 2), "address": torch.randn(2, 9, 3, 4, 5)}
    x, model = torch.zeros(3, 4, 7), small_machine((7,), 5, 2).model
    data = mcmc_data(Chains(samples, {"chain 0": [], "chain 1": [3, 8]}, model), x)
    assert data["log_likelihood"]["patterns"].shape == (2, 9, 3, 4)
    assert np.argwhere(data["sample_stats"]["diverging"].values).tolist() == [[1, 3], [1, 8]]
    assert torch.equal(values(data, "posterior", "memory"), samples["memory"].squeeze(3))
    assert "sample_stats" not in mcmc_data(Chains(samples, {}, model), x).groups()
    with pytest.raises(ValueError, match=r"sites \['z'\]; expected \"memory\""):
        mcmc_data(Chains({"z": torch.zeros(2, 9)}, {}, model), x)
    with pytest.raises(ValueError, match=r'expected an observed site "pattern" for the log likelihood'):
        mcmc_data(Chains(samples, {}, poutine.uncondition(model)), x)


def test_retrieval_and_bound_data(make_machine, patterns):
    machine = make_machine()
    retrieval = machine.write(patterns).query(Flip(0.2)(patterns), num_steps=4, channel=Flip(0.2))
    data = retrieval_data(retrieval)["constant_data"]
    assert data["energy"].dims == ("step", "episode", "pattern")
    assert data["address"].dims == ("step", "episode", "pattern", "slot")
    assert data["patterns"].dims == ("step", "episode", "pattern", "event_0", "event_1", "event_2")
    assert data["converged"].dims == ("episode", "pattern")
    assert "level" not in data
    retrieval = machine.write(patterns).query(Flip(0.2)(patterns), num_steps=4, channel=UnknownLevel(Flip(0.2)))
    data = retrieval_data(retrieval)["constant_data"]
    assert data["level"].dims == ("episode", "pattern")
    for name, expected in retrieval._asdict().items():
        assert torch.equal(torch.as_tensor(np.array(data[name])), expected), name
    bound = machine.bound(patterns)
    data = bound_data(bound)["constant_data"]
    assert set(data.data_vars) == {*bound._fields, "bound", "conditional_bound"}
    for name, variable in data.data_vars.items():
        assert variable.dims == ("episode",)
        assert torch.equal(torch.as_tensor(variable.values), getattr(bound, name).detach().expand(3))


def test_netcdf_round_trip(make_machine, patterns, tmp_path):
    machine = make_machine()
    retrieval = machine.write(patterns).query(patterns, num_steps=2)
    for number, data in enumerate(
        [guide_data(machine, patterns, 16), retrieval_data(retrieval), bound_data(machine.bound(patterns))]
    ):
        path = str(tmp_path / f"{number}.nc")
        data.to_netcdf(path, engine="h5netcdf")
        again = az.from_netcdf(path, engine="h5netcdf")
        assert again.groups() == data.groups()
        for group in data.groups():
            assert again[group].equals(data[group]), group
            assert {name: v.dtype for name, v in again[group].items()} == {
                name: v.dtype for name, v in data[group].items()
            }


@pytest.fixture
def arviz_1(monkeypatch):
    """A stand-in for ArviZ 1.x, which records how from_dict is called."""
    calls = []
    fake, stats, base = (types.ModuleType(name) for name in ("arviz", "arviz_stats", "arviz_stats.base"))
    fake.__version__ = "1.2.0"

    def from_dict(data, *, sample_dims=None, coords=None, dims=None):
        calls.append((data, dims))
        return "DataTree"

    class ArrayStats:
        def psislw(self, ary, r_eff=1, axis=-1):  # of log likelihoods
            return az.psislw(-ary, r_eff)

    fake.from_dict, base.array_stats, stats.base = from_dict, ArrayStats(), base
    for module in (fake, stats, base):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return calls


def test_from_dict_of_arviz_1(arviz_1, make_machine, patterns):
    assert guide_data(make_machine(), patterns, 16) == "DataTree"
    ((groups, dims),) = arviz_1
    assert {group: {name: v.shape for name, v in variables.items()} for group, variables in groups.items()} == {
        "posterior": {"memory": (4, 4, 3, 6, 10), "address": (4, 4, 3, 8, 6)},
        "log_likelihood": {"patterns": (4, 4, 3, 8)},
        "observed_data": {"patterns": (3, 8, 1, 5, 7)},
    }
    assert all(isinstance(v, np.ndarray) for variables in groups.values() for v in variables.values())
    assert dims == {
        "memory": ["episode", "slot", "code"],
        "address": ["episode", "pattern", "slot"],
        "patterns": ["episode", "pattern", "event_0", "event_1", "event_2"],
    }


@pytest.mark.usefixtures("arviz_1")
def test_sign_of_khat_with_arviz_1():
    """Log weights with the tail index 0.9."""
    found = khat(-0.9 * torch.rand(20_000, 20, dtype=torch.float64).log())
    assert abs(found.mean() - 0.9) < 5 * found.std() / math.sqrt(20)
