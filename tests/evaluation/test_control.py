"""The control of recall: right, other and empty memories."""

import math

import pytest
import torch

from pyro_kanerva import Flip, FrameWriter, GaussianMemory, KanervaMachine
from pyro_kanerva.evaluation import (
    RecallControl,
    RecallError,
    control_memories,
    evaluate_recall,
    evaluate_recall_control,
    recall_error,
)

NOISE = Flip(0.2)


def test_the_memory_that_holds_the_patterns_restores_them(slot_machine, separated):
    """The decoder alone cannot: all patterns are equally likely."""
    control = evaluate_recall_control(slot_machine, [separated], NOISE, channel=NOISE)
    right, other, empty = (error.steps[-1] for error in control)
    assert control.right.cue == pytest.approx(0.2, abs=0.02)
    assert right < 0.02
    assert other > 0.15
    assert empty > 0.15
    assert control.gain > 3


def test_without_codes_there_is_no_gain(slot_machine, separated):
    """A machine whose encoder ignores the patterns writes the same into every memory."""
    slot_machine.encoder = lambda x: torch.zeros_like(x)
    control = evaluate_recall_control(slot_machine, [separated], NOISE, channel=NOISE)
    assert torch.equal(control.right.errors, control.other.errors)
    assert control.gain == pytest.approx(1, abs=0.05)


def error_of(*steps):
    return RecallError(torch.tensor([steps, steps], dtype=torch.float64), 1.0, torch.zeros(2))


@pytest.mark.parametrize(
    ("right", "empty", "gain"), [(0.1, 0.3, 3.0), (0.2, 0.1, 0.5), (0.0, 0.1, math.inf), (0.0, 0.0, 1.0)]
)
def test_gain(right, empty, gain):
    control = RecallControl(error_of(0.4, 0.9, right), error_of(0.4, 0.9, 0.9), error_of(0.4, 0.8, empty))
    assert control.gain == pytest.approx(gain)


def test_gain_is_a_ratio_of_means():
    right = RecallError(torch.tensor([[0.5, 0.0], [0.5, 0.2]]), 1.0, torch.zeros(2))
    empty = RecallError(torch.tensor([[0.5, 0.1], [0.5, 0.4]]), 1.0, torch.zeros(2))
    assert RecallControl(right, right, empty).gain == pytest.approx(2.5)


@pytest.mark.parametrize("channel", [None, NOISE], ids=str)
def test_right_is_evaluate_recall(make_machine, patterns, channel):
    machine, batches = make_machine(), [patterns, patterns[:2]]
    options = {"channel": channel, "num_steps": 3, "seed": 5, "entries": torch.arange(7) > 2}
    control = evaluate_recall_control(machine, batches, NOISE, **options)
    recall = evaluate_recall(machine, batches, NOISE, **options)
    assert torch.equal(control.right.errors, recall.errors)
    assert torch.equal(control.right.num_steps, recall.num_steps)
    assert control.right.never_rose == recall.never_rose == 1
    assert [error.errors.shape for error in control] == [(5, 4)] * 3


def test_the_cues_are_the_same(make_machine, patterns):
    """Those of evaluate_recall(), made once for each batch."""
    made = []

    def damage(patterns, generator=None):
        made.append(NOISE(patterns, generator))
        return made[-1]

    machine = make_machine()
    control = evaluate_recall_control(machine, [patterns, patterns], damage, channel=NOISE, num_steps=2)
    assert len(made) == 2
    assert not torch.equal(*made)
    evaluate_recall(machine, [patterns, patterns], damage, channel=NOISE, num_steps=2)
    assert torch.equal(torch.stack(made[:2]), torch.stack(made[2:]))
    other, empty = machine.write(patterns.roll(1, 0)), machine.prior_memory(3)
    for memory, found in ((other, control.other), (empty, control.empty)):
        expected = [recall_error(patterns, memory.query(cues, num_steps=2, channel=NOISE)).errors for cues in made[:2]]
        torch.testing.assert_close(found.errors, torch.cat(expected))
    assert torch.equal(control.right.errors[:, 0], control.empty.errors[:, 0])
    assert not torch.equal(control.right.errors, control.other.errors)


def test_each_memory_is_written_once(make_machine, patterns, monkeypatch):
    written, write = [], KanervaMachine.write
    monkeypatch.setattr(KanervaMachine, "write", lambda machine, x: written.append(x) or write(machine, x))
    evaluate_recall_control(make_machine(), [patterns, patterns[:1]], NOISE, channel=None, num_steps=1)
    assert [len(x) for x in written] == [3, 1]


def means(memories):
    return torch.cat([memory.posterior.loc for memory in memories])


def test_other_memories(make_machine, patterns):
    """The episode before in the batch; for batches of one episode, the last episode of the batch before."""
    machine = make_machine()
    expected = machine.write(patterns.roll(1, 0))
    for batches in ([patterns], list(patterns.split(1)), list(patterns)):
        right, other, empty = zip(*control_memories(machine, batches), strict=True)
        torch.testing.assert_close(means(other), expected.posterior.loc)
        assert torch.equal(means(right), torch.cat([machine.write(batch).posterior.loc for batch in batches]))
        assert torch.equal(means(empty), machine.prior_memory(3).posterior.loc)
    first, second = control_memories(machine, [patterns[:2], patterns[2:]])
    torch.testing.assert_close(first.other.posterior.loc, means([first.right]).flip(0))
    assert torch.equal(second.other.posterior.loc, first.right.posterior.loc[1:])


def test_other_memories_keep_their_uncertainty(make_machine, patterns):
    """Also where all episodes share one covariance."""
    prior = GaussianMemory(6, 10)
    for machine in (make_machine(), make_machine(memory_prior=prior, writer=FrameWriter(prior))):
        (memories,) = control_memories(machine, [patterns])
        expected = machine.write(patterns.roll(1, 0)).posterior
        torch.testing.assert_close(memories.other.posterior.row_covariance, expected.row_covariance.expand(3, 6, 6))
        assert memories.other.posterior.sample().shape == memories.empty.posterior.sample().shape == (3, 6, 10)


def test_training_leaves_the_empty_memory_as_it_is(make_machine, patterns):
    machine = make_machine()
    (memories,) = control_memories(machine, [patterns])
    before = memories.empty.posterior.loc.clone()
    with torch.no_grad():
        for parameter in machine.memory_prior.parameters():
            parameter.add_(1.0)
    assert torch.equal(memories.empty.posterior.loc, before)


def test_encoders_that_do_not_state_a_shape(slot_machine, separated):
    slot_machine.encoder = lambda x: x
    control = evaluate_recall_control(slot_machine, [separated], NOISE, channel=NOISE, num_steps=1)
    assert control.empty.errors.shape == (3, 2)


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda machine, x: evaluate_recall_control(machine, [x], NOISE, channel=None),
        lambda machine, x: control_memories(machine, [x]),
    ],
)
def test_a_single_episode_has_no_other_memory(make_machine, patterns, evaluate):
    for single in (patterns[:1], patterns[0]):
        with pytest.raises(ValueError, match=r"\w+\(\): batches have one episode in all; expected at least 2"):
            evaluate(make_machine(), single)
