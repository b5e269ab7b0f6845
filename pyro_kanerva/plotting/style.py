"""Colors, axes, legends and tick labels of all figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.axis import Axis
else:  # matplotlib is imported only by the functions that use it
    Axes = Axis = Any

BLUE, ORANGE = "#0072b2", "#d55e00"  # color-blind readers can distinguish them, also in grey
# Okabe and Ito's colors, with grey in place of yellow, which is too pale for a line.
COLORS = (BLUE, ORANGE, "#009e73", "#cc79a7", "#000000", "#56b4e9", "#e69f00", "#808080")
LINES, MARKERS = ("-", "--", "-.", ":"), "osD^vPX*"


def new_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """``ax``, or the axes of a new figure of ``size`` in inches.

    pyplot makes the figure: notebooks show it, and ``plt.show``, ``plt.savefig`` and ``plt.close`` know it.
    """
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.figure(figsize=size, layout="constrained").add_subplot()


def line_styles(names: Mapping[str, object], caller: str) -> list[dict[str, Any]]:
    """A label, color, line style and marker for every name."""
    if not 1 <= len(names) <= len(COLORS):
        raise ValueError(f"{caller}: {len(names)} entries; expected 1 to {len(COLORS)}, the number of line styles.")
    looks = zip(names, COLORS, LINES * 2, MARKERS, strict=False)
    return [{"label": name, "color": color, "linestyle": line, "marker": mark} for name, color, line, mark in looks]


def plain_labels(axis: Axis, *, log: bool, percent: bool = False) -> None:
    """Tick labels such as 0.01 or 1%; a short log axis has labels at 2 and 5 times a power of ten as well."""

    def label(value: float, _: float = 0) -> str:
        return f"{100 * value:.6g}%" if percent else f"{value:.6g}"

    def minor(value: float, _: float = 0) -> str:
        low, high = axis.get_view_interval()
        leading = round(value / 10 ** math.floor(math.log10(value) + 1e-9), 6)  # the first digit
        return label(value) if leading in (2, 5) and high < 300 * low else ""  # below 2.5 decades

    if log or percent:
        axis.set_major_formatter(label)
    if log:
        axis.set_minor_formatter(minor)


def legend(ax: Axes, *, outside: bool) -> None:
    """A legend inside the axes, or to the right of them."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if outside else {}
    ax.legend(frameon=False, fontsize="small", **place)


def legend_above(ax: Axes, columns: int) -> None:
    """A legend above the axes, where it hides no data."""
    place: dict[str, Any] = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": columns}
    ax.legend(frameon=False, fontsize="small", columnspacing=1.2, **place)
