"""Erasing a record undoes its write. Merging memories adds the statistics of their records."""

import pytest
import torch
from helpers import assert_close_posteriors, linear_machine, natural_parameters
from hypothesis import given
from hypothesis import strategies as st

from pyro_kanerva import (
    AmortizedWriter,
    CategoricalAddress,
    FrameWriter,
    GaussianMemory,
    Memory,
    MixtureAddress,
    MLPEncoder,
    OnlineWriter,
    PseudoInverseWriter,
    SimplexAddress,
    SlotWriter,
)
from pyro_kanerva.evaluation import familiarity

K, C = 6, 8


@given(
    scale=st.sampled_from([0.1, 0.5, 2.0]),
    lengths=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    slots=st.integers(1, 9),
    writer=st.sampled_from([OnlineWriter(1), OnlineWriter(8, 1), OnlineWriter(3, 2)]),
)
def test_erasing_the_last_write_restores_the_memory(scale, lengths, slots, writer):
    machine = linear_machine(slots, C, scale, writer=writer)
    first = machine.write(torch.randn(2, lengths[0], C))
    second = first.write(torch.randn(2, lengths[1], C))
    restored = second.erase(second.records[1])
    assert_close_posteriors(restored.posterior, first.posterior)
    assert restored.records == first.records


def test_erasing_an_earlier_write_leaves_the_statistics_of_the_others():
    machine = linear_machine(K, C)
    memory = machine.write(torch.randn(1, 4, C)).write(torch.randn(1, 5, C)).write(torch.randn(1, 3, C))
    found = natural_parameters(memory.erase(memory.records[1]).posterior)
    prior = natural_parameters(machine.memory_prior())
    parts = [record.statistics(machine.code_scale.detach()) for record in (memory.records[0], memory.records[2])]
    for name in ("precision", "precision_loc"):
        expected = getattr(prior, name).detach() + sum(getattr(part, name) for part in parts)
        torch.testing.assert_close(getattr(found, name).double(), expected, rtol=1e-3, atol=1e-3)


def test_what_was_erased_is_no_longer_familiar():
    machine = linear_machine(4, C, 0.3)
    stored, erased, never = torch.randn(3, 40, 2, C)
    memory = machine.write(stored).write(erased)
    assert (familiarity(memory, erased) > familiarity(memory, never)).float().mean() > 0.9
    after = memory.erase(memory.records[1])
    without = machine.write(stored)
    assert_close_posteriors(after.posterior, without.posterior)
    torch.testing.assert_close(familiarity(after, erased), familiarity(without, erased), rtol=1e-3, atol=1e-2)
    difference = familiarity(after, erased).mean() - familiarity(after, never).mean()
    spread = (familiarity(after, erased).var() + familiarity(after, never).var()).sqrt() / 80**0.5
    assert difference.abs() < 4 * spread  # as familiar as what was never stored


@pytest.mark.parametrize(
    "parts",
    [{}, {"address_prior": SimplexAddress(K)}, {"writer": AmortizedWriter(MLPEncoder((C,), K, 16))}],
    ids=["default", "simplex", "amortized"],
)
def test_merging_adds_up_statistics(parts):
    machine = linear_machine(K, C, **parts)
    memories = [machine.write(torch.randn(2, length, C)) for length in (3, 5, 1)]
    merged = Memory.merge(memories)
    assert [record.num_patterns for record in merged.records] == [3, 5, 1]
    assert_close_posteriors(Memory.merge(memories[::-1]).posterior, merged.posterior)
    assert_close_posteriors(Memory.merge(memories[:1]).posterior, memories[0].posterior)
    rest = merged.erase(merged.records[1]).erase(merged.records[2])
    assert_close_posteriors(rest.posterior, memories[0].posterior)


def test_merging_is_writing_together_where_addresses_do_not_depend_on_the_memory():
    prior, x = GaussianMemory(K, C, 1.0), torch.randn(2, 9, C)
    for writer in (AmortizedWriter(MLPEncoder((C,), K, 16)), FrameWriter(prior)):
        machine = linear_machine(K, C, memory_prior=prior, writer=writer)
        together = machine.write(x).posterior
        parts = machine.write(x[:, :4]), machine.write(x[:, 4:])
        assert_close_posteriors(Memory.merge(parts).posterior, together)
        assert_close_posteriors(parts[1].write(x[:, :4]).posterior, together)  # in any order
    machine = linear_machine(K, C, memory_prior=prior, writer=OnlineWriter(8))
    parts = machine.write(x[:, :4]), machine.write(x[:, 4:])
    one_after_the_other = parts[0].write(x[:, 4:])
    assert (Memory.merge(parts).posterior.loc - one_after_the_other.posterior.loc).abs().max() > 0.1


