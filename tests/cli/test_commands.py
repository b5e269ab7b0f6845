"""The command line, small, from end to end."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from pyro_kanerva import (
    AmortizedWriter,
    Episodes,
    FrameWriter,
    OnlineWriter,
    PseudoInverseWriter,
    pretrained,
    pretrained_card,
)
from pyro_kanerva.cli import main
from pyro_kanerva.cli.options import RECIPES
from pyro_kanerva.runs import held_out_episodes, load_config, load_run, load_split
from pyro_kanerva.weights import WRITERS

SIZES = {"slots": 4, "code-size": 8, "width": 8, "episode-length": 4, "batch-size": 2, "recall-episodes": 2}
SMALL = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "images.npz"
    np.savez(path, images=(rng.random((60, 9, 11)) < 0.2).astype(np.uint8) * 255)
    return path


def train(data, run, *more):
    return main(["train", "--data", str(data), "--run", str(run), "--steps", "6", "--device", "cpu", *SMALL, *more])


def ink_of_the_right_half(run):
    """The share of ink in the right halves of the episodes that a run recalls: a blank half is wrong where ink is."""
    config = load_config(run)
    episodes = held_out_episodes(config, load_split(config)[1], SIZES["recall-episodes"])
    recalled = torch.cat(list(episodes))
    return recalled[..., recalled.shape[-1] // 2 :].mean().item()


def test_train_evaluate_query_generate(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run) == 0
    out = capsys.readouterr().out
    for words in (
        "45 training images, 15 held out",
        "reconstruction",
        "address kl",
        "memory kl",
        "negative bound",
        "negative conditional bound",
        "15% salt and pepper, noise known",
        "30% salt and pepper, noise known",
        "right half missing",
        "15% salt and pepper, noise unknown",
        "   other    empty   gain",
        "never rose: 100.00%",
    ):
        assert words in out
    written = {path.name for path in run.iterdir()}
    pictures = {"recall.png", "recall_steps.png", "energy.png", "training.png"}
    assert written == pictures | {"config.json", "metrics.jsonl", "checkpoint.pt", "evaluation.json", "episodes.npz"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 6
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["never_rose"] == 1
    control = evaluation["recall_control"]["15% salt and pepper, noise known"]
    assert len(control["right_memory"]) == 10
    assert control["memory_gain"] == pytest.approx(control["empty_memory"][-1] / control["right_memory"][-1])
    missing = evaluation["recall_control"]["right half missing, error of the missing half"]
    assert missing["cue"] == pytest.approx(ink_of_the_right_half(run), abs=1e-6)
    terms = ("reconstruction", "address_kl", "memory_kl")
    bound = evaluation[terms[0]] - evaluation[terms[1]] - evaluation[terms[2]]
    assert evaluation["negative_bound"] == pytest.approx(-bound, rel=1e-5)

    drawn = (run / "training.png").read_bytes()
    (run / "metrics.jsonl").write_text("")
    assert main(["evaluate", "--run", str(run), "--recall-episodes", "2", "--curves"]) == 0
    assert (run / "training.png").read_bytes() == drawn  # not replaced by an empty figure
    again = json.loads((run / "evaluation.json").read_text())
    assert evaluation.items() <= again.items()
    assert set(again["noise"]) >= {"15% salt and pepper, noise known", "30% salt and pepper, noise level estimated"}
    assert all(part["never_rose"] == 1 for part in again["noise"].values())
    noisy = again["noise"]["15% salt and pepper, noise known"]
    assert noisy["memory_gain"] == pytest.approx(control["memory_gain"])
    assert noisy["error_other_memory"][1][1:] == pytest.approx(control["other_memory"])
    assert set(again["completion"]) >= {"query", "query, other memory", "query, empty memory"}
    assert again["capacity"]["recall"][0] == [4, 8]  # 15 images make no episode of 16
    assert again["capacity"]["recall, other memory"][0] == [4]  # and only one of 8
    assert again["capacity_gain"][0] == [4, 8]
    drawn = {path.name for path in run.glob("*.png")}
    names = ("noise", "completion", "capacity", "capacity_bound", "basins", "recognition", "samples_of_the_prior")
    assert drawn == pictures | {f"{name}.png" for name in (*names, "samples_of_an_episode")}
    out, progress = capsys.readouterr()
    for part in ("recall from damaged cues", "completion", "capacity", "basins of attraction", "recognition"):
        assert f"evaluating: {part} ..." in progress
    assert "encoder and decoder" in out
    assert "worse than the cue" in out  # after 6 steps of training
    assert re.search(r"^  8 +\d+\.\d\d% +- +\d+\.\d\d% +\d+\.\d\d .* nats$", out, re.MULTILINE)

    assert main(["query", "--run", str(run), "--noise", "0.3", "--steps", "2", "--out", str(tmp_path / "q.png")]) == 0
    out = capsys.readouterr().out
    for words in (
        "wrong pixels: cue",
        "right memory, by step: 1: ",
        "other memory, by step: 1: ",
        "empty memory, by step: 1: ",
        "memory gain",
    ):
        assert words in out
    assert main(["query", "--run", str(run), "--no-channel", "--episode", "1"]) == 0
    assert main(["generate", "--run", str(run), "--samples", "5", "--steps", "1"]) == 0
    for picture in (tmp_path / "q.png", run / "query.png", run / "recall.png", run / "samples.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"


def test_resume_equals_uninterrupted(data, tmp_path, monkeypatch, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert train(data, whole) == 0
    draw = Episodes.__getitem__

    def interrupt(self, index):
        if index == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Episodes, "__getitem__", interrupt)
        assert train(data, cut) == 130
    assert f"Stopped after step 4. Go on: pyro-kanerva train --run {cut} --resume" in capsys.readouterr().out
    assert len((cut / "metrics.jsonl").read_text().splitlines()) == 4
    assert not (cut / "evaluation.json").exists()
    assert main(["train", "--run", str(cut), "--resume", "--device", "cpu", "--recall-episodes", "2"]) == 0
    for name in ("metrics.jsonl", "evaluation.json", "config.json"):
        assert (cut / name).read_text() == (whole / name).read_text()


def test_a_finished_run_trains_longer(data, tmp_path, capsys):
    run = tmp_path / "run"
    assert train(data, run) == 0
    advice = capsys.readouterr().out.splitlines()[-3:]
    assert [line.split(":")[0] for line in advice] == ["use it", "in Python", "train longer"]
    command, *arguments = advice[-1].partition(":")[2].split()
    assert (command, arguments) == ("pyro-kanerva", ["train", "--run", str(run), "--resume", "--steps", "12"])
    assert main([*arguments[:-1], "9", "--device", "cpu", "--recall-episodes", "2"]) == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 9
    assert json.loads((run / "config.json").read_text())["steps"] == 9
    assert train(data, run, "--resume", "--steps", "8") == 1
    assert "steps was 9, now 8. Only --steps may grow." in capsys.readouterr().err
    (run / "checkpoint.pt").unlink()
    before = (run / "config.json").read_text()
    assert train(data, run, "--resume", "--steps", "12") == 1
    assert (run / "config.json").read_text() == before
    assert train(data, tmp_path / "nothing", "--resume") == 1
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("address_prior", ["mixture", "slots", "gaussian", "simplex"])
def test_every_address_prior_trains(data, tmp_path, address_prior):
    assert train(data, tmp_path / "run", "--address-prior", address_prior) == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["address_prior"], config["network"]) == (address_prior, RECIPES[address_prior]["network"])
    assert json.loads((tmp_path / "run" / "evaluation.json").read_text())["never_rose"] == 1


def test_an_exported_machine_is_used_instead_of_a_run(data, tmp_path, monkeypatch, capsys):
    run, machine = tmp_path / "run", tmp_path / "machine.safetensors"
    assert train(data, run) == 0
    assert main(["export", "--run", str(run), "--out", str(machine), "--license", "MIT"]) == 0
    assert f"machine: {machine}, " in capsys.readouterr().out
    card = pretrained_card(machine)
    assert (card["license"], card["config"]["data"]) == ("MIT", "images.npz")
    assert set(card) == {"config", "license", "source", "evaluation"}
    assert card["evaluation"] == json.loads((run / "evaluation.json").read_text())
    monkeypatch.chdir(tmp_path)
    options = ["--pretrained", str(machine), "--data", str(data)]
    assert main(["query", *options]) == 0
    assert main(["generate", *options, "--samples", "3"]) == 0
    assert main(["evaluate", *options, "--recall-episodes", "2"]) == 0
    folder = tmp_path / "kanerva-machine"
    names = ("query.png", "samples.png", "recall.png", "evaluation.json")
    assert {path.name for path in folder.iterdir()} >= set(names)
    assert main(["query", "--run", str(run), "--data", str(data), "--data-where", "split=1"]) == 1
    assert "--data-where goes with --pretrained" in capsys.readouterr().err
    assert main(["query", *options, "--run", str(run)]) == 1
    assert "holds a run of its own" in capsys.readouterr().err
    assert main(["query", "--pretrained", str(machine)]) == 1
    assert "--data has images of shape (1, 28, 28); " in capsys.readouterr().err
    # the card must be of the parameters that are exported
    evaluation = (run / "evaluation.json").read_text()
    assert train(data, run, "--resume", "--steps", "7") == 0
    for content in (evaluation, None):
        (run / "evaluation.json").unlink()
        if content is not None:
            (run / "evaluation.json").write_text(content)
        assert main(["export", "--run", str(run), "--out", str(machine)]) == 1
        assert "is not an evaluation of these parameters" in capsys.readouterr().err
        if content is not None:
            continue
        assert main(["evaluate", "--run", str(run), "--recall-episodes", "2"]) == 0
        assert main(["export", "--run", str(run), "--out", str(machine)]) == 0
    assert main(["query", "--pretrained", str(machine), "--data-where", "split=1"]) == 1
    assert "--data-where goes with --data PATH" in capsys.readouterr().err
    assert main(["query", "--pretrained", "nothing"]) == 1
    assert "there is no machine nothing" in capsys.readouterr().err


def test_an_existing_run_is_not_overwritten(data, tmp_path, capsys):
    assert train(data, tmp_path / "run") == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert train(data, tmp_path / "run", "--seed", "1") == 1
    assert "holds a checkpoint already" in capsys.readouterr().err
    assert train(data, tmp_path / "run", "--seed", "1", "--resume") == 1
    assert "seed was 0, now 1" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize("content", ["{", '{"data": "glyphs"}'])
def test_broken_configuration(data, tmp_path, capsys, content):
    (tmp_path / "config.json").write_text(content)
    assert main(["query", "--run", str(tmp_path)]) == 1
    assert train(data, tmp_path, "--resume") == 1
    assert capsys.readouterr().err.count("config.json is broken or of another version") == 2


def test_training_does_not_depend_on_the_global_seed(data, tmp_path):
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        train(data, tmp_path / str(seed))
        losses.append((tmp_path / str(seed) / "metrics.jsonl").read_text())
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--data", "nothing.npz"], "nothing.npz"),
        (["train", "--held-out", "10"], "--held-out goes with --data PATH"),
        (["train", "--device", "abacus"], "--device abacus cannot be used here.*Try auto"),
        (["query", "--run", "nowhere"], "nowhere holds no run; make one with: pyro-kanerva train --run nowhere"),
        (["train", "--held-out-where", "split=1"], "--held-out goes with --data PATH"),
        (["train", "--held-out-where", "split=1", "--held-out", "9", "--data", "DATA"], "two ways to hold images out"),
        (["train", "--held-out-where", "split", "--data", "DATA"], "expected NAME=VALUE with an integer VALUE"),
        (["train", "--held-out-where", "split=1", "--data", "DATA"], "has no array 'split' of labels"),
        (["train", "--held-out", "60", "--data", "DATA"], "--held-out is 60; expected 1 to 59"),
        (["train", "--held-out", "1", "--data", "DATA", "--episode-length", "4"], "Hold out more images"),
        (
            ["train", "--data", "DATA", "--episode-length", "8"],
            "--episode-length 8: 15 held-out .* Use at most 7, or hold",
        ),
        (
            ["train", "--data", "DATA", "--episode-length", "5", "--held-out", "56"],
            "4 training images. Use at most that",
        ),
        (
            ["train", "--data", "DATA", "--episode-length", "4", "--batch-size", "12"],
            "images make 11 episodes of 4. Use at",
        ),
        (["train", "--device", "meta"], "--device meta cannot be used here"),
        (["train", "--writer", "frame"], "--writer frame .* does not fit --address-prior mixture. Leave --writer out"),
        (["train", "--config", "nothing.json"], "--config nothing.json is no JSON file"),
        (["train", "--data", "DATA", *SMALL, "--learning-rate", "1e6", "--steps", "9"], "NaN or infinite entries"),
    ],
)
def test_errors_are_told_without_a_traceback(data, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(data) if argument == "DATA" else argument for argument in arguments]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("pyro-kanerva: error: ")
    assert re.search(message, error)


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_trains(data, tmp_path, writer):
    run = tmp_path / "run"
    assert train(data, run, "--address-prior", "gaussian", "--writer", writer) == 0
    assert load_config(run)["writer"] == writer
    machine = load_run(run).machine
    assert type(machine.writer) is {
        "online": OnlineWriter, "frame": FrameWriter, "pseudo-inverse": PseudoInverseWriter,
        "amortized": AmortizedWriter,
    }[writer]  # fmt: skip
    assert json.loads((run / "evaluation.json").read_text())["never_rose"] == 1
    exported = tmp_path / "machine.safetensors"
    assert main(["export", "--run", str(run), "--out", str(exported)]) == 0
    assert type(pretrained(exported).writer) is type(machine.writer)


def test_a_run_without_the_key_of_the_writer(data, tmp_path):
    """As an earlier version wrote it."""
    run = tmp_path / "run"
    assert train(data, run) == 0
    config = json.loads((run / "config.json").read_text())
    assert config.pop("writer") is None
    (run / "config.json").write_text(json.dumps(config))
    assert main(["query", "--run", str(run)]) == 0
    assert train(data, run, "--resume", "--steps", "7") == 0


def test_the_options_of_another_run(data, tmp_path, capsys):
    assert train(data, tmp_path / "first", "--memory-scale", "None", "--seed", "4") == 0
    config = tmp_path / "first" / "config.json"
    options = ["--config", str(config), "--device", "cpu", "--recall-episodes", "2"]
    assert main(["train", *options, "--run", str(tmp_path / "same")]) == 0
    for name in ("config.json", "metrics.jsonl"):
        assert (tmp_path / "same" / name).read_text() == (tmp_path / "first" / name).read_text()
    for order in (["--slots", "5", *options], [*options, "--slots", "5"]):
        run = tmp_path / f"other-{order[0]}"
        assert main(["train", *order, "--run", str(run)]) == 0
        assert load_config(run) == {**load_config(tmp_path / "first"), "slots": 5}
    for content, message in (
        ({"slot": 3}, "has the unknown key 'slot'; expected keys as in config.json of a run"),
        ({"slots": "3"}, "slots is '3', of type str; expected a value of --slots"),
        ({"slots": None}, "slots is None, of type NoneType; expected a value of --slots"),
        ({"steps": None}, "steps is None, of type NoneType; expected a value of --steps"),
        ({"data": 3}, "data is 3, of type int; expected a value of --data"),
        ([3], "has a list; expected values by name"),
    ):
        config.write_text(json.dumps(content))
        assert main(["train", *options]) == 1
        assert message in capsys.readouterr().err
    for content, option in (({"slots": 3.5}, "slots"), ({"seed": True}, "seed"), ({"writer": "x"}, "writer")):
        config.write_text(json.dumps(content))
        with pytest.raises(SystemExit, match="2"):
            main(["train", *options])
        assert f"argument --{option}: " in capsys.readouterr().err
    config.write_text("{")
    assert main(["train", *options]) == 1
    assert "is no JSON file" in capsys.readouterr().err


def test_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "pyro_kanerva", "--help"], capture_output=True, text=True, check=True
    )
    assert "pyro-kanerva train" in result.stdout


def test_images_held_out_by_a_label(tmp_path, capsys):
    path = tmp_path / "images.npz"
    images = (np.random.default_rng(0).random((60, 9, 11)) < 0.2).astype(np.uint8) * 255
    np.savez(path, images=images, split=np.repeat([0, 1], [40, 20]))
    assert train(path, tmp_path / "run", "--held-out-where", "split=1") == 0
    assert "40 training images, 20 held out" in capsys.readouterr().out
    assert main(["query", "--run", str(tmp_path / "run"), "--episode", "4"]) == 0
    assert main(["query", "--run", str(tmp_path / "run"), "--episode", "5"]) == 1
    assert "--episode is 5; expected 0 to 4" in capsys.readouterr().err  # 20 images make 5 episodes of 4
