"""Recall error of damaged cues."""

import pytest
import torch
from helpers import small_machine

from pyro_kanerva import (
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    Flip,
    GaussianNoise,
    NormalLikelihood,
    Occlusion,
    Replace,
    VariationalEnergy,
    evaluation,
)
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation import entry_error, evaluate_recall, recall_error
from pyro_kanerva.evaluation.recall import recall_errors
from pyro_kanerva.retrieval import Retrieval


def test_entry_error_of_iterates(patterns):
    other = patterns.clone()
    other[0, 0, 0, 0, :3] = 1 - other[0, 0, 0, 0, :3]
    torch.testing.assert_close(entry_error(other, patterns), torch.tensor([3 / 280, 0, 0], dtype=torch.float64))
    assert entry_error(torch.stack((other, patterns)), patterns).shape == (2, 3)
    first_row = torch.zeros(1, 5, 7, dtype=torch.bool)
    first_row[:, 0] = True
    errors = entry_error(torch.stack((other, patterns)), patterns, first_row)
    torch.testing.assert_close(errors, torch.tensor([[3 / 56, 0, 0], [0, 0, 0]], dtype=torch.float64))
    assert not entry_error(other, patterns, torch.arange(7) > 2).any()  # broadcast along the rows


def test_recall_error(make_machine, patterns):
    memory = make_machine().write(patterns)
    cues = Flip(0.2)(patterns)
    retrieval = memory.query(cues, num_steps=4, channel=Flip(0.2))
    error = recall_error(patterns, retrieval)
    wrong = (retrieval.patterns != patterns).double().flatten(2).mean(-1)  # (S + 1, B)
    torch.testing.assert_close(error.errors, wrong.mT)
    assert error.cue == pytest.approx(wrong[0].mean().item())
    assert error.steps == pytest.approx(wrong[1:].mean(-1).tolist())
    assert error.never_rose == 1
    for episode in range(3):
        steps = []
        for cue in range(8):
            track = retrieval.patterns[:, episode, cue]
            steps.append(max((n for n in range(1, 5) if not torch.equal(track[n], track[n - 1])), default=0))
        assert error.num_steps[episode].item() == pytest.approx(sum(steps) / 8)


def test_the_error_of_real_patterns_is_the_rmse():
    """By hand; that of whole numbers is the share of wrong entries."""
    patterns = torch.rand(2, 3, 4) + 0.25
    recalled = patterns.clone()
    recalled[0, 1, 2] += 0.6
    expected = torch.tensor([(0.36 / 12) ** 0.5, 0.0], dtype=torch.float64)
    torch.testing.assert_close(entry_error(recalled, patterns), expected, rtol=1e-5, atol=1e-7)
    entries = torch.arange(4) == 2
    torch.testing.assert_close(entry_error(recalled, patterns, entries), 2 * expected, rtol=1e-5, atol=1e-7)
    classes = torch.randint(0, 5, (2, 3, 4))
    other = classes.clone()
    other[1, 0, 0] += 3
    assert entry_error(other, classes).tolist() == pytest.approx([0, 1 / 12])
    assert entry_error(other, classes, metric="RMSE").tolist() == pytest.approx([0, (9 / 12) ** 0.5])


def test_the_likelihood_decides_how_recall_is_measured():
    """Black and white images under a likelihood of levels are real patterns; classes are not."""
    noise, binary = GaussianNoise(0.3), (torch.rand(2, 4, 1, 5, 7) < 0.3).float()
    machine = small_machine(likelihood=DiscretizedLogisticLikelihood())
    error = evaluate_recall(machine, [binary, binary], noise, channel=noise, num_steps=1)
    assert error.metric == "RMSE"
    assert error.cue == pytest.approx(0.3, abs=0.05)
    machine = small_machine((6,), likelihood=NormalLikelihood())
    control = evaluation.evaluate_recall_control(machine, [torch.randn(2, 4, 6)], noise, channel=noise, num_steps=1)
    assert {part.metric for part in control} == {"RMSE"}
    assert f"RecallError(2 episodes, RMSE: cue {control.right.cue:.4f}, step 1 " in repr(control)
    assert control.right.cue == pytest.approx(0.3, abs=0.1)
    machine = small_machine((6,), output_shape=(6, 3), likelihood=CategoricalLikelihood(3))
    error = evaluate_recall(machine, [torch.randint(0, 3, (2, 4, 6))], Replace(0.3, 3), channel=None, num_steps=1)
    assert error.metric == "wrong entries"
    assert error.cue == pytest.approx(0.2, abs=0.15)


def test_evaluate_recall_is_seeded_and_goes_over_all_batches(make_machine, patterns):
    machine = make_machine()
    torch.manual_seed(1)
    one = evaluate_recall(machine, [patterns, patterns[:1]], Flip(0.2), channel=None, num_steps=2, seed=3)
    torch.manual_seed(2)
    other = evaluate_recall(machine, [patterns, patterns[:1]], Flip(0.2), channel=None, num_steps=2, seed=3)
    assert torch.equal(one.errors, other.errors)
    assert one.errors.shape == (4, 3)
    assert one.num_steps.shape == (4,)
    assert not torch.equal(
        one.errors,
        evaluate_recall(machine, [patterns, patterns[:1]], Flip(0.2), channel=None, num_steps=2, seed=4).errors,
    )


