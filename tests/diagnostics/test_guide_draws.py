"""Draws from the guide, and what they ask of guide and model."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import known_memory_machine, linear_machine

from pyro_kanerva import KanervaMachine
from pyro_kanerva.diagnostics import guide_data, guide_draws, importance_weights

SLOTS, SIZE, NOISE = 3, 4, 0.6


def test_chunks_hold_all_samples(monkeypatch):
    machine, _ = known_memory_machine(SLOTS, SIZE, NOISE)
    patterns = torch.randn(2, 5, SIZE, dtype=torch.float64)
    monkeypatch.setattr(guide_draws, "_ENTRIES", 4 * 2 * 5 * (SLOTS + SIZE))
    sizes = [len(draws.log_weights) for draws in guide_draws.guide_draws(machine, patterns, 10, "")]
    assert sizes == [4, 4, 2]
    log_weights = importance_weights(machine, patterns, 10)
    assert log_weights.shape == (10, 2)
    assert guide_data(machine, patterns, 20).posterior["address"].shape == (4, 5, 2, 5, SLOTS)


class OnlyInTheModel(KanervaMachine):
    """The model has a site that the guide has not."""

    @property
    def model(self):
        def program(patterns):
            pyro.sample("extra", dist.Normal(0.0, 1.0))
            super(OnlyInTheModel, self).model(patterns)

        return program


class OutsideThePlates(OnlyInTheModel):
    """Model and guide have a site that all episodes share."""

    @property
    def guide(self):
        def program(patterns):
            pyro.sample("extra", dist.Normal(0.0, 1.0))
            super(OutsideThePlates, self).guide(patterns)

        return program


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        (OnlyInTheModel, r"guide samples the sites \['address', 'memory'\], the model .*'extra'"),
        (OutsideThePlates, r'site "extra" .* inside the plate "episode"'),
    ],
)
def test_sites_that_do_not_fit(machine, message):
    with pytest.raises(ValueError, match=rf"importance_weights\(\): .*{message}"):
        importance_weights(linear_machine(SLOTS, SIZE, NOISE, machine=machine), torch.randn(2, 5, SIZE), 3)
