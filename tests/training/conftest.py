"""Fixtures of the tests of training."""

import pytest
import torch

from pyro_kanerva import Episodes


@pytest.fixture
def episodes() -> Episodes:
    """Batches of 4 episodes of 5 binary patterns."""
    return Episodes((torch.rand(40, 1, 5, 7) < 0.3).float(), 5, 4, seed=3)
