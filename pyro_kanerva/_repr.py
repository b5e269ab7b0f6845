"""What results look like when printed or shown in a notebook: shapes and ranges, tables, small pictures."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

_PICTURES = 8  # in a row
_ENTRIES = 6  # of a list that is printed
_HEIGHT = 56  # of a picture, in pixels of the screen

Result = TypeVar("Result", bound=type[tuple[Any, ...]])


def short_repr(cls: Result) -> Result:
    """Class decorator: a NamedTuple that prints shape, range and mean of tensors, not their entries.

    In a notebook it is a table of the same, unless the class has its own ``_repr_html_``.
    """

    def summary(self: object) -> str:
        return f"{cls.__name__}({', '.join(f'{name}={text}' for name, text in _described(self))})"

    cls.__repr__ = summary  # type: ignore[method-assign]
    if not hasattr(cls, "_repr_html_"):
        cls._repr_html_ = lambda self: table(cls.__name__, field_rows(self))  # type: ignore[attr-defined]
    return cls


def describe(value: object) -> str:
    """A short text for a field of a result."""
    if isinstance(value, Tensor):
        return _describe_tensor(value)
    if isinstance(value, torch.nn.Module):
        return f"{type(value).__name__}(...)"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {describe(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list | tuple) and not hasattr(value, "_fields") and len(value) > _ENTRIES:
        if all(isinstance(entry, int | float) for entry in value):
            return f"<{len(value)} values, {min(value):.4g} to {max(value):.4g}>"
        return f"<{len(value)} values>"
    return repr(value)


def _describe_tensor(value: Tensor) -> str:
    if value.dim() == 0:
        return f"{value.item():.4g}"
    text = str(tuple(value.shape))
    if value.dtype == torch.bool and value.numel():
        text += f", {value.double().mean().item():.4g} True"
    elif value.numel():
        finite = value.detach()[value.isfinite()].double()
        if finite.numel():
            low, high, mean = (number.item() for number in (finite.min(), finite.max(), finite.mean()))
            text += f", {low:.4g} to {high:.4g}, mean {mean:.4g}"
        if finite.numel() < value.numel():
            text += f", {value.numel() - finite.numel()} not finite"
    return f"<{text}>"


def _described(result: Any) -> list[tuple[str, str]]:
    return [(name, describe(value)) for name, value in result._asdict().items()]


def field_rows(result: Any) -> list[tuple[str, str]]:
    """The fields of a NamedTuple as rows of :func:`table`."""
    return [(name, html.escape(text.strip("<>"))) for name, text in _described(result)]


def table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    """An HTML table of names, which are escaped, and cells, which are HTML."""
    cells = "".join(
        f'<tr><th style="text-align: left">{html.escape(name)}</th><td style="text-align: left">{cell}</td></tr>'
        for name, cell in rows
    )
    return f"<b>{html.escape(title)}</b><table>{cells}</table>"


def is_image(event_shape: Sequence[int]) -> bool:
    """True for the shapes (height, width), (1, height, width) and (3, height, width) of an image."""
    return len(event_shape) >= 2 and min(event_shape[-2:]) > 1 and tuple(event_shape[:-2]) in ((), (1,), (3,))


def picture(patterns: Tensor) -> str:
    """The first 8 of ``patterns`` (N,) + E, side by side, as an HTML image; of one channel in black ink on white.

    White is 0 and black 1, or the least and the largest entry if these lie outside.
    """
    from PIL import Image

    x = patterns[:_PICTURES].detach().double().cpu().nan_to_num()
    low, high = min(0.0, x.min().item()), max(1.0, x.max().item())
    x = (x - low) / (high - low)
    x = x if x.dim() == 4 and x.shape[1] == 3 else 1 - x.reshape(len(x), 1, *x.shape[-2:])
    tiles = torch.nn.functional.pad(x, (0, 2, 0, 0), value=1.0)  # white, between the pictures
    pixels = (255 * torch.cat(list(tiles), -1).movedim(0, -1)).round().numpy().astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img style="height: {_HEIGHT}px; image-rendering: pixelated" src="data:image/png;base64,{data}">'
