"""Hostile input: every error is one message that says what to do, without a traceback and without waiting."""

import errno
import gzip
import io
import json
import os
import pkgutil
import re
import shutil
import signal
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_kanerva import _files, glyphs
from pyro_kanerva.cli import main
from pyro_kanerva.datasets import fonts
from pyro_kanerva.training.checkpoint import FILE

SIZES = "--slots 4 --code-size 8 --width 8 --episode-length 4 --batch-size 2 --steps 3 --recall-episodes 2"
SMALL = [*SIZES.split(), "--device", "cpu"]
MANY = 10**9


def header_of(shape):
    """The first bytes of an .npy file of uint8."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def archive(path, content, announced=None):
    """An .npz file with one array; ``announced`` replaces the size of its content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", content)
    if announced is not None:
        whole = path.read_bytes()
        path.write_bytes(whole.replace(len(content).to_bytes(4, "little"), announced.to_bytes(4, "little")))


def png(width, height):
    """A picture without pixels, whose header announces a size."""

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    pixels = chunk(b"IDAT", zlib.compress(bytes(10)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size + bytes([8, 0, 0, 0, 0])) + pixels + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a trained run, its data, and files that are bad."""
    folder = tmp_path_factory.mktemp("hostile")
    images = (np.random.default_rng(0).random((60, 9, 11)) < 0.2).astype(np.uint8) * 255
    np.savez(folder / "data.npz", images=images)
    assert main(["train", "--data", str(folder / "data.npz"), "--run", str(folder / "run"), *SMALL]) == 0
    np.savez(folder / "few.npz", images=images[:6])
    (folder / "many.npy").write_bytes(header_of((MANY, 28, 28)) + bytes(99))
    archive(folder / "many.npz", header_of((MANY, 28, 28)) + bytes(99))
    archive(folder / "bomb.npz", header_of((300, 1000, 1000)) + bytes(3 * 10**8))
    archive(folder / "liar.npz", header_of((300, 1000, 1000)) + bytes(3 * 10**8), 1000)
    idx = b"\0\0\x08\x03" + b"".join(size.to_bytes(4, "big") for size in (3, 2, 2))
    (folder / "bomb.gz").write_bytes(gzip.compress(idx + bytes(3 * 10**8), 1))
    (folder / "many-ubyte").write_bytes(b"\0\0\x08\x03" + b"\xff" * 12)
    (folder / "zeros.npy").write_bytes(bytes(200))
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "pipe.npz")
    for name, content in (("huge", png(30000, 30000)), ("broken", b"\x89PNG\r\n\x1a\n" + bytes(30)), ("text", b"x")):
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(content)
    (folder / "piped").mkdir()
    os.mkfifo(folder / "piped" / "a.png")
    (folder / "linked").mkdir()
    (folder / "linked" / "a.png").symlink_to("nowhere")
    (folder / "empty").mkdir()
    (folder / "empty.npz").touch()
    (folder / "empty.json").touch()
    return folder


@pytest.fixture(autouse=True)
def no_waiting():
    """Whoever waits for more than half a minute fails."""

    def fail(*_):
        raise AssertionError("the command hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(30)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def message_of(capsys, arguments):
    """The error of a command, which has no traceback."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status in (1, 2), error
    assert "Traceback" not in error
    return " ".join(error.splitlines())


TRAIN = {
    "--episode-length 0": "argument --episode-length: 0 is not an integer from 1",
    "--width 0": "argument --width: 0 is not an integer from 1",
    "--width=-1": "argument --width: -1 is not an integer from 1",
    f"--seed {'1' * 30}": "argument --seed: 1{30} is not an integer from 0 to 4294967295",
    f"--seed {'1' * 5000}": "argument --seed: 1+ is not an integer from 0 to 4294967295",
    "--recall-episodes 0": "argument --recall-episodes: 0 is not an integer of at least 2",
    "--device meta": "--device meta cannot be used here .* Try auto",
    "--device cuda:99": "--device cuda:99 cannot be used here .* Try auto",
    "--device": "argument --device: expected one argument",
    "--data data.npz --held-out-where split=--1": "--held-out-where is split=--1; expected NAME=VALUE with an integer",
    "--data data.npz --held-out-where split=²": "--held-out-where is split=²; expected NAME=VALUE with an integer",
    f"--data data.npz --held-out-where split={'9' * 30}": "--held-out-where .* expected NAME=VALUE with an integer",
    "--data many.npy": "many.npy is not a whole NumPy file.* again",
    "--data many.npz": "many.npz .*Save .* again",
    "--data bomb.npz": "bomb.npz .*would become 300,000,.* again",
    "--data liar.npz": "liar.npz .* again",
    "--data bomb.gz": "bomb.gz .*would become 261,826,401 or more.*Download it again",
    "--data many-ubyte": "many-ubyte announces an array .* Download it again",
    "--data zeros.npy": "zeros.npy is not a whole NumPy file.* again",
    "--data empty.npz": "empty.npz is not a whole NumPy file.* again",
    "--data few.npz": "--episode-length 4: 1 held-out images .* more images",
    "--data huge": "huge/a.png is .*900000000 pixels.* Remove or replace it",
    "--data broken": "broken/a.png is not a whole picture .* Remove or replace it",
    "--data text": "text/a.png is not a whole picture .* Remove or replace it",
    "--data linked": "linked/a.png is not a whole picture .* Remove or replace it",
    "--data piped": "piped/a.png is no regular file.* Remove",
    "--data pipe": "pipe is no regular file.* [Pp]ass",
    "--data pipe.npz": "pipe.npz is no regular file.* [Pp]ass",
    "--data /dev/zero": "/dev/zero is no regular file.* [Pp]ass",
    "--data empty": "empty is a folder without PNG or JPEG files",
    "--config pipe": "pipe is no regular file.* [Pp]ass",
    "--config empty.json": "--config empty.json is no JSON file of options.* Pass the config.json of a run",
    "--config data.npz": "--config data.npz is no JSON file of options.* Pass the config.json of a run",
    "--config .": "--config . is no JSON file of options.* Pass the config.json of a run",
    "--run pipe": "argument --run: pipe is .*expected a folder",
    "--run run/config.json/x": "argument --run: .*expected a folder",
    "--run empty --resume": "empty holds no run; make one with: pyro-kanerva train --run empty",
}


@pytest.mark.parametrize("words", TRAIN)
def test_training(place, tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(place)
    new = tmp_path / "new"
    arguments = words.split()
    own = [] if "--resume" in words else SMALL
    run = [] if "--run" in words else ["--run", str(new)]
    message = message_of(capsys, ["train", *own, *run, *arguments])
    assert re.search(TRAIN[words], message), message
    assert not new.exists()


USE = {
    "query --image pipe": "pipe is no regular file.* [Rr]emove",
    "query --image huge/a.png": "huge/a.png .*900000000 pixels.* Remove or replace it",
    "query --image .": "is not a whole picture .* Remove or replace it|is no regular file",
    "query --image text/a.png": "text/a.png is not a whole picture .* Remove or replace it",
    "query --pretrained pipe": "there is no machine pipe; expected one of",
    "query --pretrained data.npz": "data.npz is not a whole file of a trained machine.*Use another copy",
    "query --pretrained letters --data pipe.npz": "pipe.npz is no regular file.* [Pp]ass",
    "query --run run --data few.npz": "few.npz holds other images than those of the run.*--data PATH",
    "evaluate --run run --data few.npz": "few.npz holds other images than those of the run.*--data PATH",
    "generate --run run --data few.npz": "few.npz holds other images than those of the run.*--data PATH",
    "export --run run --data few.npz --out out": "few.npz holds other images than those of the run.*--data PATH",
    "query --run empty": "empty holds no run; make one with: pyro-kanerva train --run empty",
    "evaluate --run run --recall-episodes 0": "argument --recall-episodes: 0 is not an integer of at least 2",
}


@pytest.mark.parametrize("words", USE)
def test_using(place, monkeypatch, capsys, words):
    monkeypatch.chdir(place)
    run = [] if "--run" in words or "--pretrained" in words else ["--run", "run"]
    message = message_of(capsys, [*words.split(), *run])
    assert re.search(USE[words], message), message


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    """A copy of the run, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(place / "run", tmp_path / "run")
    return tmp_path / "run"


RESUME = ["train", "--resume", "--steps", "4", "--device", "cpu", "--recall-episodes", "2", "--run", "run"]
COMMANDS = {
    "evaluate": ["evaluate", "--recall-episodes", "2", "--run", "run"],
    "query": ["query", "--run", "run"],
    "generate": ["generate", "--samples", "2", "--run", "run"],
    "export": ["export", "--out", "machine", "--run", "run"],
    "train": RESUME,
}
DEEP = "[" * 100_000


@pytest.mark.parametrize("content", ["null", "3", '"text"', "[]", "{}", "", "\0\xff", DEEP, "1" * 5000])
def test_a_configuration_that_is_none(run, capsys, content):
    (run / "config.json").write_bytes(content.encode("latin-1"))
    for command in COMMANDS.values():
        assert "config.json is broken or of another version; restore it, or train anew" in message_of(capsys, command)
    message = message_of(capsys, ["train", "--config", "run/config.json", "--run", "new", *SMALL, "--data", "x"])
    assert "--config run/config.json is no JSON file of options" in message or "there is no such file" in message


@pytest.mark.parametrize("value", [None, "x", [], {}, -1, 10**30, 0.5, True])
def test_a_configuration_with_other_values(run, capsys, value):
    """Refused if they are not those of the checkpoint, but for the data and the steps, which may change."""
    before = json.loads((run / "config.json").read_text())
    for name in before:
        if before[name] == value or name == "data_digest":
            continue
        (run / "config.json").write_text(json.dumps({**before, name: value}))
        if name in ("steps", "data") and isinstance(value, str if name == "data" else int):
            continue
        for command in COMMANDS.values():
            message = message_of(capsys, command)
            told = "config.json is broken or of another" in message or "config.json is not of the checkpoint" in message
            assert told, (name, message)


def test_a_configuration_of_another_run(place, run, capsys):
    assert main(["train", "--data", str(place / "data.npz"), "--run", "other", *SMALL, "--seed", "1"]) == 0
    shutil.copy("other/config.json", run)
    for command in COMMANDS.values():
        message = message_of(capsys, command)
        assert "config.json is not of the checkpoint beside it: seed is 1, in the checkpoint 0. Restore" in message


PARTS = {
    "none": lambda state: None,
    "an empty state": lambda state: {},
    "a list": lambda state: [state],
    **{f"no {name}": lambda state, name=name: {**state, name: None} for name in ("machine", "optimizer", "losses")},
    **{f"without {name}": lambda state, name=name: {key: value for key, value in state.items() if key != name}
       for name in ("machine", "optimizer", "losses")},
    "parameters of another machine": lambda state: {**state, "machine": {"weight": torch.zeros(3)}},
    "no tensors": lambda state: {**state, "machine": dict.fromkeys(state["machine"], 3)},
    "an empty optimizer": lambda state: {**state, "optimizer": {}},
    "texts for losses": lambda state: {**state, "losses": ["x"] * 3},
}  # fmt: skip


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_without_its_parts(run, capsys, part):
    header, state = _files.load(run / FILE, "checkpoint")
    _files.save(run / FILE, "checkpoint", header, PARTS[part](state))
    message = message_of(capsys, RESUME)
    assert "checkpoint.pt" in message
    assert re.search("train anew|Build the machine with", message)
    if "optimizer" not in part:
        assert "checkpoint.pt" in message_of(capsys, COMMANDS["query"])


@pytest.mark.parametrize("header", [None, [], 3, {}])
def test_a_checkpoint_without_its_header(run, capsys, header):
    _, state = _files.load(run / FILE, "checkpoint")
    _files.save(run / FILE, "checkpoint", header, state)
    assert "checkpoint.pt" in message_of(capsys, RESUME)


BROKEN_LINES = ["", "{", "null", "[1]", "3", '{"step": "x"}', '{"step": 2, "loss": "x"}', "\xff\0", DEEP]


@pytest.mark.filterwarnings("default:.*metrics.jsonl lacks")
@pytest.mark.parametrize("line", BROKEN_LINES)
def test_a_broken_line_of_the_metrics(run, capsys, line):
    whole = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (run / "metrics.jsonl").write_bytes(b"".join([whole[0], line.encode("latin-1") + b"\n", whole[2]]))
    assert main(COMMANDS["evaluate"]) == 0
    assert main(RESUME) == 0
    assert "metrics.jsonl lacks 1 steps; it gets their losses from the checkpoint" in capsys.readouterr().err
    again = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert [again[0], again[2], len(again)] == [whole[0], whole[2], 4]
    assert json.loads(again[1]) == {name: json.loads(whole[1])[name] for name in ("step", "loss")}


@pytest.mark.filterwarnings("default:.*metrics.jsonl lacks")
def test_metrics_that_are_not_there(run, capsys):
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    (run / "metrics.jsonl").unlink()
    assert main(COMMANDS["evaluate"]) == 0
    assert main(RESUME) == 0
    assert "lacks 3 steps" in capsys.readouterr().err
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines[:3]] == losses
    assert [line["step"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("content", ["", "null", "[]", "{", "\0", DEEP])
def test_a_broken_evaluation(run, capsys, content):
    (run / "evaluation.json").write_text(content)
    assert re.search("Restore it from a copy|Run: pyro-kanerva evaluate", message_of(capsys, COMMANDS["export"]))
    assert main(COMMANDS["evaluate"]) == 0


@pytest.mark.parametrize(
    "patterns",
    [
        np.zeros(3),
        np.zeros((2, 4, 1, 2, 2), np.float32),
        np.zeros((2, 4, 1, 9, 11), int),
        np.full((2, 4, 1, 9, 11), 0.5),
    ],
)
def test_episodes_of_something_else(run, capsys, patterns):
    np.savez(run / "episodes.npz", patterns=patterns)
    assert re.search(r"is broken .* Delete it|Binarize them", message_of(capsys, COMMANDS["query"]))


def test_a_full_disk(place, run, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {path.name: path.read_bytes() for path in run.iterdir()}
    monkeypatch.setattr(os, "fsync", full)
    for command in (RESUME, COMMANDS["evaluate"], COMMANDS["query"], COMMANDS["generate"], COMMANDS["export"]):
        message = message_of(capsys, command)
        assert re.search("No space left on device: '.*'. Free some space, or pass a folder on another disk", message)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert not Path("machine").exists()
    message = message_of(capsys, ["train", "--data", str(place / "data.npz"), "--run", "new", *SMALL])
    assert "No space left on device" in message


def test_no_home_folder(place, run, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    calls = []
    monkeypatch.setattr(fonts, "_render", lambda: calls.append(1) or (np.zeros((10, 28, 28), np.uint8), np.arange(10)))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "home", lambda: Path("~a user without a name").expanduser())  # a RuntimeError
        assert len(glyphs("test").images) == 2
    monkeypatch.setenv("HOME", str(place / "data.npz"))  # nothing can be written there
    assert len(glyphs("test").images) == 2
    assert len(calls) == 2


def test_resume_before_the_first_checkpoint(run, capsys):
    (run / FILE).unlink()
    for command in COMMANDS.values():
        assert "no checkpoint was written. Train from the start, without resume" in message_of(capsys, command)


def test_few_held_out_images(place, tmp_path, monkeypatch):
    """Fewer than the shortest episode of the curve of capacity."""
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, "--episode-length", "1", "--held-out", "3"]
    assert main(["train", "--data", str(place / "few.npz"), "--run", "run", *options]) == 0
    assert main([*COMMANDS["evaluate"], "--curves"]) == 0
    assert json.loads(Path("run/evaluation.json").read_text())["capacity"]["recall"][0] == [1]


def test_two_trainings_in_one_folder(place, run, capsys):
    lock = "import fcntl, os, sys; fcntl.flock(os.open('run', os.O_RDONLY), fcntl.LOCK_EX); print(flush=True); input()"
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    (run / FILE).rename("checkpoint")
    new = ["train", "--data", str(place / "data.npz"), "--run", "run", *SMALL, "--seed", "2"]
    with subprocess.Popen([sys.executable, "-c", lock], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        assert "run: another training is running there. Wait for it, or pass another" in message_of(capsys, new)
        Path("checkpoint").rename(run / FILE)
        assert "run: another training is running there." in message_of(capsys, RESUME)
        assert {path.name: path.read_bytes() for path in run.iterdir()} == before
        other.kill()  # leaves no lock
    assert main(RESUME) == 0


def test_data_that_changed_after_training(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with np.load(place / "data.npz") as content:
        images = content["images"]
    np.save("data.npy", images)
    assert main(["train", "--data", "data.npy", "--run", "run", *SMALL]) == 0
    images[7, 3, 3] ^= 255
    np.save("data.npy", images)
    for command in COMMANDS.values():
        message = message_of(capsys, command)
        assert re.search("data.npy holds other images than those of the run", message)


PHASES = {
    "reading the data": ("train", "pyro_kanerva.runs.load_split"),
    "a step of training": ("train", "pyro_kanerva.machine.KanervaMachine.training_pair"),
    "a batch": ("train", "pyro_kanerva.Episodes.__getitem__"),
    "parsing": ("query", "argparse.ArgumentParser.parse_args"),
    "opening": ("generate", "pyro_kanerva.runs.load_run"),
    "evaluating": ("evaluate", "pyro_kanerva.evaluation.evaluate_bound"),
    "a query": ("query", "pyro_kanerva.Memory.query"),
    "samples": ("generate", "pyro_kanerva.Memory.generate"),
    "a figure": ("query", "pyro_kanerva.cli.report.save"),
    "a write": ("export", "os.fsync"),
}


@pytest.mark.parametrize("phase", PHASES)
def test_ctrl_c(run, monkeypatch, capsys, phase):
    command, place = PHASES[phase]
    module, _, name = place.rpartition(".")
    owner = pkgutil.resolve_name(module)
    before = getattr(owner, name)

    def interrupt(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        return before(*arguments, **options)

    monkeypatch.setattr(owner, name, interrupt)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background may ignore it
    if phase == "opening":
        monkeypatch.setattr("pyro_kanerva.cli.opening.load_run", interrupt)
    arguments = [*COMMANDS[command][:-2], "--run", "run"]
    if phase == "a batch":
        arguments[arguments.index("4")] = "9"
    try:
        assert main(arguments) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "pyro-kanerva: interrupted\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["query", "--run", str(run)]) == 0  # the run is whole
    if phase == "a batch":
        assert len((run / "metrics.jsonl").read_text().splitlines()) == 4  # the step was finished, and kept
