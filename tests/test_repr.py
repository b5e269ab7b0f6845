"""What results look like when printed or shown in a notebook."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_kanerva import Bound, Flip, Images, KanervaMachine, NormalLikelihood
from pyro_kanerva._repr import describe, is_image, picture
from pyro_kanerva.conjugate import AddressPosterior, NaturalParameters
from pyro_kanerva.diagnostics import CalibrationRanks
from pyro_kanerva.diagnostics.guide_draws import guide_draws
from pyro_kanerva.evaluation import Curve, evaluate_recall, evaluate_recall_control, roc
from pyro_kanerva.training import FitResult


def pixels(html: str) -> list[np.ndarray]:
    """The pictures of an HTML text."""
    sources = re.findall(r'src="data:image/png;base64,([^"]*)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source)))) for source in sources]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.tensor(2.5), "2.5"),
        (torch.tensor([[1.0, 2.0, 6.0]]), "<(1, 3), 1 to 6, mean 3>"),
        (torch.tensor([1, 3]), "<(2,), 1 to 3, mean 2>"),
        (torch.tensor([True, True, False, True]), "<(4,), 0.75 True>"),
        (torch.tensor([1.0, torch.nan, torch.inf]), "<(3,), 1 to 1, mean 1, 2 not finite>"),
        (torch.tensor([torch.nan]), "<(1,), 1 not finite>"),
        (torch.zeros(0, 4), "<(0, 4)>"),
        (torch.ones(2, requires_grad=True), "<(2,), 1 to 1, mean 1>"),
        ([1.0, 2.0], "[1.0, 2.0]"),
        ([0.5 * i for i in range(100)], "<100 values, 0 to 49.5>"),
        (["a"] * 9, "<9 values>"),
        ({"memory": torch.tensor([0.0, 1.0])}, "{memory: <(2,), 0 to 1, mean 0.5>}"),
        (torch.nn.Linear(2, 3), "Linear(...)"),
        (None, "None"),
    ],
)
def test_describe(value, text):
    assert describe(value) == text


def results(machine: KanervaMachine, patterns: torch.Tensor) -> dict[str, object]:
    """Results of every kind that hold tensors or long lists."""
    memory = machine.write(patterns)
    return {
        "Retrieval": memory.query(patterns, num_steps=2),
        "Draws": memory.sample(patterns, 3),
        "Bound": machine.bound(patterns),
        "WriteRecord": memory.records[0],
        "StreamRecord": machine.write([patterns]).records[0],
        "WriteResult": machine.writer(machine.encode(patterns), machine.memory_prior(), machine.code_scale),
        "ROC": roc(torch.rand(50), torch.rand(50)),
        "Curve": Curve(*([float(i) for i in range(50)] for _ in range(4))),
        "RecallError": evaluate_recall(machine, [patterns], Flip(0.1), channel=None, num_steps=12),
        "RecallControl": evaluate_recall_control(machine, [patterns], Flip(0.1), channel=None, num_steps=12),
        "FitResult": FitResult([1.0] * 5000, False),
        "Images": Images(torch.zeros(50, 28, 28, dtype=torch.uint8), None),
        "AddressPosterior": AddressPosterior(torch.zeros(3, 8, 6), torch.eye(6)),
        "NaturalParameters": NaturalParameters(torch.eye(60), torch.zeros(60, 100)),
        "CalibrationRanks": CalibrationRanks(torch.zeros(99, 2), ("a", "b"), 99),
        "GuideDraws": next(guide_draws(machine, patterns, 3, "test")),
        "Memory": memory,
    }


def test_no_result_prints_entries(make_machine, patterns):
    found = results(make_machine(), patterns)
    for name, result in found.items():
        assert repr(result).startswith(f"{name}(")
        assert "tensor(" not in repr(result)
        assert len(repr(result)) < 600, name
        assert len(repr((result,))) < 600, name
        if hasattr(result, "_repr_html_"):
            assert result._repr_html_().count("<tr>") == result._repr_html_().count("</tr>") > 0, name


def test_results_stay_tuples(make_machine, patterns):
    retrieval = make_machine().write(patterns).query(patterns, num_steps=2)
    found, energy, address, converged = retrieval
    assert found is retrieval.patterns
    assert converged is retrieval.converged
    assert retrieval._asdict().keys() == {"patterns", "energy", "address", "converged"}
    assert retrieval._replace(energy=address).energy is address
    assert isinstance(retrieval, tuple)
    assert Bound(energy, energy, energy).code_kl == 0


def test_pictures_of_a_retrieval(make_machine, patterns):
    """Cue, first step and last step of the first memory, in black on white."""
    memory = make_machine().write(patterns)
    retrieval = memory.query(Flip(0.2)(patterns), num_steps=3, channel=Flip(0.2))
    shown = pixels(retrieval._repr_html_())
    assert len(shown) == 3
    assert {x.shape for x in shown} == {(5, 8 * 9)}  # 8 patterns of 5 x 7, with gaps of 2
    for x, step in zip(shown, (0, 1, 3), strict=True):
        assert (x[:, 9:16] == 255 * (1 - retrieval.patterns[step, 0, 1, 0].numpy())).all()
    assert len(pixels(memory.query(patterns, num_steps=0)._repr_html_())) == 1


def test_at_most_eight_pictures():
    (shown,) = pixels(picture(torch.rand(50, 28, 28)))
    assert shown.shape == (28, 8 * 30)
    assert len(picture((torch.rand(50, 28, 28) < 0.5).double())) < 6000


def test_pictures_in_color_and_outside_of_the_unit_interval():
    color = torch.zeros(1, 3, 2, 2)
    color[0, 0] = 1
    (shown,) = pixels(picture(color))
    assert shown[:, :2].tolist() == [[[255, 0, 0]] * 2] * 2
    (shown,) = pixels(picture(torch.tensor([[[-1.0, 3.0], [1.0, torch.nan]]])))
    assert shown[:, :2].tolist() == [[255, 0], [128, 191]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((28, 28), True), ((1, 28, 28), True), ((3, 28, 28), True), ((4, 28, 28), False), ((7,), False), ((), False)],
)
def test_is_image(shape, expected):
    assert is_image(shape) is expected


def test_vectors_have_no_pictures(make_machine):
    x = torch.randn(1, 4, 5)
    memory = make_machine((5,), likelihood=NormalLikelihood()).write(x)
    for result in (memory.query(x, num_steps=1), memory.sample(x, 2)):
        assert "<img" not in result._repr_html_()


def test_html_of_a_memory(make_machine, patterns):
    memory = make_machine().write(patterns).write(patterns[:, :3], name="<monday>")
    html = memory._repr_html_()
    for text in ("record 0", "8 patterns", "&lt;monday&gt;", "3 patterns", "11 patterns in 6 slots", "(1, 5, 7)"):
        assert text in html
    for _ in range(8):
        memory = memory.write(patterns[:, :1])
    html = memory._repr_html_()
    assert "record 7" in html
    assert "record 8" not in html
    assert '<th style="text-align: left">more records</th><td style="text-align: left">2</td>' in html