def test_the_share_of_queries_whose_energy_never_rose(make_machine, patterns):
    """Over batches of 1 and 3 episodes of 4 queries, of which 2 and 3 rise. No query of a memory does."""

    class Rising:
        machine = make_machine()

        def __init__(self, number):
            self.number = number

        def query(self, cues, **options):
            rise = torch.zeros(cues.shape[:2])
            rise.view(-1)[: self.number] = 1.0
            energy = torch.stack([torch.zeros_like(rise), rise])
            return Retrieval(torch.stack([cues, cues]), energy, energy.unsqueeze(-1), rise.bool())

    batches = [(patterns[:size, :4], [Rising(number)]) for size, number in ((1, 2), (3, 3))]
    (error,) = recall_errors(batches, Flip(0.2), None)
    assert error.never_rose == pytest.approx(11 / 16)


def test_a_query_without_steps(make_machine, patterns):
    error = recall_error(patterns, make_machine().write(patterns).query(patterns, num_steps=0))
    assert error.errors.shape == (3, 1)
    assert not error.num_steps.any()


def test_evaluate_recall_passes_the_energy_on(make_machine, patterns):
    machine, energy = make_machine(), VariationalEnergy(2)
    generator = torch.Generator().manual_seed(derive_seed(0, 0))
    cues = Flip(0.2)(patterns, generator)
    found = evaluate_recall(machine, [patterns], Flip(0.2), channel=Flip(0.2), num_steps=3, energy=energy)
    expected = machine.write(patterns).query(cues, num_steps=3, channel=Flip(0.2), energy=energy)
    assert torch.equal(found.errors, recall_error(patterns, expected).errors)
    point = evaluate_recall(machine, [patterns], Flip(0.2), channel=Flip(0.2), num_steps=3)
    assert not torch.equal(found.errors, point.errors)


def test_evaluate_recall_of_some_entries(make_machine, patterns):
    """Visible entries of an occluded cue are kept: all errors are of the hidden ones."""
    machine, hidden = make_machine(), torch.arange(7) > 3
    occlusion = Occlusion(~hidden)
    errors = [
        evaluate_recall(machine, [patterns], occlusion, channel=occlusion, num_steps=2, entries=entries).errors
        for entries in (hidden, ~hidden, None)
    ]
    assert not errors[1].any()
    assert errors[0].all()
    torch.testing.assert_close(errors[0], errors[2] * 7 / 3)


def test_single_episode(make_machine, patterns):
    """Patterns (T,) + E are one episode."""
    machine = make_machine()
    recalls = [evaluate_recall(machine, [x], Flip(0.1), channel=None, num_steps=2) for x in (patterns[0], patterns[:1])]
    assert torch.equal(recalls[0].errors, recalls[1].errors)
    assert recalls[0].errors.shape == (1, 3)


def test_errors(make_machine, patterns):
    machine = make_machine()
    with pytest.raises(ValueError, match=r"evaluate_recall\(\): batches is empty"):
        evaluate_recall(machine, [], Flip(0.1), channel=None)
    message = r"recall_error\(\): patterns have shape \(8, 1, 5, 7\); expected that of the retrieval's cues"
    with pytest.raises(ValueError, match=message):
        recall_error(patterns[0], machine.write(patterns).query(patterns, num_steps=0))


@pytest.mark.parametrize(
    "evaluate",
    [
        lambda m: evaluation.evaluate_completion(m, [], Occlusion(torch.tensor([False])), torch.tensor([True])),
        lambda m: evaluation.evaluate_recall_control(m, [], Flip(0.1), channel=None),
        lambda m: evaluation.control_memories(m, []),
        lambda m: evaluation.evaluate_baselines(m, [], Flip(0.1), 0.1),
        lambda m: evaluation.evaluate_basins(m, [], [0.1]),
    ],
)
def test_no_batches(make_machine, evaluate):
    with pytest.raises(ValueError, match=r"\w+\(\): batches is empty; expected at least one batch"):
        evaluate(make_machine())


def test_errors_name_the_evaluation(make_machine, patterns):
    for change, message in ((lambda x: 0.3 * x, "entries other than 0 and 1"), (lambda x: x[:, :0], "an empty batch")):
        for evaluate in (
            lambda m, x: evaluate_recall(m, [x], Flip(0.1), channel=None),
            lambda m, x: evaluation.evaluate_recall_control(m, [x], Flip(0.1), channel=None),
            lambda m, x: evaluation.evaluate_baselines(m, [x], Flip(0.1), 0.1),
            lambda m, x: evaluation.evaluate_basins(m, [x], [0.1]),
            lambda m, x: evaluation.evaluate_recognition(m, [x]),
        ):
            with pytest.raises(ValueError, match=rf"^evaluate_\w+\(\): patterns have .*{message}"):
                evaluate(make_machine(), change(patterns))


def test_patterns_that_do_not_fit(patterns):
    """One episode is not compared with all of several."""
    for recalled, stored in ((patterns[:1], patterns), (patterns, patterns[:1]), (patterns[:, :0], patterns[:, :0])):
        with pytest.raises(ValueError, match=r"entry_error\(\): recalled has shape .* with at least one pattern"):
            entry_error(recalled, stored)
    with pytest.raises(ValueError, match="entries has no True"):
        entry_error(patterns, patterns, torch.zeros(1, 5, 7, dtype=torch.bool))
