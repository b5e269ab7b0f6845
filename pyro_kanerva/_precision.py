"""Autocast is for networks: the algebra keeps the precision of the machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_suspended: ContextVar[tuple[str, torch.dtype] | None] = ContextVar("suspended autocast", default=None)


def full_precision(method: Callable[P, R]) -> Callable[P, R]:
    """``method`` without autocast, which :func:`run_network` turns on again.

    Its first argument is a machine, what has one, or a distribution with a ``loc``.
    """

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        owner: Any = args[0]
        owner = getattr(owner, "machine", owner)
        device = (owner.loc if hasattr(owner, "loc") else owner.log_code_scale).device.type
        if not torch.is_autocast_enabled(device):
            return method(*args, **kwargs)
        token = _suspended.set((device, torch.get_autocast_dtype(device)))
        try:
            with torch.autocast(device, enabled=False):
                return method(*args, **kwargs)
        finally:
            _suspended.reset(token)

    return call


def full_precision_backward(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward of an autograd function without autocast, where that is on around it."""

    @functools.wraps(backward)
    def call(ctx: Any, gradient: Tensor, *gradients: Tensor) -> Any:
        with torch.autocast(gradient.device.type, enabled=False):
            return backward(ctx, gradient, *gradients)

    return call


def run_network(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The output of a network, under the autocast that :func:`full_precision` suspended, in the dtype of its inputs."""
    suspended = _suspended.get()
    with nullcontext() if suspended is None else torch.autocast(suspended[0], dtype=suspended[1]):
        return network(inputs).to(inputs.dtype)
