"""The level of the damage that a query estimates."""

import pytest
import torch
from helpers import linear_machine

import pyro_kanerva as pk


@pytest.fixture(scope="module")
def letters():
    """The memory of 32 letters, and the letters."""
    machine = pk.pretrained("letters")
    patterns = pk.Episodes(pk.glyphs("test"), episode_length=32, batch_size=2)[0]
    return machine.write(patterns), patterns


@pytest.mark.parametrize("level", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("energy", [pk.PointEnergy(), pk.VariationalEnergy(4)])
def test_the_estimate_is_near_the_level_of_the_damage(letters, level, energy):
    """784 pixels tell the share of flipped ones to 0.02, and so the level to 0.04; recall adds errors of its own."""
    memory, patterns = letters
    cues = pk.SaltAndPepper(level)(patterns, torch.Generator().manual_seed(1))
    retrieval = memory.query(cues, channel=pk.UnknownLevel(pk.SaltAndPepper(0.2)), energy=energy)
    assert retrieval.level.shape == (2, 32)
    flipped = 2 * (cues != patterns).float().mean((-3, -2, -1))
    assert (retrieval.level - flipped).abs().median() < 0.02
    assert abs(retrieval.level.mean() - level) < 0.03


def test_the_last_energy_is_that_of_the_level(letters):
    memory, patterns = letters
    cues = pk.Flip(0.2)(patterns, torch.Generator().manual_seed(1))
    retrieval = memory.query(cues, num_steps=3, channel=pk.UnknownLevel(pk.Flip(0.1)))
    known = pk.Flip(retrieval.level.reshape(2, 32, 1, 1, 1))
    torch.testing.assert_close(memory.energy(retrieval.address[-1], cues, channel=known), retrieval.energy[-1])


def test_other_channels_have_no_level(letters):
    memory, patterns = letters
    mask = torch.arange(28) < 14
    inside = pk.Where(mask, pk.UnknownLevel(pk.Flip(0.1)), pk.Flip(0.2))
    for channel in (None, pk.SaltAndPepper(0.2), inside):
        assert memory.query(patterns, num_steps=1, channel=channel).level is None


def test_gaussian_noise_and_hidden_entries():
    """The level is the scale, and comes from the observed entries alone."""
    machine = linear_machine(3, 200, 0.05)
    patterns = machine.prior_memory().generate(5)
    memory = machine.write(patterns)
    cues = pk.GaussianNoise(0.3)(patterns)
    hidden = torch.arange(200) < 100
    cues = torch.where(hidden, 50.0, cues)
    channel = pk.UnknownLevel(pk.GaussianNoise(0.1))
    retrieval = memory.query(cues, num_steps=100, channel=channel, observed=~hidden)
    assert (retrieval.level - 0.3).abs().max() < 6 * 0.3 / (2 * 100) ** 0.5
