"""Machines with swapped parts: each combination works, or says what is wrong."""

import pyro.distributions as dist
import pytest
import torch
from helpers import assert_bound_agrees, linear_machine
from pyro.infer import Trace_ELBO

from pyro_kanerva import (
    CategoricalAddress,
    GaussianAddress,
    GaussianMemory,
    LaplaceAddress,
    MatrixNormal,
    Memory,
    PseudoInverseWriter,
    ScalarReader,
    SlotWriter,
    StudentTAddress,
)
from pyro_kanerva.evaluation import familiarity

K, C = 4, 5


def machine(**parts):
    parts.setdefault("memory_prior", GaussianMemory(K, C, 1.0))
    return linear_machine(K, C, 0.3, **parts)


def test_a_writer_that_starts_anew_does_not_continue():
    built = machine(writer=PseudoInverseWriter(K))
    memory = built.write(torch.randn(1, 3, C))
    with pytest.raises(ValueError, match=r"PseudoInverseWriter starts anew .*would lose.*OnlineWriter"):
        memory.write(torch.randn(1, 3, C))
    machine().write(torch.randn(1, 3, C)).write(torch.randn(1, 3, C))  # the default writer does


def test_familiarity_does_not_depend_on_the_reader():
    prior, x = GaussianMemory(K, C, 1.0), torch.randn(1, 3, C)
    scores = [
        familiarity(built.write(x), x)
        for built in (machine(memory_prior=prior), machine(memory_prior=prior, reader=ScalarReader(0.05)))
    ]
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize("positive", [False, True])
def test_a_mixture_of_addresses(positive):
    component = dist.Gamma if positive else dist.Normal
    which = dist.Categorical(torch.ones(K, 2))
    prior = dist.MixtureSameFamily(which, component(torch.full((K, 2), 2.0), torch.tensor([0.3, 2.0]))).to_event(1)
    built = machine(address_prior=prior)
    x = torch.randn(2, 6, C)
    assert_bound_agrees(built, x.repeat(20, 1, 1), [Trace_ELBO])
    assert (built.write(x).query(x).energy.diff(dim=0) <= 0).all()


@pytest.mark.parametrize(
    "prior",
    [
        dist.Dirichlet(torch.ones(K)),
        dist.Gamma(torch.full((K,), 2.0), torch.ones(K)).to_event(1),
        dist.LowRankMultivariateNormal(torch.zeros(K), torch.ones(K, 1), torch.ones(K)),
    ],
)
def test_inference_mode(prior):
    built, x = machine(address_prior=prior), torch.randn(1, 4, C)
    memory = built.write(x)
    expected = memory.read(x)
    with torch.inference_mode():
        torch.testing.assert_close(built.write(x).read(x), expected)
        assert built.bound(x).bound.isfinite().all()


def test_a_memory_of_another_address_prior_is_refused(tmp_path):
    prior = GaussianMemory(K, C, 1.0)
    machine(memory_prior=prior, address_prior=CategoricalAddress(K)).write(torch.randn(1, 3, C)).save(tmp_path / "m.pt")
    Memory.load(tmp_path / "m.pt", machine(memory_prior=prior, address_prior=CategoricalAddress(K)))
    for other in (GaussianAddress(K), LaplaceAddress(K)):
        with pytest.raises(ValueError, match="other parameters"):
            Memory.load(tmp_path / "m.pt", machine(memory_prior=prior, address_prior=other))
    machine(memory_prior=prior, address_prior=StudentTAddress(K, df=3)).write(torch.randn(1, 3, C)).save(
        tmp_path / "m.pt"
    )
    with pytest.raises(ValueError, match="other parameters"):
        Memory.load(tmp_path / "m.pt", machine(memory_prior=prior, address_prior=StudentTAddress(K, df=4)))


def test_slots_that_are_not_equally_likely():
    """The default writer knows the prior: two equal slots, of which one is rare, and a code between them."""
    prior = dist.OneHotCategorical(torch.tensor([0.9, 0.1]))
    built = machine(memory_prior=MatrixNormal(torch.eye(2, C), torch.eye(2)), address_prior=prior)
    code = torch.tensor([0.5, 0.5, 0, 0, 0]).expand(1, 1, C)
    torch.testing.assert_close(
        SlotWriter(0, prior)(code, built.memory_prior, torch.tensor(1.0)).addresses[0, 0], prior.probs
    )
    assert built.write(code).records[0].addresses[0, 0, 0] > 0.9
