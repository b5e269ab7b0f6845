"""Runs and streams that are killed at random moments, and files with random damage."""

import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from helpers import ROOT, assert_same_memory, flip_bit, linear_machine
from PIL import Image

from pyro_kanerva import Memory, load_images
from pyro_kanerva.cli import main
from pyro_kanerva.runs import load_run
from pyro_kanerva.training.checkpoint import cut_metrics

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="SIGKILL")]

KILLS = 50
SIZES = "--slots 4 --code-size 8 --width 8 --episode-length 4 --batch-size 2 --recall-episodes 2 --device cpu"
COMMAND = ["train", "--data", "data.npz", *SIZES.split(), "--steps", "400", "--checkpoint-every", "1"]


# The parent forks a process for each kill: the imports take longer than a run.
SERVER = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})  # of the helpers
    {before}
    for line in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            {body}
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def kill_again_and_again(before, body, longest, most):
    """Run ``body`` until it ends, and kill it up to ``most`` times, each after up to ``longest`` seconds.

    :return: the number of kills.
    """
    code = textwrap.dedent(SERVER).format(tests=str(ROOT / "tests"), before=before, body=body)
    moments, killed = random.Random(most), 0
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as server:
        while True:
            print(killed, file=server.stdin, flush=True)
            child = int(server.stdout.readline())
            if killed < most:
                time.sleep(moments.uniform(0, longest))
                os.kill(child, signal.SIGKILL)
            status = int(server.stdout.readline())
            assert status in (0, -signal.SIGKILL), status
            killed += status != 0
            if status == 0:
                break
        server.stdin.close()
    return killed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a file of images."""
    monkeypatch.chdir(tmp_path)
    images = (np.random.default_rng(0).random((60, 9, 11)) < 0.2).astype(np.uint8) * 255
    np.savez("data.npz", images=images)
    return tmp_path


def test_training_killed_again_and_again(folder):
    assert main([*COMMAND, "--run", "whole"]) == 0
    before, killed = "from pyro_kanerva.cli import main", 0
    new = [*COMMAND, "--run", "cut"]
    resume = ["train", "--run", "cut", "--resume", *SIZES.split()[-4:], "--checkpoint-every", "1"]
    body = f"os._exit(main({resume!r} if os.path.exists('cut/checkpoint.pt') else {new!r}))"
    while killed < KILLS:  # a run may end before it was killed often enough
        killed += kill_again_and_again(before, body, 0.7, KILLS - killed)
        whole, cut = (load_run(name).machine.state_dict() for name in ("whole", "cut"))
        assert all(torch.equal(whole[name], cut[name]) for name in whole)
        for name in ("metrics.jsonl", "config.json", "evaluation.json"):
            assert (folder / "cut" / name).read_bytes() == (folder / "whole" / name).read_bytes()
        assert sorted(os.listdir("cut")) == sorted(os.listdir("whole"))
        shutil.rmtree("cut")


def seeded_machine():
    torch.manual_seed(0)
    return linear_machine(6, 8)


def chunks():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 7, 8, generator=generator) for _ in range(3000)]


def write(path):
    machine = seeded_machine()
    return machine.write(iter(chunks()), path=path, save_every=1, resume=os.path.exists(path))


def test_a_stream_killed_again_and_again(tmp_path):
    path = tmp_path / "memory.pt"
    before = f"import runpy; write = runpy.run_path({__file__!r})['write']"
    machine, killed = seeded_machine(), 0
    expected = machine.write(iter(chunks()))
    while killed < KILLS:  # the stream may end before it was killed often enough
        killed += kill_again_and_again(before, f"write({str(path)!r})", 0.5, KILLS - killed)
        assert_same_memory(Memory.load(path, machine), expected)
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


# ---------------------------------------------------------------------- damage


def damaged(content, number=200):
    """``content``, bytes, with a flipped bit, with a random byte, or cut off."""
    rng = np.random.default_rng(0)
    for index in range(number):
        place = int(rng.integers(len(content)))
        if index % 4 == 3:
            yield content[:place]
        elif index % 4 == 2:
            yield content[:place] + rng.bytes(1) + content[place + 1 :]
        else:
            yield flip_bit(content, place, rng.integers(8))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["config.json", "episodes.npz", "checkpoint.pt", "evaluation.json"])
def test_a_damaged_file_of_a_run(folder, capsys, name):
    """Told, or without an effect; of evaluation.json, a text without a digest, another number is not noticed."""
    assert main([*COMMAND[:-4], "--steps", "3", "--run", "run"]) == 0
    path = folder / "run" / name
    whole = path.read_bytes()
    kept = {other.name: other.read_bytes() for other in path.parent.iterdir()}
    command = {
        "config.json": ["query", "--run", "run", "--steps", "1"],
        "evaluation.json": ["export", "--run", "run", "--out", "machine"],
    }.get(name, ["query", "--run", "run", "--steps", "1"])
    capsys.readouterr()
    assert main(command) == 0
    expected, refused = capsys.readouterr().out, 0
    for content in damaged(whole):
        path.write_bytes(content)
        try:
            status = main(command)
        except SystemExit as stop:
            status = stop.code
        out, error = capsys.readouterr()
        assert status in (0, 1, 2)
        if status:
            refused += 1
            assert "error: " in error
        elif name in ("episodes.npz", "checkpoint.pt", "config.json"):
            assert out == expected
        for other, before in kept.items():
            (path.parent / other).write_bytes(before)
    assert refused > 10


@pytest.mark.filterwarnings("default")
def test_damaged_metrics(tmp_path):
    """Lines that cannot be read are written anew; a number that is another one is not noticed."""
    path, losses = tmp_path / "metrics.jsonl", [12.5, 11.25, 10.125]
    lines = [{"step": step, "loss": loss, "learning_rate": 1e-3} for step, loss in enumerate(losses, 1)]
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    for content in damaged(whole):
        path.write_bytes(content)
        cut_metrics(path, losses)
        found = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["step"] for line in found] == [1, 2, 3]
        assert sum(line["loss"] == loss for line, loss in zip(found, losses, strict=True) if "loss" in line) >= 1


def save_npz(path, images):
    np.savez_compressed(path, images=images)


def save_idx(path, images):
    sizes = b"".join(size.to_bytes(4, "big") for size in images.shape)
    path.write_bytes(b"\0\0\x08\x03" + sizes + images.tobytes())


def save_gz(path, images):
    save_idx(path, images)
    path.write_bytes(gzip.compress(path.read_bytes()))


def save_picture(path, images):
    Image.fromarray(images[0]).save(path)


KINDS = {
    "a.npz": save_npz, "a.npy": lambda path, images: np.save(path, images), "a-ubyte": save_idx, "a.gz": save_gz,
    "folder/a.png": save_picture, "folder/a.jpg": save_picture,
}  # fmt: skip


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", KINDS)
def test_damaged_images(tmp_path, name):
    """A ``ValueError``, or images of uint8; formats without a checksum may have other pixels, which a run notices."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (5, 9, 11), np.uint8)
    KINDS[name](path, images)
    source = path.parent if "/" in name else path
    expected, refused = load_images(source).images, 0
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        try:
            found = load_images(source).images
        except ValueError as error:
            refused += str(source) in str(error)
            continue
        assert found.dtype == torch.uint8
        if name in ("a.npz", "a.gz"):
            assert torch.equal(found, expected)
    assert refused > 10


@pytest.mark.filterwarnings("default")
def test_a_run_notices_images_with_one_other_pixel(folder, capsys):
    np.save("data.npy", np.load("data.npz")["images"])
    assert main([*COMMAND[:-4], "--data", "data.npy", "--steps", "3", "--run", "run"]) == 0
    assert json.loads((folder / "run" / "config.json").read_text())["data"].endswith("data.npy")
    whole, command = (folder / "data.npy").read_bytes(), ["query", "--run", "run", "--steps", "1"]
    capsys.readouterr()
    assert main(command) == 0
    expected = capsys.readouterr().out
    for content in damaged(whole):
        (folder / "data.npy").write_bytes(content)
        assert main(command) == 1 or capsys.readouterr().out == expected
