"""Checks of numbers, shared by all folders."""

from numbers import Integral, Real

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
        try:
            number = torch.as_tensor(value)
        except (RuntimeError, TypeError, ValueError):
            number = torch.tensor(torch.nan)
        if not bool(((number > 0) & number.isfinite()).all()):
            raise ValueError(f"{owner}: {name} is {value}; expected a positive number.")


def check_scale(owner: str, **scales: Tensor | float) -> None:
    """:raises ValueError: if a scale is not positive, or so small that its square underflows in densities."""
    check_positive(owner, **scales)
    least = torch.finfo(torch.get_default_dtype()).eps ** 2
    for name, scale in scales.items():
        if bool((torch.as_tensor(scale) < least).any()):
            raise ValueError(
                f"{owner}: {name} is {scale}; expected at least {least:.1g}, because its square underflows in "
                f"{torch.get_default_dtype()}. Multiply the patterns by a large number, or use a larger scale."
            )


def check_at_least(owner: str, least: int, **counts: int) -> None:
    """:raises ValueError: if one of ``counts`` is below ``least``."""
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < least:
            raise ValueError(f"{owner}: {name} is {count}; expected at least {least}.")


def describe(value: object) -> str:
    """What ``value`` is, for messages: its type, and the shape of a tensor."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        layout = "" if value.layout == torch.strided else f", layout {str(value.layout).removeprefix('torch.')}"
        return f"a tensor of shape {tuple(value.shape)}" + layout
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


def check_dense(label: str, value: object, *dtypes: torch.dtype) -> None:
    """:raises ValueError: if ``value`` is no dense tensor of real numbers, of one of ``dtypes`` if there are some."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        raise ValueError(
            f"{label} is {describe(value)}; expected a dense tensor. Convert it with torch.as_tensor() or .to_dense()."
        )
    if value.dtype not in dtypes if dtypes else value.is_complex() or value.dtype == torch.bool:
        wanted = " or ".join(str(dtype) for dtype in dtypes) or "real numbers"
        raise ValueError(f"{label} has dtype {value.dtype}; expected {wanted}. Convert it with .to(dtype).")


def check_type(label: str, value: object, kind: type, remedy: str) -> None:
    """:raises ValueError: if ``value`` is not an object of the class ``kind``."""
    if not isinstance(value, kind):
        raise ValueError(f"{label} is {describe(value)}; expected {remedy}.")


def check_number(label: str, value: object, expected: str) -> None:
    """:raises ValueError: if ``value`` is no number."""
    if not isinstance(value, Real):
        raise ValueError(f"{label} is {describe(value)}; expected {expected}.")
