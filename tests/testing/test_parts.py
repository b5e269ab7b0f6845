"""The batteries for parts: every part of the library passes, every broken part fails with the right message."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import UnnormalizedReader
from torch import nn

import pyro_kanerva as pk
from pyro_kanerva.testing import check_address_prior, check_likelihood, check_memory_prior, check_reader, check_writer

K, C = 6, 10


def network():
    return pk.MLPEncoder((C,), 2 * K, 20)


class Frame(nn.Module):
    """A memory prior of which only the mean is learned."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(K, C))

    def forward(self):
        return pk.MatrixNormal(self.loc, torch.eye(K, dtype=self.loc.dtype))


PARTS = {
    "GaussianMemory": (check_memory_prior, lambda: pk.GaussianMemory(K, C)),
    "GaussianMemory full": (check_memory_prior, lambda: pk.GaussianMemory(K, C, 0.4 * torch.eye(K))),
    "LowRankMemory": (check_memory_prior, lambda: pk.LowRankMemory(K, C, 2)),
    "LaplaceMemory": (check_memory_prior, lambda: pk.LaplaceMemory(K, C)),
    "StudentTMemory": (check_memory_prior, lambda: pk.StudentTMemory(K, C)),
    "HierarchicalMemory": (check_memory_prior, lambda: pk.HierarchicalMemory(K, C)),
    "GaussianAddress": (check_address_prior, lambda: pk.GaussianAddress(K)),
    "LaplaceAddress": (check_address_prior, lambda: pk.LaplaceAddress(K)),
    "StudentTAddress": (check_address_prior, lambda: pk.StudentTAddress(K)),
    "HorseshoeAddress": (check_address_prior, lambda: pk.HorseshoeAddress(K)),
    "SimplexAddress": (check_address_prior, lambda: pk.SimplexAddress(K)),
    "MixtureAddress": (check_address_prior, lambda: pk.MixtureAddress(K, 0.7)),
    "CategoricalAddress": (check_address_prior, lambda: pk.CategoricalAddress(K)),
    "BernoulliLikelihood": (check_likelihood, pk.BernoulliLikelihood, (1, 2, 2)),
    "NormalLikelihood": (check_likelihood, pk.NormalLikelihood),
    "CategoricalLikelihood": (check_likelihood, lambda: pk.CategoricalLikelihood(4), (3, 4), (3,)),
    "DiscretizedLogisticLikelihood": (check_likelihood, pk.DiscretizedLogisticLikelihood),
    "OnlineWriter": (check_writer, pk.OnlineWriter),
    "OnlineWriter blocks": (check_writer, lambda: pk.OnlineWriter(3, sweeps=1)),
    "SlotWriter": (check_writer, pk.SlotWriter, lambda: pk.CategoricalAddress(K)),
    "MixtureWriter": (check_writer, lambda: pk.MixtureWriter(pk.MixtureAddress(K)), lambda: pk.MixtureAddress(K)),
    "FrameWriter": (check_writer, lambda: pk.FrameWriter(Frame())),
    "AmortizedWriter": (check_writer, lambda: pk.AmortizedWriter(network())),
    "PseudoInverseWriter": (check_writer, lambda: pk.PseudoInverseWriter(K)),
    "ReadingWriter": (check_writer, lambda: pk.ReadingWriter(pk.SimplexAddress(K)), lambda: pk.SimplexAddress(K)),
    "ExactReader": (check_reader, pk.ExactReader),
    "ScalarReader": (check_reader, pk.ScalarReader),
    "LaplaceReader": (check_reader, pk.LaplaceReader, lambda: pk.LaplaceAddress(K)),
    "LaplaceReader simplex": (check_reader, lambda: pk.LaplaceReader(4), pk.SimplexAddress(K)),
    "SlotReader": (check_reader, pk.SlotReader, lambda: pk.CategoricalAddress(K)),
    "MixtureReader": (check_reader, pk.MixtureReader, lambda: pk.MixtureAddress(K)),
    "MixtureReader wide": (check_reader, pk.MixtureReader, lambda: pk.MixtureAddress(K, 0.7)),
    "AmortizedReader": (check_reader, lambda: pk.AmortizedReader(network())),
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_of_the_library(name):
    check, *arguments = PARTS[name]
    check(*arguments)


def test_every_part_is_tested():
    kinds = ("Memory", "Address", "Likelihood", "Writer", "Reader")
    parts = {name for name in pk.__all__ if name.endswith(kinds) and name not in kinds}
    assert parts <= {name.split()[0] for name in PARTS}


def exact_function(codes, matrix, address_prior, code_scale):
    return pk.ExactReader()(codes, matrix, address_prior, code_scale)


@pytest.mark.parametrize(
    "call",
    [
        lambda: check_memory_prior(lambda: dist.Laplace(torch.arange(K * C).reshape(K, C) % 7 / 7, 0.3).to_event(2)),
        lambda: check_memory_prior(
            lambda: lambda: dist.Normal(torch.arange(20).reshape(4, 5) % 7 / 7, 0.5).to_event(2),
            num_slots=4,
            code_size=5,
        ),
        lambda: check_address_prior(
            lambda dtype=torch.float32: dist.Normal(torch.zeros(K, dtype=dtype), 1).to_event(1)
        ),
        lambda: check_likelihood(lambda: lambda output: dist.Poisson(output.exp())),
        lambda: check_reader(lambda: exact_function),
    ],
)
def test_plain_functions_and_distributions(call):
    call()


# ---------------------------------------------------------------------- broken parts


class Unnormalized(dist.Normal):
    def log_prob(self, value):
        return super().log_prob(value) + 0.05


class Inconsistent(dist.Normal):
    def rsample(self, sample_shape=torch.Size()):
        return self.loc + 1.15 * (super().rsample(sample_shape) - self.loc)


class Copies(dist.Normal):
    """One sample for the whole batch."""

    def sample(self, sample_shape=torch.Size()):
        sample = super().sample(sample_shape)
        return sample[..., :1, :1, :].expand(sample.shape) if len(self.batch_shape) == 3 else sample


class NoBatch(dist.MultivariateNormal):
    def expand(self, batch_shape, _instance=None):
        return self


class SumsOverBatch(dist.MultivariateNormal):
    def log_prob(self, value):
        return super().log_prob(value).sum(-1) if self.batch_shape else super().log_prob(value)

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self._get_checked_instance(SumsOverBatch, _instance))


