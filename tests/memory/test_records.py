"""Erasing a record, or a part of it, undoes its write. Merging memories adds the statistics of their records."""

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


# ---------------------------------------------------------------------- some patterns of a write


@pytest.fixture(params=["points", "one covariance", "mixture"])
def written(request, float64):
    """A memory of two writes into two episodes, in float64. The records of all but one hold a covariance."""
    parts = {
        "points": {"writer": OnlineWriter(2)},
        "one covariance": {"writer": OnlineWriter(2, 1)},
        "mixture": {"address_prior": MixtureAddress(K, 0.1)},
    }[request.param]
    machine = linear_machine(K, C, 0.3, **parts).double()
    return machine.write(torch.randn(2, 5, C)).write(torch.randn(2, 3, C))


def from_scratch(memory, keep):
    """The prior plus the statistics of single patterns: those of the first record that ``keep`` (B, T) marks, and all
    of the second. By inversion in natural parameters.
    """
    prior = natural_parameters(memory.machine.memory_prior())
    first, second = memory.records
    variance = memory.machine.code_scale.detach() ** 2
    locs, covariances = [], []
    for episode in range(2):
        precision, information = prior.precision.detach(), prior.precision_loc.detach()
        for record, kept in ((first, keep[episode]), (second, torch.ones(3, dtype=torch.bool))):
            for t in kept.nonzero().flatten().tolist():
                w, z, factor = record.addresses[episode, t], record.codes[episode, t], record.address_scale_tril
                spread = 0 if factor is None else factor[episode] @ factor[episode].mT
                precision = precision + (w.outer(w) + spread) / variance
                information = information + w.outer(z) / variance
        covariances.append(torch.linalg.inv(precision))
        locs.append(covariances[-1] @ information)
    return torch.stack(locs), torch.stack(covariances)


@pytest.mark.parametrize(
    "index",
    [
        3,
        -1,
        [0, 4],
        torch.tensor([2, 2, 1]),
        [],
        torch.tensor([True, False, False, True, False]),
        torch.tensor([[True, False, False, True, False], [False, True, True, False, False]]),
    ],
    ids=["one", "the last", "two", "one of them twice", "none", "a mask", "a mask for each episode"],
)
def test_erasing_patterns_is_writing_the_others_at_their_addresses(written, index):
    keep = torch.ones(2, 5, dtype=torch.bool)
    if isinstance(index, torch.Tensor) and index.dtype == torch.bool:
        keep &= ~index
    else:
        keep[:, index] = False
    after = written.erase(written.records[0], index)
    loc, covariance = from_scratch(written, keep)
    torch.testing.assert_close(after.posterior.loc, loc, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(after.posterior.row_covariance, covariance, rtol=1e-9, atol=1e-9)
    first, second = after.records
    assert torch.equal(first.codes.flatten(0, 1), written.records[0].codes[keep])
    assert second is written.records[1]
    assert len(after) == int(keep[0].sum()) + 3


@given(
    length=st.integers(1, 7),
    slots=st.integers(1, 7),
    scale=st.sampled_from([0.1, 0.5, 2.0]),
    sweeps=st.integers(0, 2),
    data=st.data(),
)
def test_erasing_one_by_one_in_any_order_gives_the_prior(length, slots, scale, sweeps, data):
    machine = linear_machine(slots, C, scale, writer=OnlineWriter(3, sweeps)).double()
    memory = machine.write(torch.randn(2, length, C, dtype=torch.float64))
    for left in range(length, 0, -1):
        assert len(memory) == left
        memory = memory.erase(memory.records[0], data.draw(st.integers(0, left - 1)))
    assert memory.records == ()
    assert_close_posteriors(memory.posterior, machine.prior_memory(2).posterior, 1e-12)


def test_what_was_erased_by_index_is_no_longer_familiar():
    machine = linear_machine(8, C, 0.3)
    patterns = torch.randn(40, 4, C)
    memory = machine.write(patterns)
    change = familiarity(memory.erase(memory.records[0], 2), patterns) - familiarity(memory, patterns)
    assert change[:, 2].median() < -1
    assert change[:, [0, 1, 3]].median() > change[:, 2].median() + 1


def test_a_pattern_of_a_stream_cannot_be_erased():
    memory = linear_machine(K, C).write(torch.randn(3, 1, 4, C).unbind())
    with pytest.raises(
        ValueError, match=r"StreamRecord, which keeps the sum.*erase\(record\), or write the patterns as"
    ):
        memory.erase(memory.records[0], 0)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (5, r"index is 5; expected 0 to 4"),
        ([0, -6], r"index is \[0, -6\]; expected 0 to 4"),
        (1.0, r"index has dtype torch.float32 .*; expected an integer, a list"),
        (torch.zeros(2, 1, dtype=torch.int64), r"shape \(2, 1\); expected an integer, a list or vector"),
        (True, r"mask of shape \(\); expected \(5,\) or \(2, 5\)"),
        (torch.ones(4, dtype=torch.bool), r"mask of shape \(4,\); expected \(5,\) or \(2, 5\)"),
        (torch.eye(5)[:2].cumsum(0) > 0, r"leaves \[4, 3\] patterns in the episodes; expected equal numbers"),
    ],
)
def test_an_index_that_does_not_fit(index, message):
    memory = linear_machine(K, C).write(torch.randn(2, 5, C))
    with pytest.raises(ValueError, match=message):
        memory.erase(memory.records[0], index)


