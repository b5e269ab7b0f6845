"""What many tests share: data files, random distributions, and small machines."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pyro_kanerva import GaussianMemory, KanervaMachine, MatrixNormal, MLPDecoder, MLPEncoder

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("PYRO_KANERVA_DATA", ROOT / ".." / "shared"))


def data_file(name: str) -> Path:
    """A file of the data folder, or a skip with the reason."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA.resolve()}; set PYRO_KANERVA_DATA to the folder that holds it")
    return path


def random_factor(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random lower Cholesky factor (*shape, shape[-1])."""
    size = shape[-1]
    noise = torch.randn(*shape, 2 * size, dtype=dtype)
    return torch.linalg.cholesky(noise @ noise.mT / (2 * size))


def random_memory(*batch: int, slots: int, size: int, dtype: torch.dtype = torch.float64) -> MatrixNormal:
    return MatrixNormal(torch.randn(*batch, slots, size, dtype=dtype), random_factor(*batch, slots, dtype=dtype))


def small_machine(event_shape=(1, 5, 7), slots=6, code_size=10, **options) -> KanervaMachine:
    """An untrained machine for small binary patterns, K = 6, C = 10; ``options`` are those of the machine."""
    options.setdefault("memory_prior", GaussianMemory(slots, code_size))
    return KanervaMachine(MLPEncoder(event_shape, code_size, 32), MLPDecoder(code_size, event_shape, 32), **options)
