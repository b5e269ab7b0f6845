"""Figures of the energy: as a function of the step, and as a landscape over addresses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_kanerva.channels import Channel
from pyro_kanerva.memory import Memory
from pyro_kanerva.plotting.style import BLUE, ORANGE, Axes, new_axes
from pyro_kanerva.retrieval import Retrieval


def energy_descent(retrieval: Retrieval, *, label: str | None = None, ax: Axes | None = None) -> Axes:
    """The energy of every query as a function of the step, as thin lines, and the mean as a thick line."""
    energy = retrieval.energy.flatten(1).cpu().numpy()
    ax = new_axes(ax, (5, 3.2))
    ax.plot(energy, color=BLUE, alpha=0.15, linewidth=0.6)
    ax.plot(energy.mean(-1), color=ORANGE, linewidth=2, label=label or f"mean of {energy.shape[1]} queries")
    ax.set(xlabel="step", ylabel="energy (nats)")
    ax.set_xticks(range(0, len(energy), max(1, len(energy) // 10)))
    ax.legend(frameon=False)
    return ax


def energy_landscape(
    memory: Memory,
    cues: Tensor,
    channel: Channel | None = None,
    *,
    retrieval: Retrieval | None = None,
    extent: float = 4.0,
    resolution: int = 81,
    ax: Axes | None = None,
) -> Axes:
    """The energy of the first cue over all addresses w of a memory with two slots, and the paths of queries.

    The energy is ``-log p(c | w, M) - log p(w)`` under ``channel``, or without one ``-log p(x | w, M) - log p(w)`` at x
    = c. Contour levels are dense near the minimum.

    :param memory: a single memory, B = 1, of K = 2 slots.
    :param cues: (1, Q) + E, or (Q,) + E.
    :param retrieval: the paths of all its queries are drawn, from a circle to a star. A path lies in this landscape if
        the query has the same cue, channel and energy: ``memory.query(cues[:, :1], ...)``. Without a channel the
        pattern, and so the landscape, changes in every step; pass ``retrieval.patterns[-1]`` as ``cues`` for the
        landscape of the last step.
    :param extent: the axes run from ``-extent`` to ``extent``, or further if a path does.
    :param resolution: the number of addresses along each axis.
    :raises ValueError: if K is not 2 or B not 1 in the memory or the retrieval, or an argument is out of range.
    """
    (batch,), (slots, _) = memory.posterior.batch_shape, memory.posterior.event_shape
    if (batch, slots) != (1, 2):
        raise ValueError(
            f"energy_landscape(): {batch} memories of {slots} slots; expected 1 memory of 2 slots, which are the axes."
        )
    path = None if retrieval is None else retrieval.address.cpu()
    if path is not None and (path.shape[1], path.shape[3]) != (1, 2):
        raise ValueError(
            f"energy_landscape(): retrieval.address has shape {tuple(path.shape)}; expected (S + 1, 1, Q, 2)."
        )
    if not extent > 0 or resolution < 2:
        raise ValueError(f"energy_landscape(): extent is {extent}, resolution {resolution}; expected > 0, at least 2.")
    from matplotlib.colors import BoundaryNorm
    from matplotlib.patheffects import withStroke

    extent = extent if path is None else max(extent, 1.1 * path.abs().max().item())
    side = torch.linspace(-extent, extent, resolution, dtype=memory.posterior.loc.dtype)
    grid = torch.cartesian_prod(side, side).unsqueeze(0).to(memory.posterior.loc.device)
    cues = memory.machine.check_patterns(cues, "energy_landscape()", "cues", memory.event_shape)[:, :1]
    with torch.no_grad():
        energy = memory.energy(grid, cues, channel=channel).view(resolution, resolution).mT.double().cpu().numpy()
    energy = np.ma.masked_invalid(energy)  # NaN and infinite energies stay white
    lowest, span = float(energy.min()), max(float(np.ptp(energy)), 1e-6)
    # The lowest energy, then geometric steps of 0.5% to 100% of the range above it.
    levels = lowest + span * np.concatenate([[0.0], np.geomspace(0.005, 1, 15)])
    ax = new_axes(ax, (5, 4))
    norm = BoundaryNorm(levels, 256)
    filled = ax.contourf(side, side, energy, levels=levels, norm=norm, cmap="viridis")
    bar = ax.figure.colorbar(filled, ax=ax, label="energy (nats)", ticks=levels[::3])
    bar.ax.set_yticklabels([f"{level:.{1 if span > 10 else 3}f}" for level in levels[::3]])
    if path is not None:
        outline = [withStroke(linewidth=3, foreground="black")]
        for addresses in path[:, 0].unbind(1):
            ax.plot(*addresses.T, color="white", linewidth=1.5, marker=".", markersize=4, path_effects=outline)
        start, end = path[0, 0].T, path[-1, 0].T
        shared: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "black", "zorder": 3}
        ax.plot(*start, marker="o", markersize=8, markerfacecolor="white", label="start", **shared)
        ax.plot(*end, marker="*", markersize=14, markerfacecolor="#e69f00", label="end", **shared)
        ax.legend(fontsize="small", framealpha=0.9)
    ax.set(aspect="equal", xlabel="address of slot 1", ylabel="address of slot 2")
    return ax
