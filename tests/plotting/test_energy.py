"""Figures of the energy: by step, and over all addresses."""

import pytest
import torch
from matplotlib.axes import Axes

from pyro_kanerva import Flip, GaussianMemory, plotting


def test_energy_descent(retrieval, new_ax):
    assert plotting.energy_descent(retrieval, ax=new_ax) is new_ax
    assert len(new_ax.get_lines()) == 24 + 1
    assert "nats" in new_ax.get_ylabel()
    plotting.energy_descent(retrieval)


@pytest.fixture
def plane(make_machine, patterns):
    """A memory of two slots, and its patterns."""
    return make_machine(memory_prior=GaussianMemory(2, 10)).write(patterns[:1]), patterns[:1]


@pytest.mark.parametrize("channel", [None, Flip(0.2)], ids=str)
def test_energy_landscape(plane, channel, new_ax):
    memory, stored = plane
    cues = Flip(0.2)(stored)
    retrieval = memory.query(cues, num_steps=3, channel=channel)
    ax = plotting.energy_landscape(memory, cues, channel, retrieval=retrieval, resolution=9, ax=new_ax)
    assert ax is new_ax
    *paths, start, end = ax.get_lines()
    assert len(paths) == 8
    assert (start.get_marker(), end.get_marker()) == ("o", "*")
    assert torch.equal(torch.as_tensor(paths[3].get_xydata()), retrieval.address[:, 0, 3])
    assert torch.equal(torch.as_tensor(end.get_xydata()), retrieval.address[-1, 0])
    assert ax.figure.axes[-1].get_ylabel() == "energy (nats)"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("address of slot 1", "address of slot 2")
    assert ax.get_xlim()[1] >= max(4.0, retrieval.address.abs().max().item())


def test_energy_landscape_is_the_energy(plane, monkeypatch):
    """The first slot is the horizontal axis, and the levels reach from the lowest energy to the highest."""
    memory, stored = plane
    drawn = []
    contourf = Axes.contourf
    monkeypatch.setattr(
        Axes, "contourf", lambda *args, **options: drawn.append((args, options)) or contourf(*args, **options)
    )
    plotting.energy_landscape(memory, stored[0], extent=2.0, resolution=5)
    ((_, x, y, energy), options) = drawn[0]
    assert x[3] == 1.0
    assert y[0] == -2.0
    expected = memory.energy(torch.tensor([[[1.0, -2.0]]]), stored[:, :1])
    assert energy[0, 3] == pytest.approx(expected.item(), rel=1e-5)
    assert options["levels"][[0, -1]] == pytest.approx([energy.min(), energy.max()])


def test_energy_landscape_of_other_memories(make_machine, patterns, plane):
    with pytest.raises(ValueError, match=r"1 memories of 6 slots; expected 1 memory of 2 slots"):
        plotting.energy_landscape(make_machine().write(patterns[:1]), patterns[:1])
    memory, stored = plane
    with pytest.raises(ValueError, match=r"3 memories of 2 slots"):
        plotting.energy_landscape(memory.machine.write(patterns), patterns)
    other = make_machine().write(stored).query(stored, num_steps=1)
    with pytest.raises(ValueError, match=r"retrieval.address has shape \(2, 1, 8, 6\)"):
        plotting.energy_landscape(memory, stored, retrieval=other)
    with pytest.raises(ValueError, match=r"extent is 0, resolution 81"):
        plotting.energy_landscape(memory, stored, extent=0)
