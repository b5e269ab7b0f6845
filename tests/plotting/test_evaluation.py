"""Every figure draws into the axes it is given, or new ones, and labels what it shows."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from pyro_kanerva import Bound, Draws, Flip, GaussianMemory, plotting
from pyro_kanerva.evaluation import ROC, Curve


@pytest.fixture
def retrieval(make_machine, patterns):
    return make_machine().write(patterns).query(Flip(0.2)(patterns), num_steps=5, channel=Flip(0.2))


def axes():
    return Figure().add_subplot()


def test_recall_strips(retrieval, patterns):
    ax = plotting.recall_strips(retrieval, patterns, num_cues=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cue", "step 1", "step 2", "step 5", "stored"]
    (image,) = ax.get_images()
    assert image.get_array().shape == (5 * 8 - 3, 3 * 10 - 3, 3)
    shown = image.get_array()[:5, :7]
    wrong = (retrieval.patterns[0, 0, 0, 0] != patterns[0, 0, 0]).numpy()
    assert ((shown[..., 0] != shown[..., 2]) == wrong).all()  # colored where wrong, grey elsewhere
    given = axes()
    assert plotting.recall_strips(retrieval, patterns, steps=[5], ax=given) is given


def test_energy_descent(retrieval):
    given = axes()
    assert plotting.energy_descent(retrieval, ax=given) is given
    assert len(given.get_lines()) == 24 + 1
    assert "nats" in given.get_ylabel()
    plotting.energy_descent(retrieval)


def test_training_curve():
    ax = plotting.training_curve([1, 2, 3], [-300.0, -200.0, -150.0], [-250.0, -180.0, -140.0])
    assert "nats" in ax.get_ylabel()
    assert len(ax.get_lines()) == 2


def test_image_grid():
    ax = plotting.image_grid(torch.rand(10, 1, 5, 7), columns=4)
    assert ax.get_images()[0].get_array().shape == (3 * 7 - 2, 4 * 9 - 2)


def curves(number):
    return {
        f"method {i}": Curve([1.0, 10.0, 100.0], [0.1, 0.2, 0.4], [0.0, 0.1, 0.3], [0.2, 0.3, 0.5])
        for i in range(number)
    }


def labels(axis, minor=False):
    axis.axes.figure.canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels(minor=minor)]


@pytest.mark.parametrize("number", [1, 8])
def test_curves(number):
    given = axes()
    ax = plotting.curves(curves(number), xlabel="stored patterns", ylabel="wrong pixels", percent=True, ax=given)
    assert ax is given
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("stored patterns", "wrong pixels")
    assert "20%" in labels(ax.yaxis)
    assert len(ax.get_lines()) == len(ax.collections) == number  # a band for each
    assert len({(line.get_color(), line.get_marker()) for line in ax.get_lines()}) == number
    assert [text.get_text() for text in ax.get_legend().get_texts()] == list(curves(number))


def test_curves_on_log_axes():
    ax = plotting.curves(curves(2), xlabel="patterns", ylabel="error", log_x=True, log_y=True)
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert {"1", "10", "100"} <= set(labels(ax.xaxis))
    assert {"2", "5", "20", "50"} <= set(labels(ax.xaxis, minor=True))


@pytest.mark.parametrize("number", [0, 9])
def test_curves_are_few(number):
    with pytest.raises(ValueError, match=rf"curves\(\): {number} entries; expected 1 to 8"):
        plotting.curves(curves(number), xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match=rf"roc_curve\(\): {number} entries"):
        plotting.roc_curve({str(i): ROC([0.0, 1.0], [0.0, 1.0], 0.5) for i in range(number)})


def test_roc_curve():
    roc = ROC([0.0, 0.0, 0.01, 1.0], [0.0, 0.9, 0.95, 1.0], 0.9934)
    given = axes()
    ax = plotting.roc_curve({"memory": roc}, ax=given)
    assert ax is given
    guessing, line = ax.get_lines()
    assert guessing.get_linestyle() == ":"
    assert line.get_label() == "memory (AUC 0.993)"
    assert list(line.get_xdata()) == [1e-3, 1e-3, 0.01, 1.0]  # rates of 0 are at the edge of the log axis
    assert ax.get_box_aspect() == 1
    plotting.roc_curve({"memory": roc._replace(false_positive_rate=torch.tensor(roc.false_positive_rate))})


@pytest.fixture
def plane(make_machine, patterns):
    """A memory of two slots, and its patterns."""
    return make_machine(memory_prior=GaussianMemory(2, 10)).write(patterns[:1]), patterns[:1]


@pytest.mark.parametrize("channel", [None, Flip(0.2)], ids=str)
def test_energy_landscape(plane, channel):
    memory, stored = plane
    cues = Flip(0.2)(stored)
    retrieval = memory.query(cues, num_steps=3, channel=channel)
    given = axes()
    ax = plotting.energy_landscape(memory, cues, channel, retrieval=retrieval, resolution=9, ax=given)
    assert ax is given
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
    from matplotlib.axes import Axes

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


def test_uncertainty(patterns):
    draws = Draws((torch.rand(6, *patterns.shape) < 0.5).float(), torch.zeros(6, 3, 8, 2))
    given = axes()
    ax = plotting.uncertainty(draws, patterns, num_cues=4, ax=given)
    assert ax is given
    assert labels(ax.yaxis) == ["mean", "deviation", "stored"]
    assert ax.figure.axes[-1].get_ylabel() == "standard deviation"
    canvas = ax.get_images()[0].get_array()
    assert canvas.shape == (3 * 8 - 3, 4 * 10 - 3, 3)
    assert np.asarray(canvas[16:21, :7, 0]) == pytest.approx(1 - patterns[0, 0, 0].numpy())
    assert np.asarray(canvas[:5, :7, 0]) == pytest.approx(1 - draws.patterns[:, 0, 0, 0].mean(0).numpy(), abs=0.01)
    with pytest.raises(ValueError, match=r"uncertainty\(\): 1 draws; expected at least 2"):
        plotting.uncertainty(Draws(draws.patterns[:1], draws.address[:1]), patterns)


@pytest.mark.parametrize("latent", [False, True])
def test_bound_terms(latent):
    code_kl = torch.full((5,), 2.0) if latent else torch.zeros(5)
    bounds = {
        name: Bound(-torch.rand(5) * 50, torch.rand(5) * 9, torch.rand(5) * 4, code_kl) for name in ("one", "other")
    }
    ax = plotting.bound_terms(bounds)
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["negative reconstruction", "address KL", *["code KL"] * latent, "memory KL"]
    ends = [max(bar.get_x() + bar.get_width() for bar in bars) for bars in zip(*ax.containers, strict=True)]
    expected = [-bound.bound.mean().item() for bound in bounds.values()]
    assert ends == pytest.approx(expected, rel=1e-5)
    assert [text.get_text() for text in ax.texts] == [f"{value:.1f}" for value in expected]
    with pytest.raises(ValueError, match="at least one"):
        plotting.bound_terms({})
