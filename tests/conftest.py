"""Shared fixtures; see helpers.py for shared functions."""

import sys
from collections.abc import Callable

import numpy as np
import pyro
import pytest
import torch
from helpers import data_file, small_machine
from hypothesis import settings
from torch import Tensor

from pyro_kanerva import KanervaMachine

torch.set_num_threads(1)  # the matrices here are small: threads would only wait for each other
settings.register_profile("project", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def _clean_state():
    """Every test starts from one seed and an empty parameter store, and closes its figures."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def float64():
    """Whatever a test makes is in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def make_machine() -> Callable[..., KanervaMachine]:
    """A small untrained machine for binary patterns (1, 5, 7), K = 6, C = 10."""
    return small_machine


@pytest.fixture
def patterns() -> Tensor:
    """Binary patterns, 3 episodes of 8."""
    return (torch.rand(3, 8, 1, 5, 7) < 0.3).float()


@pytest.fixture(scope="session")
def omniglot() -> Tensor:
    """All Omniglot images, uint8 (N, 28, 28)."""
    return torch.from_numpy(np.load(data_file("data/omniglot_28x28.npz"))["images"])
