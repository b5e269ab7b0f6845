"""The border of the memory algebra: autocast is for networks and is off here."""

import functools
import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution

P = ParamSpec("P")
R = TypeVar("R")


def autocast_off(like: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast on the device of ``like``: matrix products keep the dtype of their arguments."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` without autocast, on the device of its first argument that is a tensor or a distribution."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for argument in itertools.chain(args, kwargs.values()):
            if isinstance(argument, Tensor | Distribution):
                with autocast_off(argument if isinstance(argument, Tensor) else argument.loc):  # type: ignore[attr-defined]
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return call
