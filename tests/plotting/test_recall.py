"""Figures of queries and draws."""

import numpy as np
import pytest
import torch
from helpers import legend_labels, tick_labels

from pyro_kanerva import Draws, Retrieval, plotting


def test_recall_strips(retrieval, patterns, new_ax):
    ax = plotting.recall_strips(retrieval, patterns, num_cues=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["cue", "step 1", "step 2", "step 5", "stored"]
    (image,) = ax.get_images()
    assert image.get_array().shape == (5 * 8 - 3, 3 * 10 - 3, 3)
    shown = image.get_array()[:5, :7]
    wrong = (retrieval.patterns[0, 0, 0, 0] != patterns[0, 0, 0]).numpy()
    assert ((shown[..., 0] != shown[..., 2]) == wrong).all()  # colored where wrong, grey elsewhere
    assert plotting.recall_strips(retrieval, patterns, steps=[5], ax=new_ax) is new_ax


def test_recall_comparison(patterns, new_ax):
    cues, wrong = 1 - patterns, patterns.clone()
    wrong[0, 0, 0, 0] = 1  # too much ink in the first line of the first pattern
    wrong[0, 0, 0, 1] = 0  # too little in the second
    recalled = {"right memory": patterns, "empty memory": wrong}
    ax = plotting.recall_comparison(patterns, cues, recalled, num_cues=3, ax=new_ax)
    assert ax is new_ax
    assert tick_labels(ax.yaxis) == ["stored", "cue", "right memory", "empty memory"]
    assert legend_labels(ax) == ["wrong ink", "missing ink"]
    canvas = np.asarray(ax.get_images()[0].get_array())
    assert canvas.shape == (4 * 8 - 3, 3 * 10 - 3, 3)
    stored, cue, right, empty = (canvas[8 * row : 8 * row + 5, :7] for row in range(4))
    target = patterns[0, 0, 0].numpy()
    gray = 0.93 * (1 - target)
    for channel in range(3):  # no color in these rows, not even for the cues, which are all wrong
        assert stored[..., channel] == pytest.approx(gray)
        assert cue[..., channel] == pytest.approx(0.93 - gray)
        assert right[..., channel] == pytest.approx(gray)
    colored = empty[..., 0] != empty[..., 2]
    assert (colored == (wrong[0, 0, 0] != patterns[0, 0, 0]).numpy()).all()
    dark, pale = empty[0][colored[0]], empty[1][colored[1]]
    assert dark.sum(-1).max() < pale.sum(-1).min() - 0.5  # told apart without color
    canvas = np.asarray(plotting.recall_comparison(patterns, cues, {"memory": patterns}).get_images()[0].get_array())
    assert canvas.shape == (3 * 8 - 3, 8 * 10 - 3, 3)


def test_recall_comparison_of_hidden_entries(patterns):
    hidden = torch.arange(7) > 3
    cues = torch.where(hidden, 0.0, patterns)
    ax = plotting.recall_comparison(patterns, cues, {"memory": patterns}, hidden=hidden)
    assert legend_labels(ax) == ["wrong ink", "missing ink", "hidden"]
    canvas = np.asarray(ax.get_images()[0].get_array())
    gray = canvas[8:13, 4:7]
    assert (gray == gray[0, 0]).all()
    assert (gray > 0.3).all()  # neither ink nor background
    assert (gray < 0.7).all()
    assert set(np.unique(canvas[8:13, :4].round(6))) == {0.0, 0.93}
    assert set(np.unique(canvas[16:21, :7].round(6))) == {0.0, 0.93}  # only the cues hide


@pytest.mark.parametrize("channels", [1, 3])
def test_real_images_are_drawn_without_marks(channels):
    """Each recalled picture as it is: no entry of a real image is exactly right."""
    torch.manual_seed(1)
    stored = torch.rand(1, 2, channels, 5, 7)
    cues, recalled = torch.rand(2, 1, 2, channels, 5, 7)
    hidden = torch.arange(7) > 3
    ax = plotting.recall_comparison(stored, cues, {"memory": recalled}, hidden=hidden, ink=False)
    assert legend_labels(ax) == ["hidden"]
    canvas = np.asarray(ax.get_images()[0].get_array())
    for row, patterns in enumerate((stored, cues, recalled)):
        expected = patterns[0, 0].expand(3, 5, 7).movedim(0, -1).numpy()
        shown = canvas[8 * row : 8 * row + 5, :7]
        if row == 1:
            assert (shown[:, 4:] == shown[0, 4]).all()
            shown, expected = shown[:, :4], expected[:, :4]
        assert shown == pytest.approx(expected)
    retrieval = Retrieval(torch.stack((cues, recalled)), torch.zeros(2, 1, 2), torch.zeros(2, 1, 2, 3), None)
    ax = plotting.recall_strips(retrieval, stored, ink=False)
    assert tick_labels(ax.yaxis) == ["cue", "step 1", "stored"]
    last = np.asarray(ax.get_images()[0].get_array())[8:13, :7]
    assert last == pytest.approx(recalled[0, 0].expand(3, 5, 7).movedim(0, -1).numpy())
    drawn = Draws(torch.rand(6, 1, 2, channels, 5, 7), torch.zeros(6, 1, 2, 3))
    canvas = np.asarray(plotting.uncertainty(drawn, stored, ink=False).get_images()[0].get_array())
    expected = drawn.patterns.mean(0)[0, 0].expand(3, 5, 7).movedim(0, -1).numpy()
    assert canvas[:5, :7] == pytest.approx(expected, abs=1e-6)


def test_real_vectors_are_lines(new_ax):
    stored, cues, recalled = torch.randn(3, 1, 4, 10)
    hidden = torch.arange(10) > 6
    ax = plotting.recall_comparison(stored, cues, {"memory": recalled}, hidden=hidden, num_cues=3, ax=new_ax)
    assert ax is new_ax
    assert legend_labels(ax) == ["stored", "cue", "memory"]
    assert tick_labels(ax.xaxis) == ["0", "1", "2"]
    for line, patterns in zip(ax.get_lines(), (stored, cues, recalled), strict=True):
        y = np.asarray(line.get_ydata()).reshape(3, -1)
        visible = 7 if patterns is cues else 10
        assert y[:, :visible] == pytest.approx(patterns[0, :3, :visible].numpy())
        assert np.isnan(y[:, visible:]).all()
    retrieval = Retrieval(torch.stack((cues, stored, recalled)), torch.zeros(3, 1, 4), torch.zeros(3, 1, 4, 3), None)
    assert legend_labels(plotting.recall_strips(retrieval, stored)) == ["stored", "cue", "step 2"]
    assert legend_labels(plotting.recall_strips(retrieval, stored, steps=[1, 2])) == [
        "stored",
        "cue",
        "step 1",
        "step 2",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x, x, {}), "recalled is empty; expected at least one label"),
        (lambda x: (x, x[:1], {"memory": x}), r"cues has shape \(1, 8, 1, 5, 7\); expected that of the stored"),
        (lambda x: (x, x, {"memory": x[None]}), r"recalled\['memory'\] has shape \(1, 3, 8, 1, 5, 7\); expected"),
    ],
)
def test_recall_comparison_of_other_shapes(patterns, change, message):
    with pytest.raises(ValueError, match=rf"recall_comparison\(\): {message}"):
        plotting.recall_comparison(*change(patterns))


