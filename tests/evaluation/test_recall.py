"""Recall error, of damaged cues and of cues with hidden entries."""

import pytest
import torch

from pyro_kanerva import Flip, Occlusion, evaluation
from pyro_kanerva.evaluation import entry_error, evaluate_completion, evaluate_recall, recall_error


def test_entry_error_of_iterates(patterns):
    other = patterns.clone()
    other[0, 0, 0, 0, :3] = 1 - other[0, 0, 0, 0, :3]
    torch.testing.assert_close(entry_error(other, patterns), torch.tensor([3 / 280, 0, 0], dtype=torch.float64))
    assert entry_error(torch.stack((other, patterns)), patterns).shape == (2, 3)


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


def test_a_query_without_steps(make_machine, patterns):
    error = recall_error(patterns, make_machine().write(patterns).query(patterns, num_steps=0))
    assert error.errors.shape == (3, 1)
    assert not error.num_steps.any()


def test_completion(make_machine, patterns):
    hidden = torch.zeros(1, 5, 7, dtype=torch.bool)
    hidden[..., 4:] = True
    machine, occlusion = make_machine(), Occlusion(~hidden)
    torch.manual_seed(1)
    errors = evaluate_completion(machine, [patterns], occlusion, hidden, num_samples=4)
    assert set(errors) == {"blank", "query", "mean of the chain"}
    torch.manual_seed(1)
    memory, cues = machine.write(patterns), occlusion(patterns)
    draws = memory.sample(cues, 4, burn_in=20, channel=occlusion, sample_memory=True).patterns
    query = memory.query(cues, channel=occlusion).patterns[-1]
    for value, recalled in zip(errors.values(), (cues, query, draws.mean(0) > 0.5), strict=True):
        wrong = recalled.float() != patterns
        assert not wrong[..., :4].any()  # visible entries are kept
        assert value == pytest.approx(wrong[..., 4:].double().mean().item())


def test_single_episode(make_machine, patterns):
    """Patterns (T,) + E are one episode."""
    machine, hidden = make_machine(), torch.arange(7) > 3
    recalls = [evaluate_recall(machine, [x], Flip(0.1), channel=None, num_steps=2) for x in (patterns[0], patterns[:1])]
    assert torch.equal(recalls[0].errors, recalls[1].errors)
    assert recalls[0].errors.shape == (1, 3)
    completions = []
    for x in (patterns[0], patterns[:1]):
        torch.manual_seed(1)
        completions.append(evaluate_completion(machine, [x], Occlusion(~hidden), hidden, num_samples=2))
    assert completions[0] == completions[1]


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
        lambda m: evaluate_completion(m, [], Occlusion(torch.tensor([False])), torch.tensor([True])),
        lambda m: evaluation.evaluate_baselines(m, [], Flip(0.1), 0.1),
        lambda m: evaluation.evaluate_basins(m, [], [0.1]),
    ],
)
def test_no_batches(make_machine, evaluate):
    with pytest.raises(ValueError, match=r"evaluate_\w+\(\): batches is empty; expected at least one batch"):
        evaluate(make_machine())


def test_errors_name_the_evaluation(make_machine, patterns):
    for change, message in ((lambda x: 0.3 * x, "entries other than 0 and 1"), (lambda x: x[:, :0], "an empty batch")):
        for evaluate in (
            lambda m, x: evaluate_recall(m, [x], Flip(0.1), channel=None),
            lambda m, x: evaluation.evaluate_baselines(m, [x], Flip(0.1), 0.1),
            lambda m, x: evaluation.evaluate_basins(m, [x], [0.1]),
            lambda m, x: evaluation.evaluate_recognition(m, [x]),
        ):
            with pytest.raises(ValueError, match=rf"^evaluate_\w+\(\): patterns have .*{message}"):
                evaluate(make_machine(), change(patterns))
