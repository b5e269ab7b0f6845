"""Figures. Every function draws into ``ax``, by default in a new figure of pyplot, and returns the Axes.

A notebook shows the figure below the cell. A script calls ``ax.figure.savefig(path)`` or ``plt.show()``, and
``plt.close(ax.figure)`` once the figure is no longer needed.
"""

from pyro_kanerva.plotting.diagnostics import rank_plot
from pyro_kanerva.plotting.energy import energy_descent, energy_landscape
from pyro_kanerva.plotting.evaluation import bound_terms, curves, roc_curve, training_curve
from pyro_kanerva.plotting.images import image_grid
from pyro_kanerva.plotting.recall import recall_comparison, recall_strips, uncertainty

__all__ = [
    "bound_terms", "curves", "energy_descent", "energy_landscape", "image_grid", "rank_plot", "recall_comparison",
    "recall_strips", "roc_curve", "training_curve", "uncertainty",
]  # fmt: skip
