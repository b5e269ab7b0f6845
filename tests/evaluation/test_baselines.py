"""The baselines of recall, against their definitions."""

import math

import pytest
import torch

from pyro_kanerva import Flip
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation import autoencoder, evaluate_baselines, hopfield, nearest_pattern


def binary(*shape, dtype=torch.float64):
    return (torch.rand(shape) < 0.5).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_pattern(dtype):
    stored, cues = binary(2, 6, 3, 5, dtype=dtype), binary(2, 4, 3, 5, dtype=dtype)
    found = nearest_pattern(stored, cues)
    assert found.shape == cues.shape
    assert found.dtype == dtype
    distance = (cues.unsqueeze(2) != stored.unsqueeze(1)).flatten(3).sum(-1)  # (B, Q, T)
    assert torch.equal((found != cues).flatten(2).sum(-1), distance.amin(-1))
    for b in range(2):
        for q in range(4):
            assert any(torch.equal(found[b, q], pattern) for pattern in stored[b])


def test_nearest_pattern_mends_few_flips():
    stored = torch.eye(8).repeat_interleave(8, -1).unsqueeze(0).double()  # pairs of patterns differ in 16 entries
    cues = stored.clone()
    cues[..., :7] = 1 - cues[..., :7]
    assert torch.equal(nearest_pattern(stored, cues), stored)


def test_hopfield_recalls_a_single_pattern():
    """From any cue."""
    stored = binary(2, 1, 3, 5)
    for num_steps in (1, 3):
        assert torch.equal(hopfield(stored, binary(2, 4, 3, 5), 0.3, num_steps), stored.expand(2, 4, 3, 5))


@pytest.mark.parametrize("flip_probability", [0.05, 0.2, 0.45])
def test_hopfield_is_the_posterior_over_the_stored_patterns(flip_probability):
    """By brute force: the likelihood of a stored pattern is that of the flips; an entry is its posterior's mode."""
    stored, cues = binary(2, 5, 7), binary(2, 6, 7)
    differ = (cues.unsqueeze(2) != stored.unsqueeze(1)).sum(-1)  # (B, Q, T)
    likelihood = flip_probability**differ * (1 - flip_probability) ** (7 - differ)
    posterior = likelihood / likelihood.sum(-1, keepdim=True)
    mean = (posterior.unsqueeze(-1) * stored.unsqueeze(1)).sum(2)
    clear = (mean - 0.5).abs() > 1e-9  # elsewhere rounding decides the sign
    assert torch.equal(hopfield(stored, cues, flip_probability)[clear], (mean > 0.5).double()[clear])


def test_steps_of_hopfield_are_repeated():
    stored, cues = binary(2, 5, 20), binary(2, 6, 20)
    once = hopfield(stored, cues, 0.3)
    assert torch.equal(hopfield(stored, once, 0.3), hopfield(stored, cues, 0.3, num_steps=2))
    assert torch.equal(hopfield(stored, cues, 0.3, num_steps=0), cues)


def test_hopfield_mends_flips():
    stored = binary(2, 5, 1, 8, 8)
    cues = Flip(0.1)(stored)
    assert not torch.equal(cues, stored)
    assert torch.equal(hopfield(stored, cues, 0.1), stored)
    assert torch.equal(nearest_pattern(stored, cues), stored)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.9, -0.1, math.nan])
def test_bad_flip_probability(value):
    with pytest.raises(
        ValueError, match=rf"hopfield\(\): flip_probability is {value}; expected a number in \(0, 1/2\)"
    ):
        hopfield(binary(1, 2, 3), binary(1, 2, 3), value)


def test_autoencoder(make_machine, patterns):
    machine = make_machine()
    recalled = autoencoder(machine, patterns[:, :5])
    assert recalled.shape == (3, 5, 1, 5, 7)
    assert recalled.dtype == patterns.dtype
    assert not recalled.requires_grad
    logits = machine.decoder(machine.encoder(patterns[:, :5].flatten(0, 1))).view(3, 5, 1, 5, 7)
    assert torch.equal(recalled, (logits > 0).float())


def test_autoencoder_of_other_patterns(make_machine):
    with pytest.raises(ValueError, match="The encoder failed on a tensor of shape"):
        autoencoder(make_machine(), torch.zeros(1, 2, 1, 5, 6))


def test_errors_of_all_baselines(make_machine, patterns):
    errors = evaluate_baselines(make_machine(), [patterns], Flip(0.05), 0.05)
    assert len(errors) == 5
    assert errors["nearest stored pattern"] < 0.02  # 35 entries tell 8 patterns apart
    assert errors["Hopfield network, all patterns"] < 0.02
    assert errors["Hopfield network, as large as the memory (1 patterns)"] > 0.1  # 60 floats hold one of 35 entries


def test_a_hopfield_network_as_large_as_the_memory(make_machine, patterns):
    """12 x 10 numbers are as many as 3 patterns of 35 entries have."""
    machine = make_machine(slots=12)
    errors = evaluate_baselines(machine, [patterns], Flip(0.05), 0.05, seed=2)
    cues = Flip(0.05)(patterns, torch.Generator().manual_seed(derive_seed(2, 0)))
    expected = (hopfield(patterns[:, :3], cues, 0.05) != patterns).double().mean().item()
    assert errors["Hopfield network, as large as the memory (3 patterns)"] == pytest.approx(expected)


def test_single_episode(make_machine, patterns):
    """Patterns (T,) + E are one episode."""
    machine = make_machine()
    single, batch = (evaluate_baselines(machine, [x], Flip(0.05), 0.05) for x in (patterns[0], patterns[:1]))
    assert single == batch