@pytest.mark.parametrize("scale", [0.01, 0.3])
@pytest.mark.parametrize("noise", [0.1, 2.0])
def test_gaussians_around_slots_can_be_erased(scale, noise):
    """Also patterns between the slots: the record holds the covariance of their addresses, unlike that of one-hot ones.

    The tolerance is that of float32, where the condition number of the memory is up to 1e5.
    """
    machine = linear_machine(K, C, noise, address_prior=MixtureAddress(K, scale))
    first = machine.write(torch.randn(2, 4, C))
    second = first.write(torch.randn(2, 9, C))
    assert all(record.address_scale_tril is not None for record in second.records)
    restored = second.erase(second.records[1])
    assert_close_posteriors(restored.posterior, first.posterior, 1e-3)
    prior, sigma = natural_parameters(machine.memory_prior()), machine.code_scale.detach()
    parts = [record.statistics(sigma) for record in second.records]
    found = natural_parameters(second.posterior)
    for name in ("precision", "precision_loc"):
        expected = getattr(prior, name).detach() + sum(getattr(part, name) for part in parts)
        assert (getattr(found, name) - expected).abs().max() < 1e-3 * expected.abs().max()
    merged = Memory.merge([first, machine.write(torch.randn(2, 3, C))])
    assert_close_posteriors(merged.erase(merged.records[1]).posterior, first.posterior, 1e-3)


def test_gaussians_around_slots_are_erased_to_the_last_digits_in_float64():
    machine = linear_machine(K, C, 0.3, address_prior=MixtureAddress(K, 0.1)).double()
    first = machine.write(torch.randn(2, 4, C, dtype=torch.float64))
    second = first.write(torch.randn(2, 9, C, dtype=torch.float64))
    assert_close_posteriors(second.erase(second.records[1]).posterior, first.posterior, 1e-9)
    without_first = second.erase(second.records[0])
    assert (without_first.posterior.loc - second.posterior.loc).abs().max() > 0.01


def test_a_loaded_memory_can_be_erased(tmp_path):
    machine = linear_machine(K, C)
    first = machine.write(torch.randn(1, 3, C))
    first.write(torch.randn(1, 2, C)).save(tmp_path / "memory.pt")
    loaded = Memory.load(tmp_path / "memory.pt", machine)
    assert_close_posteriors(loaded.erase(loaded.records[-1]).posterior, first.posterior)


def test_errors():
    machine = linear_machine(K, C)
    memory, other = machine.write(torch.randn(1, 3, C)), machine.write(torch.randn(1, 3, C))
    with pytest.raises(ValueError, match="not one of this memory"):
        memory.erase(other.records[0])
    with pytest.raises(ValueError, match="no memories"):
        Memory.merge([])
    with pytest.raises(ValueError, match="different machines"):
        Memory.merge([memory, linear_machine(K, C).write(torch.randn(1, 3, C))])
    with pytest.raises(ValueError, match="1 and 2 episodes"):
        Memory.merge([memory, machine.write(torch.randn(2, 3, C))])


def soft_slots():
    """Patterns between the slots: the writer's weights are not one-hot."""
    return linear_machine(K, C, 2.0, address_prior=CategoricalAddress(K)).write(torch.randn(1, 3, C))


def another_writer():
    """A writer that does not add statistics to the prior."""
    return linear_machine(K, C, writer=PseudoInverseWriter(K)).write(torch.randn(1, 3, C))


def another_start():
    """The memory did not start from the prior of its machine."""
    machine = linear_machine(K, C)
    return Memory(machine, machine.write(torch.randn(1, 4, C)).posterior, (C,)).write(torch.randn(1, 3, C))


def trained_since():
    machine = linear_machine(K, C)
    memory = machine.write(torch.randn(1, 3, C))
    with torch.no_grad():
        machine.memory_prior.loc.add_(0.1)
    return memory


@pytest.mark.parametrize("make", [soft_slots, another_writer, another_start, trained_since])
def test_a_memory_that_its_records_do_not_account_for_is_refused(make):
    memory = make()
    for call in (lambda: memory.erase(memory.records[0]), lambda: Memory.merge([memory])):
        with pytest.raises(ValueError, match=r"not the memory prior plus the statistics .*Write the patterns"):
            call()


def test_slots_that_are_certain_can_be_erased():
    """One-hot addresses add up statistics, as others do."""
    codes = 10 * torch.eye(C)[:4].unsqueeze(0)
    machine = linear_machine(
        K, C, 0.1, address_prior=CategoricalAddress(K), memory_prior=GaussianMemory(K, C, 3.0), writer=SlotWriter(3)
    )
    first = machine.write(codes[:, :2])
    memory = first.write(codes[:, 2:])
    assert_close_posteriors(memory.erase(memory.records[1]).posterior, first.posterior, 1e-3)
