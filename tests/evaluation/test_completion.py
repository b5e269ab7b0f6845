"""Errors on hidden entries, with the memory of the patterns and with others."""

import pytest
import torch

from pyro_kanerva import Occlusion
from pyro_kanerva.evaluation import evaluate_completion


def test_completion(make_machine, patterns):
    hidden = torch.zeros(1, 5, 7, dtype=torch.bool)
    hidden[..., 4:] = True
    machine, occlusion = make_machine(), Occlusion(~hidden)
    torch.manual_seed(1)
    errors = evaluate_completion(machine, [patterns], occlusion, hidden, num_samples=4)
    torch.manual_seed(1)
    memory, cues = machine.write(patterns), occlusion(patterns)
    draws = memory.sample(cues, 4, burn_in=20, channel=occlusion, sample_memory=True).patterns
    other, empty = machine.write(patterns.roll(1, 0)), machine.prior_memory(3)
    expected = {
        "blank": cues,
        "query": memory.query(cues, channel=occlusion).patterns[-1],
        "mean of the chain": draws.mean(0) > 0.5,
        "query, other memory": other.query(cues, channel=occlusion).patterns[-1],
        "query, empty memory": empty.query(cues, channel=occlusion).patterns[-1],
    }
    assert list(errors) == list(expected)
    assert len(set(errors.values())) == 5
    for name, recalled in expected.items():
        wrong = recalled.float() != patterns
        assert not wrong[..., :4].any()  # visible entries are kept
        assert errors[name] == pytest.approx(wrong[..., 4:].double().mean().item())


def test_hidden_entries_are_recalled_from_visible_ones(slot_machine, separated):
    """With half of the entries visible they are found. With none visible the cue says nothing about its pattern."""
    errors = {}
    for number in (32, 64):
        hidden = torch.arange(64) < number
        errors[number] = evaluate_completion(slot_machine, [separated], Occlusion(~hidden), hidden, num_samples=5)
    for name in ("query", "mean of the chain"):
        assert errors[32][name] < 0.05
        assert errors[64][name] > 0.3


def test_a_single_episode_has_no_other_memory(make_machine, patterns):
    hidden = torch.arange(7) > 3
    with pytest.raises(ValueError, match=r"evaluate_completion\(\): batches have one episode in all"):
        evaluate_completion(make_machine(), [patterns[:1]], Occlusion(~hidden), hidden)


def test_single_episodes(make_machine, patterns):
    """Patterns (T,) + E are one episode."""
    machine, hidden = make_machine(), torch.arange(7) > 3
    results = []
    for batches in ([patterns[0], patterns[1]], [patterns[:1], patterns[1:2]]):
        torch.manual_seed(1)
        results.append(evaluate_completion(machine, batches, Occlusion(~hidden), hidden, num_samples=2))
    assert results[0] == results[1]