# ---------------------------------------------------------------------- names and labels


def test_names_and_labels_stay_with_their_patterns(tmp_path):
    machine = linear_machine(K, C)
    labels = torch.arange(10).view(2, 5)
    memory = machine.write(torch.randn(2, 5, C), name="monday", labels=labels)
    labels += 100  # the record keeps a copy
    memory = memory.write(torch.randn(2, 3, C), name="tuesday", labels=torch.tensor([7.5, 8.5, 9.5])).write(
        iter([torch.randn(2, 3, C)]), name="stream"
    )
    memory.save(tmp_path / "memory.pt")
    for found in (memory, Memory.load(tmp_path / "memory.pt", machine)):
        assert [record.name for record in found.records] == ["monday", "tuesday", "stream"]
        assert found.record("tuesday") is found.records[1]
        assert torch.equal(found.record("monday").labels, torch.arange(10).view(2, 5))
        assert torch.equal(found.record("tuesday").labels, torch.tensor([[7.5, 8.5, 9.5]] * 2))
        mask = torch.tensor([[True, False, False, False, True], [False, True, True, False, False]])
        smaller = found.erase(found.record("monday"), mask)
        assert smaller.record("monday").labels.tolist() == [[1, 2, 3], [5, 8, 9]]
        assert [record.name for record in smaller.erase(smaller.record("tuesday")).records] == ["monday", "stream"]


def test_a_name_of_no_record_or_several():
    memory = linear_machine(K, C).write(torch.randn(1, 3, C), name="one").write(torch.randn(1, 3, C))
    with pytest.raises(ValueError, match=r"0 records have the name 'two'; expected one. The names are \['one', None\]"):
        memory.record("two")
    with pytest.raises(ValueError, match="2 records have the name 'one'"):
        memory.write(torch.randn(1, 3, C), name="one").record("one")


def test_names_and_labels_that_do_not_fit():
    machine, patterns = linear_machine(K, C), torch.randn(2, 3, C)
    for options, message in [
        ({"labels": torch.zeros(4)}, r"labels are \(4,\); expected a tensor of shape \(2, 3\) or \(3,\)"),
        ({"labels": [1, 2, 3]}, "labels are list; expected a tensor"),
        ({"name": 3}, "name is a int; expected a string"),
    ]:
        with pytest.raises(ValueError, match=message):
            machine.write(patterns, **options)
    with pytest.raises(ValueError, match="labels with a stream"):
        machine.write(iter([patterns]), labels=torch.zeros(3))


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


def test_a_write_is_not_merged_twice():
    machine = linear_machine(K, C)
    memory = machine.write(torch.randn(1, 3, C))
    one, two = memory.write(torch.randn(1, 2, C)), memory.write(torch.randn(1, 2, C))
    for memories in ([memory, memory], [memory, one], [one, two]):
        with pytest.raises(ValueError, match="a record occurs twice, and its patterns would count twice"):
            Memory.merge(memories)
    assert len(Memory.merge([one, two.erase(memory.records[0])])) == 7


def test_one_of_two_equal_records_is_erased():
    machine = linear_machine(K, C)
    memory = machine.write(torch.randn(1, 3, C))
    (record,) = memory.records
    twice = memory._with_records([record, record])
    assert_close_posteriors(twice.erase(record).posterior, memory.posterior)
    assert len(twice.erase(record)) == 3
    assert len(twice.erase(record, 0)) == 5
