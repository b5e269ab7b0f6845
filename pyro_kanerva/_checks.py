"""Checks of numbers, shared by all folders."""

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
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


def describe(value: object) -> str:
    """What ``value`` is, for messages: its type, and the shape of a tensor."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if type(value) in (tuple, list):
        return f"a {type(value).__name__} of ({', '.join(type(part).__name__ for part in value)})"  # type: ignore[attr-defined]
    return f"an object of type {type(value).__name__}"


def kind_of(distribution: torch.distributions.Distribution) -> str:
    """The class of a distribution, without the wrapper that declares event dimensions."""
    entries = distribution.base_dist if isinstance(distribution, torch.distributions.Independent) else distribution
    return type(entries).__name__


def check_distribution(label: str, value: object, expected: str) -> None:
    """Check that ``value``, which ``label`` returned, is a distribution of Pyro.

    :raises ValueError: if it is something else.
    """
    if isinstance(value, torch.distributions.Distribution) and not isinstance(value, TorchDistributionMixin):
        raise ValueError(
            f"{label} returned {type(value).__name__} of torch.distributions; expected {expected}. Take the "
            "distribution of this name in pyro.distributions, or derive yours from its TorchDistribution."
        )
    if not isinstance(value, TorchDistributionMixin):
        raise ValueError(
            f"{label} returned {describe(value)}; expected {expected}. Return a distribution of pyro.distributions."
        )


def check_tensor(label: str, value: object, expected: str) -> None:
    """:raises ValueError: if ``value``, which ``label`` returned, is no tensor."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{label} returned {describe(value)}; expected {expected}.")
