"""Shared fixtures. Data that is not part of the project is looked for in PYRO_KANERVA_DATA or ../shared."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
from hypothesis import settings
from torch import Tensor

from pyro_kanerva import GaussianMemory, KanervaMachine, MatrixNormal, MLPDecoder, MLPEncoder

torch.set_num_threads(1)  # the matrices here are small: threads would only wait for each other
settings.register_profile("project", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("project")

DATA = Path(os.environ.get("PYRO_KANERVA_DATA", Path(__file__).parents[1] / ".." / "shared"))


def data_file(name: str) -> Path:
    """A file of the data folder, or a skip with the reason."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA.resolve()}; set PYRO_KANERVA_DATA to the folder that holds it")
    return path


@pytest.fixture(autouse=True)
def _clean_state():
    """Every test starts from one seed and an empty parameter store."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    yield
    pyro.clear_param_store()


@pytest.fixture
def float64():
    """Whatever a test makes is in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def random_factor(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random lower Cholesky factor (*shape, shape[-1])."""
    size = shape[-1]
    noise = torch.randn(*shape, 2 * size, dtype=dtype)
    return torch.linalg.cholesky(noise @ noise.mT / (2 * size))


def random_memory(*batch: int, slots: int, size: int, dtype: torch.dtype = torch.float64) -> MatrixNormal:
    return MatrixNormal(torch.randn(*batch, slots, size, dtype=dtype), random_factor(*batch, slots, dtype=dtype))


@pytest.fixture
def make_machine() -> Callable[..., KanervaMachine]:
    """A small untrained machine for binary patterns (1, 5, 7), K = 6, C = 10."""

    def make(event_shape=(1, 5, 7), slots=6, code_size=10, **options) -> KanervaMachine:
        options.setdefault("memory_prior", GaussianMemory(slots, code_size))
        return KanervaMachine(MLPEncoder(event_shape, code_size, 32), MLPDecoder(code_size, event_shape, 32), **options)

    return make


@pytest.fixture
def patterns() -> Tensor:
    """Binary patterns, 3 episodes of 8."""
    return (torch.rand(3, 8, 1, 5, 7) < 0.3).float()


@pytest.fixture(scope="session")
def omniglot() -> Tensor:
    """All Omniglot images, uint8 (N, 28, 28)."""
    return torch.from_numpy(np.load(data_file("data/omniglot_28x28.npz"))["images"])
