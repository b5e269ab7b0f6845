"""The battery for a whole machine."""

import pytest
import torch
from helpers import UnnormalizedReader
from torch import nn

import pyro_kanerva as pk
from pyro_kanerva import testing
from pyro_kanerva.testing import check_machine

K, C = 6, 10


def machine(make=pk.KanervaMachine, **parts):
    parts.setdefault("memory_prior", pk.GaussianMemory(K, C))
    parts = {"encoder": pk.MLPEncoder((3,), C, 16), "decoder": pk.MLPDecoder(C, (3,), 16)} | parts
    return make(**parts)


@pytest.mark.parametrize("make", [pk.KanervaMachine, pk.kanerva_2018])
def test_machines_of_the_library(make):
    check_machine(lambda: machine(make))


class CenteredReader(pk.ExactReader):
    """A reader in which the particles depend on each other."""

    def forward(self, codes, matrix, address_prior, code_scale):
        matrix = matrix - matrix.mean(0) if matrix.dim() > 3 else matrix
        return super().forward(codes, matrix, address_prior, code_scale)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: machine(reader=CenteredReader()), "one loss from particles vectorized and from particles one by one"),
        (lambda: machine(reader=UnnormalizedReader(0.7)), "the same evidence from guide and prior"),
        (
            lambda: pk.KanervaMachine(nn.Linear(3, C), nn.Linear(C, 3), memory_prior=pk.GaussianMemory(K, C)),
            "event_shape",
        ),
        (
            lambda: machine(encoder=type("Pair", (), {"event_shape": (3,), "__call__": lambda self, x: (x, x)})()),
            r"encoder returned a tuple of \(Tensor, Tensor\); expected a tensor",
        ),
        (lambda: machine(decoder=lambda z: None), "decoder returned None; expected a tensor"),
        (lambda: machine(code_posterior=lambda z: z), "code_posterior returned a tensor"),
    ],
    ids=["particles", "guide", "no event shape", "encoder", "decoder", "code posterior"],
)
def test_broken_machines_are_caught(build, message):
    random = torch.get_rng_state()
    with pytest.raises(AssertionError, match=message):
        check_machine(build)
    assert torch.equal(torch.get_rng_state(), random)


def test_a_bound_of_another_value(monkeypatch):
    """``bound`` with several particles is compared with the ELBO."""
    bound = pk.KanervaMachine.bound
    monkeypatch.setattr(
        pk.KanervaMachine,
        "bound",
        lambda self, patterns, num_particles=1: pk.Bound(
            *(num_particles**0.1 * term for term in bound(self, patterns, num_particles))
        ),
    )
    with pytest.raises(AssertionError, match="one loss from bound"):
        check_machine(machine)


def test_a_bound_above_the_evidence(monkeypatch):
    """Without the identity, the inequality alone finds a guide whose density is too small."""
    monkeypatch.setattr(testing.machine, "check_equal_means", lambda *arguments: None)
    with pytest.raises(AssertionError, match=r"a bound below the log evidence; found -?\d.* above -\d"):
        check_machine(lambda: machine(reader=UnnormalizedReader(-6.0)))
