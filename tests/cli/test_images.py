"""The command line on images of several kinds, and on pictures of one's own."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_kanerva.cli import main
from pyro_kanerva.runs import load_config, load_run

SIZES = "--steps 3 --slots 4 --code-size 8 --width 8 --episode-length 4 --batch-size 2 --recall-episodes 2 --device cpu"


def train(data, run, *more):
    return main(["train", "--data", str(data), "--run", str(run), *SIZES.split(), *more])


def ink(number, *shape):
    """uint8 drawings, 20% ink."""
    return (np.random.default_rng(0).random((number, *shape)) < 0.2).astype(np.uint8) * 255


@pytest.fixture
def binary_run(tmp_path):
    """A run on binary images of 12 x 10."""
    np.save(tmp_path / "ink.npy", ink(40, 12, 10))
    assert train(tmp_path / "ink.npy", tmp_path / "run") == 0
    return tmp_path / "run"


def test_what_is_binarized_is_said(tmp_path, capsys):
    np.save(tmp_path / "ink.npy", ink(40, 12, 10))
    np.save(tmp_path / "paper.npy", 255 - ink(40, 12, 10))
    warning = "pyro-kanerva: warning: Episodes: most pixels are above 127"

    def said(name, *more):
        with warnings.catch_warnings():
            warnings.simplefilter("default")  # a warning is an error in these tests
            assert train(tmp_path / name, tmp_path / f"run-{name}-{len(more)}", *more) == 0
        return capsys.readouterr()

    out, error = said("ink.npy")
    assert "grey images of 12 x 10, binarized at 128: ink is above" in out
    assert warning not in error
    assert said("paper.npy").err.count(warning) == 1
    out, error = said("paper.npy", "--invert")
    assert "grey images of 12 x 10, inverted, binarized at 128: ink is above" in out
    assert warning not in error
    one, other = (load_run(tmp_path / f"run-{name}").held_out for name in ("ink.npy-0", "paper.npy-1"))
    assert torch.equal(one, other)
    for command in (["train"], ["query"]):
        with pytest.raises(SystemExit, match="0"):
            main([*command, "--help"])
        assert re.search(r"invert the\s+images", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--likelihood logistic", "grey images of 6 x 7, 256 levels from 0 to 1"),
        ("--likelihood normal", "grey images of 6 x 7, real levels from 0 to 1"),
        ("--color", "color images of 6 x 7, real levels from 0 to 1"),
        ("--color --likelihood bernoulli", "color images of 6 x 7, binarized at 128: ink is above"),
    ],
)
def test_levels_and_colors_from_training_to_pictures(tmp_path, capsys, options, words):
    """A folder of color pictures: each command, its labels, and a file that is used in place of the run."""
    folder, run, machine = tmp_path / "pictures", tmp_path / "run", tmp_path / "machine.safetensors"
    folder.mkdir()
    for number, picture in enumerate(np.random.default_rng(0).integers(0, 180, (40, 6, 7, 3), np.uint8)):
        Image.fromarray(picture).save(folder / f"{number}.png")
    assert train(folder, run, *options.split()) == 0
    out = capsys.readouterr().out
    assert words in out
    binary = "binarized" in words
    assert ("wrong pixels" in out, "RMSE" in out) == (binary, not binary)
    assert ("Gaussian noise of 0.15, noise known" in out) == (not binary)
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["never_rose"] == 1
    if not binary:
        control = evaluation["recall_control"]["Gaussian noise of 0.15, noise known"]
        assert control["metric"] == "RMSE"
        assert control["cue"] == pytest.approx(0.15, abs=0.02)
    built, config, images, _ = load_run(run)
    assert built.event_shape == ((3, 6, 7) if "--color" in options else (1, 6, 7))
    assert (images.dtype == torch.uint8) == binary
    if options == "--color":  # all curves take time
        assert main(["evaluate", "--run", str(run), "--recall-episodes", "2", "--curves"]) == 0
        table = json.loads((run / "evaluation.json").read_text())
        assert {"noise", "completion", "capacity", "recognition"} <= set(table)
        assert not {"baselines", "basins", "attractors"} & set(table)  # which are of binary patterns
        assert (run / "completion.png").exists()
        capsys.readouterr()
    assert main(["query", "--run", str(run), "--steps", "2"]) == 0
    found = re.search(r"^(.*): cue (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert found[1] == ("wrong pixels" if binary else "RMSE")
    assert binary or float(found[2]) == pytest.approx(0.15, abs=0.02)
    assert main(["query", "--run", str(run), "--steps", "1", "--no-channel"]) == 0
    kind = "gaussian" if binary else "flip"
    assert main(["query", "--run", str(run), "--noise-kind", kind]) == 1
    assert f"--noise-kind {kind} does not fit the likelihood {config['likelihood']}" in capsys.readouterr().err
    assert main(["generate", "--run", str(run), "--samples", "3"]) == 0
    assert main(["export", "--run", str(run), "--out", str(machine)]) == 0
    used = ["--pretrained", str(machine), "--data", str(folder), "--run", str(tmp_path / "used")]
    assert main(["query", *used, "--image", str(folder / "3.png"), "--occlude", "bottom", "--steps", "2"]) == 0


def test_runs_of_earlier_versions_open(binary_run):
    path = binary_run / "config.json"
    config = json.loads(path.read_text())
    old = {name: value for name, value in config.items() if name not in ("likelihood", "color", "invert")}
    path.write_text(json.dumps(old))
    assert load_config(binary_run) == config
    assert main(["query", "--run", str(binary_run), "--steps", "1"]) == 0
    assert train(config["data"], binary_run, "--resume", "--steps", "4") == 0


def test_switches_of_another_run(tmp_path, capsys):
    """--config and --resume keep color and inversion, which the command can take back."""
    np.save(tmp_path / "color.npy", np.random.default_rng(0).integers(0, 180, (40, 6, 7, 3), np.uint8))
    assert train(tmp_path / "color.npy", tmp_path / "one", "--color", "--invert") == 0
    config = ["--config", str(tmp_path / "one" / "config.json"), *SIZES.split()]
    assert main(["train", *config, "--run", str(tmp_path / "other")]) == 0
    assert load_config(tmp_path / "other") == load_config(tmp_path / "one")
    assert main(["train", *config, "--run", str(tmp_path / "third"), "--no-invert"]) == 0
    assert load_config(tmp_path / "third") == {**load_config(tmp_path / "one"), "invert": False} | {
        "data_digest": load_config(tmp_path / "third")["data_digest"]
    }
    assert main(["train", "--run", str(tmp_path / "one"), "--resume", "--steps", "4", "--recall-episodes", "2"]) == 0
    capsys.readouterr()
    assert main(["train", "--run", str(tmp_path / "one"), "--resume", "--no-invert"]) == 1
    assert "--invert was True, now False" in capsys.readouterr().err


@pytest.mark.parametrize("color", [0, 255])
def test_a_picture_of_ones_own(binary_run, tmp_path, capsys, color):
    """A drawing on a transparent ground, of twice the size: stored in place of the first image, and recalled."""
    drawn = np.zeros((24, 20), np.uint8)
    drawn[4:20, 6:10] = 255
    bands = [Image.fromarray(np.full_like(drawn, color))] * 3
    Image.merge("RGBA", [*bands, Image.fromarray(drawn)]).save(tmp_path / "mine.png")
    arguments = ["query", "--run", str(binary_run), "--image", str(tmp_path / "mine.png"), "--steps", "2"]
    shade = "light" if color else "dark"
    share = f"{16 * 4 / 24 / 20:.0%}"
    for more, words in (
        ([], "wrong pixels: cue"),
        (["--noise", "0.1", "--noise-kind", "flip"], "wrong pixels: cue"),
        (["--occlude", "right"], "wrong pixels of the hidden half (right): cue"),
        (["--occlude", "top", "--no-channel"], "wrong pixels of the hidden half (top): cue"),
    ):
        assert main([*arguments, *more]) == 0
        out = capsys.readouterr().out
        size = "resized from 24 x 20 to 12 x 10 (height x width)"
        assert f"mine.png: {size}; {shade} pixels are ink, {share} of all" in out
        assert words in out
        assert re.search(r"mine.png: cue \S+%, right memory \S+%, other memory \S+%, empty memory \S+%", out)


def test_a_hidden_half_is_hidden(binary_run, tmp_path, capsys):
    """The error of the cue is the ink of the hidden half, and without noise a visible half has no error."""
    drawn = np.zeros((12, 10), np.uint8)
    drawn[:6, :5] = 255
    Image.fromarray(drawn).save(tmp_path / "mine.png")
    for side, wrong in (("left", 50), ("top", 50), ("right", 0), ("bottom", 0)):
        arguments = ["--image", str(tmp_path / "mine.png"), "--occlude", side, "--steps", "1"]
        assert main(["query", "--run", str(binary_run), *arguments]) == 0
        assert f"mine.png: cue {wrong:.2f}%, right memory" in capsys.readouterr().out


def test_what_query_and_train_refuse(binary_run, tmp_path, capsys):
    Image.new("L", (10, 12)).save(tmp_path / "blank.png")
    (tmp_path / "notes.png").write_text("hello")
    run, blank = ["--run", str(binary_run)], str(tmp_path / "blank.png")
    for arguments, message in (
        (["query", *run, "--image", blank], "blank.png is blank after binarizing at 128"),
        (["query", *run, "--image", str(tmp_path / "notes.png")], "notes.png is not a whole picture"),
        (["query", *run, "--image", str(tmp_path / "no.png")], "no.png"),
        (["query", *run, "--image", *[blank] * 5], "--image has 5 files; expected at most 4"),
        (["query", *run, "--noise", "0.1", "--occlude", "left"], "--occlude hides half of the cues in place of noise"),
        (["query", *run, "--noise-kind", "gaussian"], "does not fit the likelihood bernoulli; expected salt-and-pepp"),
        (["query", *run, "--invert"], "--invert goes with --pretrained and --data"),
        (["query", "--pretrained", "letters", "--invert", *run[:1], str(tmp_path / "x")], "--invert go with --data"),
        (["train", "--invert"], "--color and --invert go with --data PATH"),
        (["train", "--color"], "--color and --invert go with --data PATH"),
    ):
        assert main(arguments) == 1
        assert message in capsys.readouterr().err, arguments
