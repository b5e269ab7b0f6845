"""Runs that are opened again: by Python, after their data have moved, with other data, and those that fit() made."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from helpers import small_machine

import pyro_kanerva as pk
from pyro_kanerva import _files
from pyro_kanerva.cli import main
from pyro_kanerva.runs import held_out_episodes, load_split
from pyro_kanerva.weights import build_machine

SIZES = {"slots": 4, "code-size": 8, "width": 8, "episode-length": 4, "batch-size": 2, "recall-episodes": 2}
SMALL = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]
CONFIG = {
    "network": "mlp", "width": 8, "code_size": 8, "slots": 4, "memory_scale": None, "address_prior": "gaussian",
    "code_scale": 0.5, "seed": 3,
}  # fmt: skip


def images(seed=0):
    return (np.random.default_rng(seed).random((60, 9, 11)) < 0.2).astype(np.uint8) * 255


def train(data, run, *more):
    return main(["train", "--data", str(data), "--run", str(run), "--steps", "3", "--device", "cpu", *SMALL, *more])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the data and the run."""
    folder = tmp_path_factory.mktemp("trained")
    np.savez(folder / "images.npz", images=images())
    assert train(folder / "images.npz", folder / "run") == 0
    return folder


@pytest.fixture
def moved(trained, tmp_path):
    """A copy of the run, whose data are in another place."""
    shutil.copytree(trained / "run", tmp_path / "run")
    shutil.copy(trained / "images.npz", tmp_path / "moved.npz")
    config = json.loads((tmp_path / "run/config.json").read_text())
    (tmp_path / "run/config.json").write_text(json.dumps({**config, "data": str(tmp_path / "images.npz")}))
    return tmp_path


def as_older(run):
    """The run as earlier versions wrote it: no digest, no episodes, and a checkpoint that does not know the machine."""
    config = json.loads((run / "config.json").read_text())
    del config["data_digest"]
    (run / "config.json").write_text(json.dumps(config))
    (run / "episodes.npz").unlink()
    header, state = _files.load(run / "checkpoint.pt", "checkpoint")
    for name in ("config", "event_shape", "episode_length", "batch_size", "steps"):
        del header[name]
    _files.save(run / "checkpoint.pt", "checkpoint", header, state)


def test_load_run(trained):
    machine, config, held_out, episodes = run = pk.load_run(trained / "run")
    assert isinstance(run, pk.Run)
    state = _files.load(trained / "run/checkpoint.pt", "checkpoint")[1]["machine"]
    torch.testing.assert_close(dict(machine.state_dict()), dict(state), rtol=0, atol=0)
    assert (config["slots"], config["steps"], machine.config) == (4, 3, config)
    assert torch.equal(held_out, load_split(config)[1])
    assert torch.equal(episodes, torch.cat(list(held_out_episodes(config, held_out, 2)))[:2])
    assert (trained / "run/episodes.npz").stat().st_size < 5000
    assert machine.write(episodes).read(episodes).shape == (2, 4, 1, 9, 11)


def test_a_run_after_its_data_have_moved(moved, capsys):
    run, new = moved / "run", ["--data", str(moved / "moved.npz")]
    before = json.loads((run / "evaluation.json").read_text())
    opened = pk.load_run(run)
    assert opened.held_out is None
    assert torch.equal(opened.episodes, pk.load_run(run, moved / "moved.npz").episodes)
    assert len(pk.load_run(run, moved / "moved.npz").held_out) == 15
    for command in (["evaluate", "--recall-episodes", "2"], ["query", "--episode", "1"]):
        assert main([*command, "--run", str(run)]) == 1
        error = capsys.readouterr().err
        assert re.search(
            r"images.npz is not there, and .*run was trained on it. Pass its new place: --data PATH", error
        )
        assert main([*command, "--run", str(run), *new]) == 0
    assert json.loads((run / "evaluation.json").read_text()) == before
    capsys.readouterr()
    assert main(["query", "--run", str(run)]) == 0  # the episode of the pictures
    without = capsys.readouterr().out
    assert main(["query", "--run", str(run), *new]) == 0
    assert capsys.readouterr().out == without
    assert main(["query", "--run", str(run), *new, "--episode", "0"]) == 0
    assert capsys.readouterr().out != without
    assert main(["generate", "--run", str(run), "--samples", "2"]) == 0
    assert main(["export", "--run", str(run), "--out", str(moved / "machine")]) == 0
    assert train(moved / "moved.npz", run, "--resume", "--steps", "4") == 0
    assert json.loads((run / "config.json").read_text())["data"] == str(moved / "moved.npz")
    assert main(["evaluate", "--run", str(run), "--recall-episodes", "2"]) == 0