class Prior(nn.Module):
    """An address prior, which the classes below break."""

    def __init__(self, distribution=dist.Normal):
        super().__init__()
        self.loc = nn.Parameter(0.1 * torch.randn(K))
        self.distribution = distribution

    def forward(self):
        return self.distribution(self.loc, torch.ones_like(self.loc)).to_event(1)


class Detached(Prior):
    def forward(self):
        return dist.Normal(self.loc.detach(), 1.0).to_event(1)


class NotFinite(Prior):
    def forward(self):
        return dist.Normal(self.loc + (self.loc * 0).abs().sqrt(), 1.0).to_event(1)


SHARED = nn.Parameter(torch.zeros(K))


class Shared(Prior):
    def __init__(self):
        super().__init__()
        self.loc = SHARED


class InStore(Prior):
    def forward(self):
        return dist.Normal(pyro.param("loc", torch.zeros(K)).to(self.loc) + self.loc, 1.0).to_event(1)


class Single(Prior):
    def forward(self):
        return dist.Normal(self.loc.float(), 1.0).to_event(1)


class Forgetful(Prior):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.randn(K), persistent=False)

    def forward(self):
        return dist.Normal(self.loc + self.shift, 1.0).to_event(1)


class Stays(Prior):
    def __init__(self):
        super().__init__()
        self.shift = torch.zeros(())

    def forward(self):
        return dist.Normal(self.loc + self.shift, 1.0).to_event(1)


class Drifting(Prior):
    """Another distribution at every call."""

    calls = 0

    def forward(self):
        self.calls += 1
        return dist.Normal(self.loc + 1e-3 * self.calls, 1.0).to_event(1)


class Writer(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, codes, prior, code_scale):
        return self.change(pk.OnlineWriter()(codes, prior, code_scale), codes, prior)


class Reader(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, codes, matrix, address_prior, code_scale):
        return pk.ExactReader()(*self.change(codes, matrix), address_prior, code_scale)


def pooled(codes, matrix):
    """Every particle reads the mean over all particles."""
    return codes, matrix.mean(0, keepdim=True).expand(matrix.shape) if matrix.dim() > 3 else matrix


def wrong_addresses(result, codes, prior):
    return result._replace(addresses=result.addresses.mT)


