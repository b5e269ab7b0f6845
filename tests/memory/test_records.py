"""Erasing undoes a write, merging adds writes up, in natural parameters."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pyro_kanerva import (
    AmortizedWriter,
    CategoricalAddress,
    FrameWriter,
    GaussianMemory,
    KanervaMachine,
    Memory,
    MLPEncoder,
    NormalLikelihood,
    OnlineWriter,
    RefinedWriter,
    SimplexAddress,
    SlotWriter,
)
from pyro_kanerva.conjugate import evidence, natural_parameters
from pyro_kanerva.evaluation import familiarity

K, C = 6, 8


class Identity:
    event_shape = (C,)

    def __call__(self, x):
        return x


def machine(scale=0.5, slots=K, **parts):
    parts.setdefault("memory_prior", GaussianMemory(slots, C, 1.0))
    return KanervaMachine(
        Identity(), Identity(), likelihood=NormalLikelihood(0.3, learned=False), code_scale=scale, **parts
    )


def same(one, other, tolerance=1e-4):
    """Mean and covariance, relative to the largest entry."""
    for left, right in ((one.loc, other.loc), (one.row_covariance, other.row_covariance)):
        assert (left - right).abs().max() <= tolerance * right.abs().max()


@given(
    scale=st.sampled_from([0.1, 0.5, 2.0]),
    lengths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    slots=st.integers(1, 9),
    writer=st.sampled_from([OnlineWriter(1), OnlineWriter(8, 1), OnlineWriter(3, 2)]),
)
def test_erasing_the_last_write_restores_the_memory(scale, lengths, slots, writer):
    built = machine(scale, slots, writer=writer)
    first = built.write(torch.randn(2, lengths[0], C))
    second = first.write(torch.randn(2, lengths[1], C))
    restored = second.erase(second.records[1])
    same(restored.posterior, first.posterior)
    assert restored.records == first.records


def test_erasing_an_earlier_write_leaves_the_evidence_of_the_others():
    built = machine()
    memory = built.write(torch.randn(1, 4, C)).write(torch.randn(1, 5, C)).write(torch.randn(1, 3, C))
    found = natural_parameters(memory.erase(memory.records[1]).posterior)
    prior = natural_parameters(built.memory_prior())
    parts = [
        evidence(record.addresses, record.codes, built.code_scale.detach(), record.address_scale_tril)
        for record in (memory.records[0], memory.records[2])
    ]
    for name in ("precision", "precision_loc"):
        expected = getattr(prior, name).detach() + sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-3, atol=1e-3)


def test_what_was_erased_is_no_longer_familiar():
    built = machine(0.3, 4)
    stored, erased, never = torch.randn(3, 40, 2, C)
    memory = built.write(stored).write(erased)
    assert (familiarity(memory, erased) > familiarity(memory, never)).float().mean() > 0.9
    after = memory.erase(memory.records[1])
    same(after.posterior, built.write(stored).posterior)
    torch.testing.assert_close(
        familiarity(after, erased), familiarity(built.write(stored), erased), rtol=1e-3, atol=1e-2
    )
    difference = familiarity(after, erased).mean() - familiarity(after, never).mean()
    spread = (familiarity(after, erased).var() + familiarity(after, never).var()).sqrt() / 80**0.5
    assert difference.abs() < 4 * spread  # as any other that was not stored


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"address_prior": SimplexAddress(K)},
        {"writer": AmortizedWriter(MLPEncoder((C,), K, 16))},
    ],
)
def test_merging_adds_up_evidence(parts):
    built = machine(**parts)
    memories = [built.write(torch.randn(2, length, C)) for length in (3, 5, 1)]
    merged = Memory.merge(memories)
    assert [record.codes.shape[1] for record in merged.records] == [3, 5, 1]
    same(Memory.merge(memories[::-1]).posterior, merged.posterior)
    same(Memory.merge(memories[:1]).posterior, memories[0].posterior)
    same(merged.erase(merged.records[1]).erase(merged.records[2]).posterior, memories[0].posterior)


def test_merging_is_writing_together_where_addresses_do_not_depend_on_the_memory():
    prior, x = GaussianMemory(K, C, 1.0), torch.randn(2, 9, C)
    for writer in (AmortizedWriter(MLPEncoder((C,), K, 16)), FrameWriter(prior)):
        built = machine(memory_prior=prior, writer=writer)
        together = built.write(x).posterior
        same(Memory.merge([built.write(x[:, :4]), built.write(x[:, 4:])]).posterior, together)
        same(built.write(x[:, 4:]).write(x[:, :4]).posterior, together)  # in any order
    built = machine(memory_prior=prior, writer=OnlineWriter(8))
    merged = Memory.merge([built.write(x[:, :4]), built.write(x[:, 4:])]).posterior
    assert (merged.loc - built.write(x[:, :4]).write(x[:, 4:]).posterior.loc).abs().max() > 0.1


def test_a_loaded_memory_can_be_erased(tmp_path):
    built = machine()
    first = built.write(torch.randn(1, 3, C))
    first.write(torch.randn(1, 2, C)).save(tmp_path / "memory.pt")
    loaded = Memory.load(tmp_path / "memory.pt", built)
    same(loaded.erase(loaded.records[-1]).posterior, first.posterior)


def test_errors():
    built = machine()
    memory, other = built.write(torch.randn(1, 3, C)), built.write(torch.randn(1, 3, C))
    with pytest.raises(ValueError, match="not one of this memory"):
        memory.erase(other.records[0])
    with pytest.raises(ValueError, match="no memories"):
        Memory.merge([])
    with pytest.raises(ValueError, match="different machines"):
        Memory.merge([memory, machine().write(torch.randn(1, 3, C))])
    with pytest.raises(ValueError, match="1 and 2 episodes"):
        Memory.merge([memory, built.write(torch.randn(2, 3, C))])


def test_a_memory_that_is_not_the_evidence_of_its_records_is_refused():
    soft = machine(scale=2.0, address_prior=CategoricalAddress(K)).write(torch.randn(1, 3, C))  # between slots
    refined = machine(writer=RefinedWriter(OnlineWriter(8, 1))).write(torch.randn(1, 3, C))
    built = machine()
    elsewhere = Memory(built, built.write(torch.randn(1, 4, C)).posterior, (C,)).write(torch.randn(1, 3, C))
    stale = machine()
    trained = stale.write(torch.randn(1, 3, C))
    with torch.no_grad():
        stale.memory_prior.loc.add_(0.1)
    for memory in (soft, refined, elsewhere, trained):
        for call in (
            lambda memory=memory: memory.erase(memory.records[0]),
            lambda memory=memory: Memory.merge([memory]),
        ):
            with pytest.raises(ValueError, match=r"not the memory prior with the evidence .*Write the patterns"):
                call()


def test_slots_that_are_certain_can_be_erased():
    """One-hot addresses add evidence up as others do."""
    codes = 10 * torch.eye(C)[:4].unsqueeze(0)
    built = machine(
        scale=0.1, address_prior=CategoricalAddress(K), memory_prior=GaussianMemory(K, C, 3.0), writer=SlotWriter(3)
    )
    memory = built.write(codes[:, :2]).write(codes[:, 2:])
    same(memory.erase(memory.records[1]).posterior, built.write(codes[:, :2]).posterior, 1e-3)


def test_a_memory_from_anywhere_can_be_written_to():
    """Also one without records, whose posterior is not the machine's prior."""
    built, x = machine(), torch.randn(1, 3, C)
    start = built.write(torch.randn(1, 4, C))
    same(Memory(built, start.posterior, (C,)).write(x).posterior, start.write(x).posterior)