def test_other_data_are_refused(moved, capsys):
    run = moved / "run"
    np.savez(moved / "other.npz", images=images(seed=1))
    for command in ("evaluate", "query", "generate"):
        assert main([command, "--run", str(run), "--data", str(moved / "other.npz")]) == 1
        assert "other.npz holds other images than those of the run, which were in" in capsys.readouterr().err
    out = ["--out", str(moved / "machine")]
    assert main(["export", "--run", str(run), "--data", str(moved / "other.npz"), *out]) == 1
    shutil.copy(moved / "other.npz", moved / "images.npz")
    with pytest.raises(ValueError, match=r"images.npz holds other images than those of the run.*or data= in Python"):
        pk.load_run(run)
    assert train(moved / "other.npz", run, "--resume", "--steps", "4") == 1
    assert "data was" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match=r"nothing.npz"):
        pk.load_run(run, "nothing.npz")


def test_an_older_run_still_opens(moved, capsys):
    run, new = moved / "run", ["--data", str(moved / "moved.npz")]
    as_older(run)
    with pytest.raises(ValueError, match=r"images.npz is not there.*Pass its new place"):
        pk.load_run(run)
    opened = pk.load_run(run, moved / "moved.npz")
    assert (len(opened.held_out), opened.episodes) == (15, None)
    for command in (["query"], ["export", "--out", str(moved / "machine")], ["evaluate", "--recall-episodes", "2"]):
        assert main([*command, "--run", str(run), *new]) == 0
    assert pk.load_run(run, moved / "moved.npz").episodes is not None  # since evaluate drew the pictures


def test_a_run_of_fit(tmp_path, capsys):
    """The checkpoint knows the machine, but not the data."""
    np.savez(tmp_path / "new.npz", images=images())
    machine, run = build_machine(CONFIG, (1, 9, 11)), tmp_path / "run"
    machine.config["data"] = "the data of another training"
    episodes = pk.Episodes(torch.from_numpy(images(1)), 4, 2)
    pk.fit(machine, episodes, num_steps=3, learning_rate=0.002, folder=run, progress=False)
    before = {path.name for path in run.iterdir()}
    opened = pk.load_run(run)
    assert {path.name for path in run.iterdir()} == before == {"checkpoint.pt", "metrics.jsonl"}
    torch.testing.assert_close(dict(opened.machine.state_dict()), dict(machine.state_dict()), rtol=0, atol=0)
    known = {"learning_rate": 0.002, "steps": 3, "episode_length": 4, "batch_size": 2, "seed": 3, "data": None}
    assert known.items() <= opened.config.items()
    assert (opened.held_out, opened.episodes) == (None, None)
    assert len(pk.load_run(run, tmp_path / "new.npz").held_out) == 60
    assert main(["query", "--run", str(run)]) == 1
    assert "does not know where its images came from. Pass images that training did not" in capsys.readouterr().err
    assert main(["query", "--run", str(run), "--data", "glyphs"]) == 1
    assert "--data has images of shape (1, 28, 28); " in capsys.readouterr().err
    new = ["--run", str(run), "--data", str(tmp_path / "new.npz")]
    assert main(["query", *new]) == 0
    assert main(["evaluate", *new, "--recall-episodes", "2"]) == 0
    assert main(["export", "--run", str(run), "--out", str(tmp_path / "machine")]) == 0
    assert pk.pretrained_card(tmp_path / "machine")["config"]["data"] is None
    assert main(["generate", "--run", str(run)]) == 0
    # and a machine that was saved is opened as one that was exported
    opened.machine.save(tmp_path / "machine.pt")
    pretrained = ["--pretrained", str(tmp_path / "machine.pt"), "--data", str(tmp_path / "new.npz")]
    assert main(["query", *pretrained, "--run", str(tmp_path / "pictures")]) == 0


def test_a_run_of_a_machine_of_your_own_parts(tmp_path, capsys):
    """It opens in Python alone, and the command line says how."""
    machine, other = small_machine(), small_machine()
    episodes = pk.Episodes((torch.rand(20, 1, 5, 7) < 0.3).float(), 4, 2)
    pk.fit(machine, episodes, num_steps=2, folder=tmp_path, progress=False)
    assert main(["query", "--run", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "a machine that was built in Python from its parts, which are not in the folder" in error
    (call,) = re.findall(r"call (.*)\.$", error, re.MULTILINE)
    eval(call, {"pyro_kanerva": pk, "machine": other})
    torch.testing.assert_close(dict(other.state_dict()), dict(machine.state_dict()), rtol=0, atol=0)


def test_broken_episodes(moved):
    (moved / "run/episodes.npz").write_bytes(b"half a file")
    with pytest.raises(ValueError, match=r"episodes.npz is broken .*Delete it, or run pyro-kanerva evaluate"):
        pk.load_run(moved / "run")
