"""Checks of numbers, shared by all folders."""

import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor


def checks_values() -> bool:
    """True if values should be checked: Pyro's validation is on and torch.jit is not tracing.

    A check would become a constant of the trace.
    """
    return is_validation_enabled() and not torch.jit.is_tracing()


def check_positive(owner: str, **values: Tensor | float) -> None:
    """:raises ValueError: if one of ``values`` is not a finite positive number, or a tensor of such numbers."""
    for name, value in values.items():
        number = torch.as_tensor(value)
        if not bool(((number > 0) & number.isfinite()).all()):
            raise ValueError(f"{owner}: {name} is {value}; expected a positive number.")


def check_at_least(owner: str, least: int, **counts: int) -> None:
    """:raises ValueError: if one of ``counts`` is below ``least``."""
    for name, count in counts.items():
        if not count >= least:
            raise ValueError(f"{owner}: {name} is {count}; expected at least {least}.")