def mixed_episodes(result, codes, prior):
    loc = result.memory.loc.mean(0, keepdim=True).expand(result.memory.loc.shape)
    return result._replace(memory=pk.MatrixNormal(loc, result.memory.scale_tril_row, validate_args=False))


def detached_memory(result, codes, prior):
    memory = pk.MatrixNormal(result.memory.loc.detach(), result.memory.scale_tril_row.detach(), validate_args=False)
    return result._replace(memory=memory)


def single_memory(result, codes, prior):
    memory = pk.MatrixNormal(result.memory.loc.float(), result.memory.scale_tril_row.float(), validate_args=False)
    return result._replace(memory=memory)


def single_identity(codes, matrix):
    return codes, torch.eye(K) @ matrix


class Weighted(dist.Bernoulli):
    def log_prob(self, value):
        return 0.9 * super().log_prob(value)


normal = "log_prob to be the normalized log density of the samples"
BROKEN = {
    "event shape": (
        check_memory_prior,
        lambda: dist.Normal(torch.zeros(K, C), 1).to_event(1),
        r"batch and event shape \(\), \(6, 10\); found \(\(6,\), \(10,\)\).*to_event\(2\)",
    ),
    "event size": (
        check_address_prior,
        lambda: pk.GaussianAddress(5),
        r"GaussianAddress: .* event shape \(\), \(6,\); found \(\(\), \(5,\)\)",
    ),
    "unnormalized": (
        check_memory_prior,
        lambda: Unnormalized(torch.zeros(K, C), 1).to_event(2),
        f"{normal}.*integrate to about exp",
    ),
    "unnormalized address": (
        check_address_prior,
        lambda: Prior(Unnormalized),
        rf"Prior: expected {normal}.*about exp\(0\.\d\d\)",
    ),
    "rsample": (
        check_memory_prior,
        lambda: Inconsistent(torch.zeros(K, C), 1).to_event(2),
        rf"{normal}.*Make rsample\(\) and log_prob\(\)",
    ),
    "rsample of an address": (
        check_address_prior,
        lambda: Prior(Inconsistent),
        rf"Prior: .*{normal}.*Make rsample\(\)",
    ),
    "ignored batch": (
        check_address_prior,
        lambda: NoBatch(torch.zeros(K), torch.eye(K)),
        r"samples of shape \(2, 3, 4, 6\) .*found \(2, 6\).*expand",
    ),
    "summed batch": (
        check_address_prior,
        lambda: SumsOverBatch(torch.zeros(K), torch.eye(K)),
        r"log_prob of shape \(2, 3, 4\).*found \(2, 3\)",
    ),
    "copies": (
        check_address_prior,
        lambda: Copies(torch.zeros(K), 1).to_event(1),
        "independent samples in a batch; found twelve copies",
    ),
    "detached": (
        check_address_prior,
        Detached,
        "Detached: expected a gradient of address_prior.loc; found none.*detach",
    ),
    "not finite": (
        check_address_prior,
        NotFinite,
        "NotFinite: expected a finite gradient of address_prior.loc; found .*nan",
    ),
    "shared": (
        check_address_prior,
        Shared,
        "Shared: expected instances that train alone; .*'address_prior.loc'.*__init__",
    ),
    "parameter store": (check_address_prior, InStore, r"InStore: .*Pyro's store; found \['loc'\]. Use nn.Parameter"),
    "float32 prior": (check_address_prior, Single, r"Single: expected float64 samples .* found torch.float32"),
    "float32 reader": (
        check_reader,
        lambda: Reader(single_identity),
        r"Reader: expected float64 to work.*dtype and device of a parameter",
    ),
    "float32 writer": (
        check_writer,
        lambda: Writer(single_memory),
        r"Writer: expected float64 to work.*dtype and device of a parameter",
    ),
    "float32 likelihood": (check_likelihood, lambda: lambda output: dist.Normal(output @ torch.eye(3), 1.0), "float64"),
    "forgetful": (check_address_prior, Forgetful, "Forgetful: .*same bound after load_state_dict.*persistent"),
    "plain attribute": (check_address_prior, Stays, "Stays: .*found the plain attribute shift. Use register_buffer"),
    "drifting": (check_address_prior, Drifting, "Drifting: "),
    "addresses": (
        check_writer,
        lambda: Writer(wrong_addresses),
        r"Writer: expected shape of addresses \(3, 5, 6\).*found \(3, 6, 5\)",
    ),
    "mixed episodes": (
        check_writer,
        lambda: Writer(mixed_episodes),
        "Writer: expected the same result for an episode alone",
    ),
    "detached codes of a writer": (
        check_writer,
        lambda: Writer(detached_memory),
        "Writer: .*with respect to the codes; found none",
    ),
    "pooled particles": (
        check_reader,
        lambda: Reader(pooled),
        "Reader: expected each particle and episode to be read as if alone",
    ),
    "one particle": (
        check_reader,
        lambda: Reader(lambda z, m: (z, m[0] if m.dim() > 3 else m)),
        r"Reader: expected batch and event shape \(\(4, 3, 5\), \(6,\)\).*found \(\(3, 5\)",
    ),
    "detached codes of a reader": (
        check_reader,
        lambda: Reader(lambda z, m: (z.detach(), m)),
        "Reader: .*with respect to the codes",
    ),
    "unnormalized reader": (
        check_reader,
        lambda: UnnormalizedReader(0.2),
        r"q\(w\) of UnnormalizedReader: .*about exp\(0\.\d",
    ),
    "likelihood": (
        check_likelihood,
        lambda: lambda logits: Weighted(logits=logits),
        r"probability exp\(log_prob\).*the frequency",
    ),
    "a prior that samples": (
        check_memory_prior,
        lambda: lambda: dist.Normal(pyro.sample("loc", dist.Normal(torch.zeros(K, C), 1).to_event(2)), 1).to_event(2),
        r"samples the sites \['loc'\].*Sum the variable out",
    ),
    "a prior of atoms": (
        check_address_prior,
        lambda: dist.Delta(torch.randn(K), event_dim=1),
        "Delta: .*single values a positive probability",
    ),
    "a positive memory": (
        check_memory_prior,
        lambda: dist.HalfNormal(torch.ones(K, C)).to_event(2),
        "HalfNormal has the support .*all real matrices",
    ),
    "a prior that returns nothing": (check_address_prior, lambda: lambda: None, "prior returned None; expected a Pyro"),
    "a writer that returns a tuple": (
        check_writer,
        lambda: lambda codes, prior, scale: tuple(pk.OnlineWriter()(codes, prior, scale)[:2]),
        r"writer returned a tuple of \(MatrixNormal, Tensor\); expected a WriteResult.*Return WriteResult",
    ),
    "a writer that returns nothing": (check_writer, lambda: lambda *a: None, "writer returned None; expected a WriteR"),
    "a reader that returns a tensor": (
        check_reader,
        lambda: lambda codes, matrix, prior, scale: codes,
        r"reader returned a tensor of shape .*expected q\(w \| x, M\)",
    ),
    "a likelihood that returns a tensor": (
        check_likelihood,
        lambda: lambda output: output,
        "likelihood returned a tensor of shape .*Return a distribution of pyro.distributions",
    ),
    "a likelihood of torch": (
        check_likelihood,
        lambda: lambda output: torch.distributions.Normal(output, 1.0),
        "returned Normal of torch.distributions",
    ),
    "not a builder": (check_writer, pk.OnlineWriter(), r"OnlineWriter: expected build\(\), without arguments.*lambda"),
    "a builder of nothing": (check_reader, lambda: None, r"expected build\(\) to return a module.*found None"),
    "no builder": (check_reader, 3, "expected build, a callable without arguments; found an object of type int"),
    "likelihood of another shape": (
        check_likelihood,
        lambda: lambda output: dist.Normal(output[..., :2], 1.0),
        r"\(7, 3\); found \(7, 2\)",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_parts_are_caught(name):
    check, build, message = BROKEN[name]
    pyro.param("before", torch.ones(2))
    random = torch.get_rng_state()
    with pytest.raises(AssertionError, match=f"(?s){message}"):
        check(build)
    assert torch.equal(torch.get_rng_state(), random)
    assert set(pyro.get_param_store()) == {"before"}


def test_state_is_left_alone():
    random, parameter = torch.get_rng_state(), pyro.param("loc", torch.ones(2))
    check_address_prior(lambda: Prior())
    assert torch.equal(torch.get_rng_state(), random)
    assert list(pyro.get_param_store()) == ["loc"]
    assert pyro.param("loc") is parameter
