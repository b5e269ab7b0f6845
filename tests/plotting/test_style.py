"""Figures belong to pyplot, so that notebooks show them."""

import os
import subprocess
import sys

import matplotlib.pyplot as plt

from pyro_kanerva import plotting
from pyro_kanerva.cli.report import save


def test_new_figures_are_of_pyplot(retrieval, patterns, new_ax):
    """An inline backend shows, once, each figure that pyplot has at the end of a cell."""
    figures = [
        plotting.energy_descent(retrieval).figure,
        plotting.image_grid(patterns[0]).figure,
        plotting.recall_strips(retrieval, patterns).figure,
    ]
    assert [plt.figure(number) for number in plt.get_fignums()] == figures
    assert plt.gcf() is figures[-1]
    plotting.energy_descent(retrieval, ax=new_ax)  # a figure of the caller
    assert len(plt.get_fignums()) == 3
    plt.close(figures[0])
    assert len(plt.get_fignums()) == 2


def test_saved_figures_are_closed(patterns, tmp_path):
    """The command line draws more figures than matplotlib lets stay open without a warning."""
    for index in range(25):
        path = save(plotting.image_grid(patterns[0]), tmp_path / f"{index}.png")
        assert path.stat().st_size > 0
    assert plt.get_fignums() == []


def test_figures_need_no_display(tmp_path):
    code = (
        "import torch, sys; from pyro_kanerva import plotting; assert 'matplotlib' not in sys.modules; "
        f"plotting.image_grid(torch.rand(2, 5, 5)).figure.savefig({str(tmp_path / 'grid.png')!r}); "
        "print(sys.modules['matplotlib'].get_backend())"
    )
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert run.stdout.strip().lower() == "agg"