def test_uncertainty(patterns, new_ax):
    draws = Draws((torch.rand(6, *patterns.shape) < 0.5).float(), torch.zeros(6, 3, 8, 2))
    ax = plotting.uncertainty(draws, patterns, num_cues=4, ax=new_ax)
    assert ax is new_ax
    assert tick_labels(ax.yaxis) == ["mean", "deviation", "stored"]
    assert ax.figure.axes[-1].get_ylabel() == "standard deviation"
    canvas = ax.get_images()[0].get_array()
    assert canvas.shape == (3 * 8 - 3, 4 * 10 - 3, 3)
    assert np.asarray(canvas[16:21, :7, 0]) == pytest.approx(1 - patterns[0, 0, 0].numpy())
    assert np.asarray(canvas[:5, :7, 0]) == pytest.approx(1 - draws.patterns[:, 0, 0, 0].mean(0).numpy(), abs=0.01)
    with pytest.raises(ValueError, match=r"uncertainty\(\): 1 draws; expected at least 2"):
        plotting.uncertainty(Draws(draws.patterns[:1], draws.address[:1]), patterns)


@pytest.mark.parametrize("steps", [[99], [-1], [1, 6], [0.5]])
def test_steps_that_the_retrieval_has_not(retrieval, patterns, steps):
    with pytest.raises(
        ValueError, match=r"recall_strips\(\): steps are .*; expected 0 to 5, the steps of the retrieval"
    ):
        plotting.recall_strips(retrieval, patterns, steps=steps)


def test_steps_are_drawn_once_and_in_their_order(retrieval, patterns):
    ax = plotting.recall_strips(retrieval, patterns, steps=[3, 0, 1, 3])
    assert tick_labels(ax.yaxis) == ["cue", "step 3", "step 1", "stored"]


def test_nothing_to_draw(retrieval, patterns):
    draws = Draws(torch.rand(3, *patterns.shape), *(torch.zeros(0),) * (len(Draws._fields) - 1))
    recalled = {"memory": patterns}
    for draw in (
        lambda stored, **options: plotting.recall_strips(retrieval, stored, **options),
        lambda stored, **options: plotting.recall_comparison(stored, stored, recalled, **options),
        lambda stored, **options: plotting.uncertainty(draws, stored, **options),
    ):
        with pytest.raises(ValueError, match="num_cues is 0; expected at least 1"):
            draw(patterns, num_cues=0)
        with pytest.raises(ValueError, match="expected at least one pattern"):
            draw(patterns[:, :0])


def test_a_single_narrow_column(patterns):
    ax = plotting.recall_comparison(patterns[:, :1], patterns[:, :1], {"right memory": patterns[:, :1]})
    ax.figure.canvas.draw()  # without a warning that the axes have no room
