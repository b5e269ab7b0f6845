"""Fixtures of the tests of recall and its control."""

import pytest
import torch
from helpers import Identity
from torch import Tensor

from pyro_kanerva import CategoricalAddress, GaussianMemory, KanervaMachine


@pytest.fixture
def slot_machine() -> KanervaMachine:
    """Ten slots, each of which holds a pattern of 64 entries as it is; ink where an entry exceeds 1/2."""
    return KanervaMachine(
        Identity(64),
        lambda codes: 10 * (codes - 0.5),
        memory_prior=GaussianMemory(10, 64, 1.0),
        address_prior=CategoricalAddress(10),
        code_scale=0.1,
    )


@pytest.fixture
def separated() -> Tensor:
    """Three episodes of 8 patterns that differ from each other in about half of their 64 entries."""
    return (torch.rand(3, 8, 64) < 0.5).float()
