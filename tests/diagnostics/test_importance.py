"""Importance weights, k-hat, ArviZ data and calibration, against evidence in closed form and by brute force."""

import math
import sys
import types

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS
from torch import Tensor

from pyro_kanerva import (
    CategoricalLikelihood,
    ExactReader,
    Flip,
    GaussianMemory,
    KanervaMachine,
    MatrixNormal,
    MLPDecoder,
    MLPEncoder,
    NormalLikelihood,
    OnlineWriter,
    calibration,
)
from pyro_kanerva import diagnostic_plots as plots
from pyro_kanerva import diagnostics as diagnose

SLOTS, SIZE, SCALE = 3, 4, 0.6
LEVEL, WRONG = 1e-4, 1e-12  # p-values of uniform ranks, and of ranks that are clearly not
KNOWN = 1e-6  # the scale of a memory prior that leaves nothing to infer


class Identity:
    """Encoder and decoder whose codes are the patterns."""

    def __init__(self, size=SIZE):
        self.event_shape = (size,)

    def __call__(self, x):
        return x


class Scaled(ExactReader):
    """A reader whose standard deviations are the exact ones times ``factor``."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, *args):
        exact = super().forward(*args)
        return dist.MultivariateNormal(exact.loc, scale_tril=self.factor * exact.scale_tril)


class Independent(ExactReader):
    """A reader that ignores the patterns: the prior."""

    def forward(self, codes, memory, address_prior, code_scale):
        batch = torch.broadcast_shapes(codes.shape[:-2], memory.shape[:-2]) + codes.shape[-2:-1]
        return address_prior.expand(batch)


def linear_machine(slots=SLOTS, size=SIZE, scale=SCALE, prior_scale=None, machine=KanervaMachine, **options):
    """``x = M^T w + scale noise`` with a code scale to match, so that the exact reader is exact."""
    options.setdefault("memory_prior", GaussianMemory(slots, size, prior_scale))
    options.setdefault("likelihood", NormalLikelihood(scale))
    return machine(Identity(size), Identity(size), code_scale=scale, **options).double()


def linear_machine_of_known_memory(**options):
    """Also the memory M of shape (K, C), from which drawn memories differ by about 1e-6."""
    matrix = torch.randn(SLOTS, SIZE, dtype=torch.float64)
    prior = MatrixNormal(matrix, KNOWN * torch.eye(SLOTS, dtype=torch.float64))
    return linear_machine(memory_prior=prior, **options), matrix


def evidence_given(matrix, patterns, noise=SCALE):
    """log p(x_1 ... x_T | M) with the addresses integrated out, for M (..., K, C) and patterns (T, C)."""
    covariance = matrix.mT @ matrix + noise**2 * torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    factor = torch.linalg.cholesky(covariance).unsqueeze(-3)
    return dist.MultivariateNormal(matrix.new_zeros(matrix.shape[-1]), scale_tril=factor).log_prob(patterns).sum(-1)


def log_mean_and_error(log_weights):
    """log of the mean weight along dim 0, and its standard error."""
    scaled = (log_weights - log_weights.amax(0)).exp()
    error = scaled.std(0) / scaled.mean(0) / math.sqrt(len(scaled))
    return scaled.mean(0).log() + log_weights.amax(0), error


# Importance weights


def test_weights_of_an_exact_guide_are_the_evidence():
    machine, matrix = linear_machine_of_known_memory()
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    log_weights = diagnose.importance_weights(machine, patterns, 30)
    assert log_weights.shape == (30, 2)
    assert log_weights.dtype == torch.float64
    assert not log_weights.requires_grad
    exact = torch.stack([evidence_given(matrix, episode) for episode in patterns])
    torch.testing.assert_close(log_weights, exact.expand(30, 2), rtol=0, atol=1e-3)
    torch.testing.assert_close(diagnose.importance_bound(log_weights), exact, rtol=0, atol=1e-3)
    single = diagnose.importance_weights(machine, patterns[1], 4)
    torch.testing.assert_close(single, exact[1:].expand(4, 1), rtol=0, atol=1e-3)


def test_importance_bound_lies_between_the_elbo_and_the_evidence():
    """Evidence by brute force: 400,000 memories of the prior, addresses integrated out in closed form."""
    slots, size, scale, number = 2, 2, 1.0, 3
    machine = linear_machine(slots, size, scale, prior_scale=0.5)
    patterns = torch.randn(2, number, size, dtype=torch.float64)
    with torch.no_grad():
        memories = machine.memory_prior().sample((400_000,))
        brute = torch.stack([evidence_given(memories, episode, scale) for episode in patterns], -1)
        evidence, evidence_error = log_mean_and_error(brute)
    log_weights = diagnose.importance_weights(machine, patterns, 40_000)
    assert (diagnose.khat(log_weights) < 0.5).all()  # so that the standard error below means something
    estimate, error = log_mean_and_error(log_weights)
    torch.testing.assert_close(diagnose.importance_bound(log_weights), estimate)
    assert ((estimate - evidence).abs() < 5 * (error**2 + evidence_error**2).sqrt()).all()
    # of few samples the bound is looser, in expectation, but better than the ELBO
    few = torch.stack([diagnose.importance_bound(part) for part in log_weights.split(2)])
    few_error, elbo_error = few.std(0) / math.sqrt(len(few)), log_weights.std(0) / math.sqrt(20_000)
    elbo = number * machine.bound(patterns, num_particles=20_000).bound.detach()
    assert (few.mean(0) - elbo > 5 * (few_error**2 + elbo_error**2).sqrt()).all()
    assert (evidence - few.mean(0) > 5 * (few_error**2 + evidence_error**2).sqrt()).all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"code_posterior": lambda codes: dist.Normal(codes, 0.5).to_event(1)},
        {"address_prior": dist.OneHotCategorical(logits=torch.zeros(6))},
    ],
    ids=["default", "latent codes", "one-hot addresses"],
)
def test_mean_log_weight_is_the_elbo(make_machine, patterns, options):
    machine = make_machine(**options)
    log_weights = diagnose.importance_weights(machine, patterns, 1000)
    assert log_weights.dtype == torch.float32
    with torch.no_grad():
        bounds = 8 * torch.stack([machine.bound(patterns, num_particles=10).bound for _ in range(30)])
    error = (log_weights.var(0) / 1000 + bounds.var(0) / 30).sqrt()
    assert ((log_weights.mean(0) - bounds.mean(0)).abs() < 5 * error).all()


def test_chunks_hold_all_samples(monkeypatch):
    machine, _ = linear_machine_of_known_memory()
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    monkeypatch.setattr(diagnose, "_ENTRIES", 4 * 2 * 5 * (SLOTS + SIZE))
    sizes = [len(draws.log_weights) for draws in diagnose.guide_draws(machine, patterns, 10, "")]
    assert sizes == [4, 4, 2]
    log_weights = diagnose.importance_weights(machine, patterns, 10)
    assert log_weights.shape == (10, 2)
    assert diagnose.guide_data(machine, patterns, 20).posterior["address"].shape == (4, 5, 2, 5, SLOTS)


class OneHotReader(torch.nn.Module):
    """Exact posterior of which slot a pattern is in."""

    def forward(self, codes, memory, address_prior, code_scale):
        distance = (codes.unsqueeze(-2) - memory.unsqueeze(-3)).square().sum(-1)
        return dist.OneHotCategorical(logits=-0.5 * distance / code_scale**2 + address_prior.logits)


def one_hot_machine():
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
    return linear_machine_of_known_memory(address_prior=dist.OneHotCategorical(logits=logits), reader=OneHotReader())


def test_one_hot_addresses_sampled_from_the_guide():
    machine, matrix = one_hot_machine()
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    log_weights = diagnose.importance_weights(machine, patterns, 30)
    slots = dist.Normal(matrix, SCALE).log_prob(patterns.unsqueeze(-2)).sum(-1) + machine.address_prior.logits
    torch.testing.assert_close(log_weights, slots.logsumexp(-1).sum(-1).expand(30, 2), rtol=0, atol=1e-3)


class StochasticCodes(KanervaMachine):
    """One more latent site: z ~ Normal(M^T w, CODE), x ~ Normal(z, SCALE), with an exact guide of z and w given M."""

    CODE = 0.8

    def split(self, site):
        return site.squeeze(-3)

    @property
    def model(self):
        def program(patterns):
            with pyro.plate("episode", len(patterns), dim=-2):
                memory = pyro.sample("memory", self.memory_prior)
                with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
                    address = pyro.sample("address", self.address_prior())
                    code = pyro.sample("code", dist.Normal(address @ self.split(memory), self.CODE).to_event(1))
                    pyro.sample("pattern", dist.Normal(code, SCALE).to_event(1), obs=patterns)

        return program

    @property
    def guide(self):
        def program(patterns):
            with pyro.plate("episode", len(patterns), dim=-2):
                memory = pyro.sample("memory", self.memory_prior)
                matrix = self.split(memory)
                prior = matrix.mT @ matrix + self.CODE**2 * torch.eye(SIZE).double()
                gain = torch.linalg.solve(prior + SCALE**2 * torch.eye(SIZE).double(), prior).mT  # (..., C, C)
                covariance = prior - gain @ prior
                factor = torch.linalg.cholesky((covariance + covariance.mT) / 2).unsqueeze(-3)
                with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
                    code = pyro.sample("code", dist.MultivariateNormal(patterns @ gain.mT, scale_tril=factor))
                    pyro.sample("address", self.reader(code, matrix, self.address_prior(), torch.tensor(self.CODE)))

        return program


def stochastic_codes():
    return linear_machine_of_known_memory(machine=StochasticCodes)


def test_a_further_latent_site():
    machine, matrix = stochastic_codes()
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    log_weights = diagnose.importance_weights(machine, patterns, 30)
    noise = math.hypot(SCALE, machine.CODE)
    exact = torch.stack([evidence_given(matrix, episode, noise) for episode in patterns])
    torch.testing.assert_close(log_weights, exact.expand(30, 2), rtol=0, atol=1e-3)


def test_sites_must_match_and_belong_to_an_episode():
    machine, _ = linear_machine_of_known_memory(machine=StochasticCodes)
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)

    class Missing(StochasticCodes):
        guide = KanervaMachine.guide

    class Shared(StochasticCodes):
        @property
        def guide(self):
            def program(patterns):
                pyro.sample("global", dist.Normal(0.0, 1.0))
                super(Shared, self).guide(patterns)

            return program

        @property
        def model(self):
            def program(patterns):
                pyro.sample("global", dist.Normal(0.0, 1.0))
                super(Shared, self).model(patterns)

            return program

    machine, _ = linear_machine_of_known_memory(machine=Missing)
    with pytest.raises(ValueError, match=r"guide samples the sites \['address', 'memory'\], the model .*'code'"):
        diagnose.importance_weights(machine, patterns, 3)
    machine, _ = linear_machine_of_known_memory(machine=Shared)
    with pytest.raises(ValueError, match=r'site "global" .* inside the plate "episode"'):
        diagnose.importance_weights(machine, patterns, 3)


def test_importance_bound_of_given_weights():
    log_weights = torch.tensor([[0.0, -1000.0], [math.log(3.0), -1000.0], [-math.inf, -1000.0]]).double()
    torch.testing.assert_close(
        diagnose.importance_bound(log_weights), torch.tensor([math.log(4 / 3), -1000.0]).double()
    )


# k-hat


def pareto(shape, *size):
    """Log weights with the tail index ``shape``."""
    return -shape * torch.rand(*size, dtype=torch.float64).log()


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_khat_of_pareto_weights(shape):
    """The mean over 20 episodes is the tail index; minus the log weights, of the wrong sign, have a bounded tail."""
    found = diagnose.khat(pareto(shape, 20_000, 20))
    assert found.shape == (20,)
    assert found.dtype == torch.float64
    assert abs(found.mean() - shape) < 5 * found.std() / math.sqrt(20)
    assert (diagnose.khat(-pareto(shape, 20_000, 20)) < 0).all()


def test_khat_is_for_each_episode_apart():
    log_weights = torch.cat([pareto(0.1, 2000, 1), pareto(1.5, 2000, 1) - 500], -1)
    both = diagnose.khat(log_weights)
    torch.testing.assert_close(both[1:], diagnose.khat(log_weights[:, 1:]))
    assert both[0] < 0.5
    assert both[1] > 1


def test_khat_with_weights_of_zero_and_of_equal_size():
    log_weights = pareto(0.8, 5000, 3)
    log_weights[::2, 0] = -math.inf
    assert 0.4 < diagnose.khat(log_weights)[0] < 1.2
    log_weights[:, 1] = -1e5
    log_weights[:, 2] = -1e5 * (1 + 2e-16 * torch.rand(5000, dtype=torch.float64))
    assert diagnose.khat(log_weights)[1:].tolist() == [0.0, 0.0]


def test_khat_tells_a_good_guide_from_a_narrow_one():
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    found = {}
    for factor in (1.0, 1.1, 0.3):
        machine, _ = linear_machine_of_known_memory(reader=Scaled(factor))
        found[factor] = diagnose.khat(diagnose.importance_weights(machine, patterns, 4000))
    assert (found[1.0] < 0.5).all()
    assert (found[1.1] < 0.5).all()
    assert (found[0.3] > 0.7).all()


@pytest.mark.parametrize(
    ("log_weights", "message"),
    [
        (torch.zeros(100), r"shape \(100,\); expected \(samples, episodes\)"),
        (torch.zeros(24, 2), "at least 25 samples"),
        (torch.full((30, 2), math.nan), "NaN or infinite"),
        (torch.full((30, 2), math.inf), "NaN or infinite"),
        (torch.full((30, 2), -math.inf), "weight zero throughout"),
    ],
)
def test_khat_refuses_bad_weights(log_weights, message):
    with pytest.raises(ValueError, match=message):
        diagnose.khat(log_weights)
    if len(log_weights) != 24:
        with pytest.raises(ValueError, match="importance_bound"):
            diagnose.importance_bound(log_weights)


# ArviZ


def values(data, group, name):
    return torch.as_tensor(np.array(data[group][name]))


def test_guide_data(make_machine, patterns):
    machine = make_machine()
    data = diagnose.guide_data(machine, patterns, 40)
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
    machine, matrix = linear_machine_of_known_memory()
    patterns = torch.randn(1, 2, SIZE, dtype=torch.float64)
    address = values(diagnose.guide_data(machine, patterns, 4000), "posterior", "address").flatten(0, 1)
    exact = machine.read_codes(patterns, matrix)
    margin = 5 * exact.variance.sqrt() / math.sqrt(4000)
    assert ((address.mean(0) - exact.mean).abs() < margin).all()
    assert ((address.std(0) - exact.variance.sqrt()).abs() < margin / math.sqrt(2)).all()


def test_guide_data_of_a_further_site():
    machine, _ = stochastic_codes()
    data = diagnose.guide_data(machine, torch.randn(2, 5, SIZE, dtype=torch.float64), 16)
    assert data["posterior"]["codes"].dims == ("chain", "draw", "episode", "pattern", "code")
    assert data["posterior"]["codes"].shape == (4, 4, 2, 5, SIZE)


@pytest.mark.parametrize("number", [0, 12, 41])
def test_guide_data_refuses_other_numbers_of_draws(make_machine, patterns, number):
    with pytest.raises(ValueError, match=f"num_draws is {number}; expected a multiple of 4 of at least 16"):
        diagnose.guide_data(make_machine(), patterns, number)


def test_mcmc_data():
    machine = KanervaMachine(MLPEncoder((3,), 2, 8), MLPDecoder(2, (3,), 8), memory_prior=GaussianMemory(5, 2))
    x = (torch.rand(2, 4, 3) < 0.5).float()
    mcmc = MCMC(NUTS(machine.model, max_tree_depth=3), num_samples=6, warmup_steps=4, disable_progbar=True)
    mcmc.run(x)
    data = diagnose.mcmc_data(mcmc, x)
    assert data["posterior"]["memory"].dims == ("chain", "draw", "episode", "slot", "code")
    assert data["posterior"]["address"].dims == ("chain", "draw", "episode", "pattern", "slot")
    samples = mcmc.get_samples()
    assert torch.equal(values(data, "posterior", "memory")[0], samples["memory"].squeeze(2))
    assert torch.equal(values(data, "posterior", "address")[0], samples["address"])
    assert data["sample_stats"]["diverging"].dims == ("chain", "draw")
    assert data["observed_data"]["patterns"].shape == (2, 4, 3)
    with pytest.raises(ValueError, match=r"expected \(chains, draws, 1, .* for 1 episodes of 4 patterns"):
        diagnose.mcmc_data(mcmc, x[:1])


class Chains:
    """What mcmc_data() asks of an MCMC, with two chains."""

    def __init__(self, samples, divergences):
        self.samples, self.divergences = samples, divergences

    def get_samples(self, group_by_chain):
        assert group_by_chain
        return self.samples

    def diagnostics(self):
        return {"divergences": self.divergences} if self.divergences else {}


def test_mcmc_data_of_chains():
    samples = {"memory": torch.randn(2, 9, 3, 1, 5, 2), "address": torch.randn(2, 9, 3, 4, 5)}
    x = torch.zeros(3, 4, 7)
    data = diagnose.mcmc_data(Chains(samples, {"chain 0": [], "chain 1": [3, 8]}), x)
    assert np.argwhere(data["sample_stats"]["diverging"].values).tolist() == [[1, 3], [1, 8]]
    assert torch.equal(values(data, "posterior", "memory"), samples["memory"].squeeze(3))
    assert "sample_stats" not in diagnose.mcmc_data(Chains(samples, {}), x).groups()
    with pytest.raises(ValueError, match=r"sites \['z'\]; expected \"memory\""):
        diagnose.mcmc_data(Chains({"z": torch.zeros(2, 9)}, {}), x)


def test_retrieval_and_bound_data(make_machine, patterns):
    machine = make_machine()
    retrieval = machine.write(patterns).query(Flip(0.2)(patterns), num_steps=4, channel=Flip(0.2))
    data = diagnose.retrieval_data(retrieval)["constant_data"]
    assert data["energy"].dims == ("step", "episode", "pattern")
    assert data["address"].dims == ("step", "episode", "pattern", "slot")
    assert data["patterns"].dims == ("step", "episode", "pattern", "event_0", "event_1", "event_2")
    assert data["converged"].dims == ("episode", "pattern")
    for name, expected in retrieval._asdict().items():
        assert torch.equal(torch.as_tensor(np.array(data[name])), expected), name
    bound = machine.bound(patterns)
    data = diagnose.bound_data(bound)["constant_data"]
    assert set(data.data_vars) == {*bound._fields, "bound", "conditional_bound"}
    for name, variable in data.data_vars.items():
        assert variable.dims == ("episode",)
        assert torch.equal(torch.as_tensor(variable.values), getattr(bound, name).detach().expand(3))


def test_netcdf_round_trip(make_machine, patterns, tmp_path):
    machine = make_machine()
    retrieval = machine.write(patterns).query(patterns, num_steps=2)
    for number, data in enumerate(
        [
            diagnose.guide_data(machine, patterns, 16),
            diagnose.retrieval_data(retrieval),
            diagnose.bound_data(machine.bound(patterns)),
        ]
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
    assert diagnose.guide_data(make_machine(), patterns, 16) == "DataTree"
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
    found = diagnose.khat(pareto(0.9, 20_000, 20))
    assert abs(found.mean() - 0.9) < 5 * found.std() / math.sqrt(20)


# Calibration


def ranks_of(machine, known=("memory",), **options):
    options = {"num_patterns": 3, "num_simulations": 2000} | options
    return calibration.calibration_ranks(machine, known=known, **options)


def test_an_exact_reader_is_calibrated():
    ranks = ranks_of(linear_machine())
    assert ranks.names == ("address[0, 0]", "address[-1, -1]", "log_likelihood")
    assert ranks.ranks.shape == (2000, 3)
    assert ranks.ranks.min() == 0
    assert ranks.ranks.max() == ranks.num_draws == 99
    assert (calibration.uniformity_pvalues(ranks) > LEVEL).all()


@pytest.mark.parametrize(("factor", "where"), [(0.5, "ends"), (2.0, "middle")])
def test_a_reader_of_the_wrong_scale_is_not(factor, where):
    ranks = ranks_of(linear_machine(reader=Scaled(factor)))
    assert (calibration.uniformity_pvalues(ranks)[:2] < WRONG).all()
    counts = calibration.rank_counts(ranks, 10)[:2]
    ends, middle = counts[:, [0, -1]].mean(-1), counts[:, 4:6].mean(-1)
    assert ((ends > middle) == (where == "ends")).all()


def test_the_memory_is_judged_too():
    """The guide of a memory that is all but known is exact as well; one sweep of the writer leaves it too narrow."""
    machine, _ = linear_machine_of_known_memory()
    ranks = ranks_of(machine, known=())
    assert ranks.names[:2] == ("memory[0, 0]", "memory[-1, -1]")
    assert len(ranks.names) == 5
    assert (calibration.uniformity_pvalues(ranks) > LEVEL).all()
    narrow = calibration.uniformity_pvalues(ranks_of(linear_machine(writer=OnlineWriter(8, sweeps=1)), known=()))
    assert (narrow[:2] < WRONG).all()


def test_log_likelihood_gives_the_prior_away():
    pvalues = calibration.uniformity_pvalues(ranks_of(linear_machine(reader=Independent())))
    assert (pvalues[:2] > LEVEL).all()
    assert pvalues[2] < WRONG


def test_one_hot_addresses_tie_at_random():
    """Statistics of two values: without random ties the ranks would heap up at 0 and elsewhere."""
    machine, _ = one_hot_machine()
    ranks = ranks_of(machine, known=())
    assert (calibration.uniformity_pvalues(ranks) > LEVEL).all()


def test_ranks_with_a_further_site():
    machine, _ = stochastic_codes()
    ranks = ranks_of(machine, num_patterns=2)
    assert {"code[0, 0]", "code[-1, -1]"} <= set(ranks.names)
    assert (calibration.uniformity_pvalues(ranks) > LEVEL).all()


def test_ranks_count_draws_below_the_truth():
    """Statistics with a known order between truth and draws."""

    def draws_are_larger(sites: dict[str, Tensor]) -> Tensor:
        return sites["address"][..., 0, 0] * 0 + (sites["address"].dim() - 3)

    def draws_are_smaller(sites: dict[str, Tensor]) -> Tensor:
        return -draws_are_larger(sites)

    def always_equal(sites: dict[str, Tensor]) -> Tensor:
        return sites["pattern"].sum((-2, -1)).expand(sites["log_likelihood"].shape)

    statistics = {"larger": draws_are_larger, "smaller": draws_are_smaller, "equal": always_equal}
    ranks = ranks_of(linear_machine(), statistics=statistics, num_draws=19)
    assert (ranks.ranks[:, 0] == 0).all()
    assert (ranks.ranks[:, 1] == 19).all()
    pvalues = calibration.uniformity_pvalues(ranks)
    assert pvalues[2] > LEVEL
    assert (pvalues[:2] < 1e-100).all()


def test_known_sites_keep_their_true_value():
    seen = []

    def memory(sites):
        seen.append(sites["memory"])
        return sites["address"][..., 0, 0]

    ranks_of(linear_machine(), statistics={"memory": memory}, num_simulations=5)
    assert all(torch.equal(value, seen[0]) for value in seen)
    assert seen[0].shape == (5, SLOTS, SIZE)


@pytest.mark.parametrize("likelihood", [None, CategoricalLikelihood(3)], ids=["Bernoulli", "Categorical"])
def test_ranks_of_discrete_patterns(likelihood):
    shape = (6,) if likelihood is None else (6, 3)
    decoder = MLPDecoder(2, shape, 8)
    machine = KanervaMachine(MLPEncoder((6,), 2, 8), decoder, memory_prior=GaussianMemory(2, 2), likelihood=likelihood)
    ranks = calibration.calibration_ranks(machine, 3, num_simulations=20, num_draws=9)
    assert ranks.ranks.shape == (20, 5)


def test_uniformity_against_scipy():
    ranks = calibration.CalibrationRanks(torch.randint(0, 40, (500, 3)), ("a", "b", "c"), 39)
    pvalues = calibration.uniformity_pvalues(ranks, num_bins=8)
    counts = np.stack([np.histogram(column, bins=8, range=(-0.5, 39.5))[0] for column in ranks.ranks.T.numpy()])
    assert torch.equal(calibration.rank_counts(ranks, 8), torch.as_tensor(counts).double())
    expected = scipy.stats.chisquare(counts, axis=1).pvalue
    torch.testing.assert_close(pvalues, torch.as_tensor(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_patterns": 0}, "num_patterns is 0"),
        ({"num_simulations": 0}, "num_simulations is 0"),
        ({"num_draws": 0}, "num_draws is 0"),
        ({"known": ("memory", "address")}, r"known is \('memory', 'address'\); expected some, but not all"),
        ({"known": ("pattern",)}, r"latent sites \['address', 'memory'\]"),
        ({"statistics": {"all": lambda sites: sites["address"]}}, 'statistic "all" has shape .* one number for each'),
    ],
)
def test_bad_input_of_calibration(options, message):
    with pytest.raises(ValueError, match=message):
        ranks_of(linear_machine(), **{"num_simulations": 5, "num_draws": 9} | options)


def test_event_shape_must_be_known():
    decoder = MLPDecoder(2, (6,), 8)
    machine = KanervaMachine(torch.nn.Linear(6, 2), decoder, memory_prior=GaussianMemory(2, 2))
    with pytest.raises(ValueError, match="pass event_shape"):
        calibration.calibration_ranks(machine, 3)
    ranks = calibration.calibration_ranks(machine, 3, num_simulations=4, num_draws=9, event_shape=(6,))
    assert ranks.ranks.shape == (4, 5)


def test_bad_input_of_the_uniformity_test():
    ranks = calibration.CalibrationRanks(torch.zeros(90, 1, dtype=torch.long), ("a",), 99)
    with pytest.raises(ValueError, match="divisor of num_draws \\+ 1 = 100"):
        calibration.uniformity_pvalues(ranks, num_bins=7)
    with pytest.raises(ValueError, match="Run 100 simulations or more"):
        calibration.uniformity_pvalues(ranks)


def test_bad_input_of_importance_weights(make_machine, patterns):
    with pytest.raises(ValueError, match="num_samples is 0"):
        diagnose.importance_weights(make_machine(), patterns, 0)
    with pytest.raises(ValueError, match=r"importance_weights\(\): patterns have event shape"):
        diagnose.importance_weights(make_machine(), patterns[..., :3], 5)


# Figures


def axes():
    return Figure().add_subplot()


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def posterior_of(memory):
    """ArviZ data of a memory (chain, draw, B, K, C)."""
    return diagnose._from_dict({"posterior": {"memory": memory}}, {"memory": ("episode", "slot", "code")})


@pytest.mark.parametrize("code", [None, 2])
def test_forest(code):
    memory = torch.randn(4, 500, 2, 5, 3).double() * torch.arange(1, 6).unsqueeze(-1)
    given = axes()
    ax = plots.forest(posterior_of(memory), code=code, episode=1, ax=given)
    assert ax is given
    thin, thick = ([segment[:, 0] for segment in lines.get_segments()] for lines in ax.collections)
    (median,) = ax.get_lines()
    episode = memory[:, :, 1].flatten(0, 1)
    shown = episode.norm(dim=-1) if code is None else episode[..., code]
    expected = torch.quantile(shown, torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=torch.float64), dim=0).numpy()
    np.testing.assert_allclose(np.stack(thin, -1), expected[[0, 4]])
    np.testing.assert_allclose(np.stack(thick, -1), expected[[1, 3]])
    np.testing.assert_allclose(median.get_xdata(), expected[2])
    assert ax.get_xlabel() == ("norm of the slot" if code is None else "entry 2 of the slot")
    assert ax.get_ylim() == (4.6, -0.6)  # slot 0 on top


def test_forest_against_the_prior():
    prior = MatrixNormal(torch.zeros(5, 3), 2 * torch.eye(5))
    ax = plots.forest(posterior_of(torch.randn(4, 50, 1, 5, 3)), code=0, prior=prior)
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches]
    # the standard error of such a quantile of 2,000 draws of scale 2 is 0.095
    np.testing.assert_allclose(edges, [[-2 * 1.645, 2 * 1.645]] * 5, atol=5 * 0.095)
    assert legend_of(ax) == ["posterior: median, 50%, 90%", "prior: median, 90%"]
    assert tuple(ax.figure.get_size_inches()) == (5, 3.5)


def test_forest_refuses_what_is_not_there(make_machine, patterns):
    data = posterior_of(torch.randn(4, 50, 1, 5, 3))
    with pytest.raises(ValueError, match="episode is 1; expected 0 to 0"):
        plots.forest(data, episode=1)
    with pytest.raises(ValueError, match="code is 3; expected 0 to 2"):
        plots.forest(data, code=3)
    with pytest.raises(ValueError, match='no "memory" in its group "posterior"'):
        plots.forest(diagnose.bound_data(make_machine().bound(patterns)))


def test_khat_plot():
    given = axes()
    ax = plots.khat_plot(torch.tensor([0.1, 0.6, 0.5, math.inf, -0.2, 1.5]), ax=given)
    assert ax is given
    assert legend_of(ax) == ["good (3)", "fair (1)", "not to be trusted (2)"]
    good, fair, bad, *thresholds = ax.get_lines()
    assert good.get_xdata().tolist() == [0, 2, 4]
    assert fair.get_xdata().tolist() == [1]
    assert bad.get_xdata().tolist() == [3, 5]
    bottom, top = ax.get_ylim()
    assert bad.get_ydata().tolist() == [top, 1.5]
    assert bottom < -0.2
    assert [line.get_ydata()[0] for line in thresholds] == [0.5, 0.7]
    plots.khat_plot(torch.tensor([math.inf]))
    for values in (torch.zeros(0), torch.tensor([math.nan]), torch.zeros(2, 2)):
        with pytest.raises(ValueError, match="khat has shape"):
            plots.khat_plot(values)


def test_rank_plot():
    ranks = calibration.CalibrationRanks(
        torch.stack([torch.arange(2000) % 100, torch.zeros(2000).long()], -1), ("a", "b"), 99
    )
    given = axes()
    ax = plots.rank_plot(ranks, "a", ax=given)
    assert ax is given
    band, *bars = ax.patches
    low, high = scipy.stats.binom.ppf([0.005, 0.995], 2000, 1 / 20)
    assert (band.get_y(), band.get_y() + band.get_height()) == (low, high)
    assert [bar.get_height() for bar in bars] == [100] * 20
    assert [bar.get_x() for bar in bars[:2]] == [-0.5, 4.5]
    assert legend_of(ax) == ["99% band if uniform", "bin inside"]
    assert ax.get_xlabel() == "rank of a among 99 draws"
    ax = plots.rank_plot(ranks, "b", num_bins=10)
    assert sorted(bar.get_height() for bar in ax.patches[1:]) == [0] * 9 + [2000]
    assert legend_of(ax) == ["99% band if uniform", "bin outside"]
    assert {to_hex(bar.get_facecolor()) for bar in ax.patches[1:]} == {"#d55e00"}
    with pytest.raises(ValueError, match='name is "c"; expected one of a, b'):
        plots.rank_plot(ranks, "c")
    with pytest.raises(ValueError, match="num_bins is 7"):
        plots.rank_plot(ranks, "a", num_bins=7)


def test_energy_by_step(make_machine, patterns):
    retrieval = make_machine().write(patterns).query(Flip(0.2)(patterns), num_steps=4, channel=Flip(0.2))
    given = axes()
    ax = plots.energy_by_step(diagnose.retrieval_data(retrieval), ax=given)
    assert ax is given
    (median,) = ax.get_lines()
    expected = torch.quantile(retrieval.energy.flatten(1), 0.5, dim=1, interpolation="lower")
    np.testing.assert_allclose(median.get_ydata(), expected.numpy())
    wide, narrow = (band.get_paths()[0].get_extents() for band in ax.collections)
    assert wide.y0 <= narrow.y0 < median.get_ydata().min()
    assert median.get_ydata().max() < narrow.y1 <= wide.y1
    assert legend_of(ax) == ["90% of queries", "50% of queries", "median"]
    assert ax.get_ylabel() == "energy (nats)"
    with pytest.raises(ValueError, match='no "energy" in its group "constant_data"; expected that of retrieval_data'):
        plots.energy_by_step(diagnose.bound_data(make_machine().bound(patterns)))


def test_an_infinite_energy_stays_where_it_is():
    energy = torch.full((2, 1, 20), 3.0)
    energy[0, 0, :12] = math.inf
    data = diagnose._from_dict({"constant_data": {"energy": energy}}, {"energy": ("step", "episode", "pattern")})
    (median,) = plots.energy_by_step(data).get_lines()
    assert median.get_ydata().tolist() == [math.inf, 3.0]
