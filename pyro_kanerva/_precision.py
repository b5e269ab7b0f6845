"""The border of the memory algebra: autocast is for networks and is off here."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def autocast_off(like: Tensor) -> AbstractContextManager[Any]:
    """A context without autocast on the device of ``like``: matrix products keep the dtype of their arguments."""
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` without autocast, on the device of its first argument that is a tensor or has a ``loc``."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for argument in (*args, *kwargs.values()):
            like = argument if isinstance(argument, Tensor) else getattr(argument, "loc", None)
            if isinstance(like, Tensor):
                with autocast_off(like):
                    return function(*args, **kwargs)
        return function(*args, **kwargs)

    return call
