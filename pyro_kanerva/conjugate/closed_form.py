"""The border of the closed forms: checked arguments outside, float64 inside."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from pyro_kanerva._checks import check_dense, check_type, checks_values
from pyro_kanerva._precision import full_precision
from pyro_kanerva.distributions import GaussianMixture, MatrixNormal

P = ParamSpec("P")
R = TypeVar("R")


def closed_form(owner: str, exact: bool = False, **shapes: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a closed form: check its arguments, then run it in float64 and without autocast.

    A precision ``I + L^T P L`` loses ``2 log10(|z| / sigma)`` digits; float32 has 7 of them. The result has the dtype
    of the first argument, or float64 if ``exact``. The decorated function raises a ``ValueError`` if an argument has
    another type or shape, or NaN or infinite entries.

    :param shapes: the last sizes of the arguments by name, for example ``codes="nC"``. Equal letters are equal sizes.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature, run = inspect.signature(function), full_precision(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            given = signature.bind(*args, **kwargs).arguments
            values = {name: given.get(name, signature.parameters[name].default) for name in shapes}
            needed = {name: value for name, value in values.items() if value is not signature.parameters[name].default}
            _check_arguments(owner, needed, shapes)
            dtype = torch.float64 if exact else _tensor(given[next(iter(shapes))]).dtype
            return _to(run(**{name: _to(value, torch.float64) for name, value in given.items()}), dtype)  # type: ignore[call-arg]

        return call

    return decorate


def _tensor(value: Any) -> Any:
    return value.loc if isinstance(value, MatrixNormal) else value


def _check_arguments(owner: str, values: dict[str, Any], shapes: dict[str, str]) -> None:
    sizes: dict[str, int] = {}
    for name, value in values.items():
        if name in ("prior", "posterior"):
            check_type(f"{owner}: {name}", value, MatrixNormal, "a MatrixNormal")
        tensor, letters = _tensor(value), shapes[name]
        check_dense(f"{owner}: {name}", tensor, torch.float32, torch.float64)
        found = dict(zip(letters, tensor.shape[-len(letters) :], strict=False))
        expected = [sizes.get(letter, letter) for letter in letters]
        if tensor.dim() < len(letters) or any(found[key] != sizes.setdefault(key, found[key]) for key in letters):
            raise ValueError(
                f"{owner}: {name} has shape {tuple(tensor.shape)}; expected (..., {', '.join(map(str, expected))})."
            )
        if checks_values() and not bool(tensor.detach().sum(dtype=torch.float64).isfinite()):
            raise ValueError(
                f"{owner}: {name} has NaN or infinite entries; expected finite numbers. Check the patterns and the "
                "encoder for extreme values."
            )
    batches = {name: _tensor(value).shape[: -len(shapes[name])] for name, value in values.items()}
    try:
        torch.broadcast_shapes(*batches.values())
    except RuntimeError:
        shown = ", ".join(f"{tuple(batch)} of {name}" for name, batch in batches.items())
        raise ValueError(f"{owner}: the batch shapes are {shown}; expected shapes that broadcast.") from None


def _to(value: Any, dtype: torch.dtype) -> Any:
    """``value`` with its real tensors in ``dtype``."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, MatrixNormal):
        row, column = _to((value.scale_tril_row, value.scale_tril_column), dtype)
        return MatrixNormal(_to(value.loc, dtype), row, column, validate_args=False)
    if isinstance(value, GaussianMixture):
        loc, offsets, logits, factor = _to((value.loc, value.offsets, value.logits, value.scale_tril), dtype)
        return GaussianMixture(loc, offsets, logits, factor, validate_args=False)
    if isinstance(value, tuple):
        entries = [_to(entry, dtype) for entry in value]
        return type(value)(*entries) if hasattr(value, "_fields") else tuple(entries)
    return value
