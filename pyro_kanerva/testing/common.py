"""Helpers of the checks: fail with a message, compare samples, and restore global state."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import describe


def check(condition: object, name: str, expected: str, found: object, remedy: str) -> None:
    if not condition:
        raise AssertionError(f"{name}: expected {expected}; found {found}. {remedy}")


def name_of(part: object) -> str:
    return getattr(part, "__name__", type(part).__name__)


def new_part(build: Callable[[], Any]) -> Any:
    """What ``build`` returns, which must be a distribution, or can be called."""
    remedy = "Pass a function that builds the part, for example lambda: MyPart(...)."
    check(callable(build), name_of(build), "build, a callable without arguments", describe(build), remedy)
    try:
        part = build()
    except TypeError as error:
        raise AssertionError(
            f"{name_of(build)}: expected build(), without arguments, to return a new part; found {error}. {remedy}"
        ) from error
    is_part = callable(part) or isinstance(part, torch.distributions.Distribution)
    check(is_part, name_of(build), "build() to return a module, a function or a distribution", describe(part), remedy)
    return part


@contextmanager
def refused(name: str) -> Iterator[None]:
    """Report what a machine says of a part as a failure of the part ``name``."""
    try:
        yield
    except ValueError as error:
        raise AssertionError(f"{name}: expected a part that a machine takes; found an error. {error}") from error


@contextmanager
def isolated() -> Iterator[None]:
    """A fixed seed and an empty parameter store; restores the caller's random state and store afterwards."""
    with torch.random.fork_rng(range(torch.cuda.device_count())), pyro.get_param_store().scope():
        torch.manual_seed(0)
        yield


def check_equal_means(name: str, what: str, one: Tensor, other: Tensor, remedy: str) -> None:
    """Check that two independent samples have equal means over dim 0, within 6 standard errors."""
    error = (one.var(0) / len(one) + other.var(0) / len(other)).sqrt()
    score = ((one.mean(0) - other.mean(0)).abs() / error.clamp_min(torch.finfo(one.dtype).tiny)).nan_to_num(torch.inf)
    worst = int(score.argmax())  # of all entries: a NaN counts as infinitely different
    found = f"means {one.mean(0).flatten()[worst]:.4g} and {other.mean(0).flatten()[worst]:.4g}"
    check(score.max() < 6, name, f"{what} (within 6 standard errors)", f"{found}, {score.max():.1f} apart", remedy)


def effective(weights: Tensor) -> float:
    """The effective sample size of ``weights``, ``(sum w)^2 / sum w^2``."""
    return float(weights.sum() ** 2 / weights.square().sum().clamp_min(torch.finfo(weights.dtype).tiny))


def has_float_tensors(part: object) -> bool:
    """True if ``part`` is a module with tensors that ``module.double()`` converts."""
    tensors = [*part.parameters(), *part.buffers()] if isinstance(part, nn.Module) else []
    return any(tensor.is_floating_point() for tensor in tensors)


CONSTANTS = "Make constants with the dtype and device of a parameter, buffer or argument."


@contextmanager
def converted(name: str) -> Iterator[None]:
    """Report errors as a failure of the part ``name`` to work in float64."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise AssertionError(f"{name}: expected float64 to work; found {error}. {CONSTANTS}") from error


def in_float64(part: Any) -> Any:
    """A copy of a module in float64; other parts unchanged."""
    return copy.deepcopy(part).double() if isinstance(part, nn.Module) else part
