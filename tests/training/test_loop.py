"""Training: losses fall, stops are clean, and a resumed run equals an uninterrupted one."""

import json
import os
import signal
import subprocess
import sys
import time

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_kanerva import Episodes, fit


@pytest.fixture
def episodes():
    return Episodes((torch.rand(40, 1, 5, 7) < 0.3).float(), 5, 4, seed=3)


def seeded(make_machine):
    torch.manual_seed(7)
    return make_machine()


def test_fit_lowers_the_loss_and_leaves_no_trace(make_machine, episodes):
    machine = seeded(make_machine)
    state = torch.get_rng_state()
    result = fit(machine, episodes, num_steps=80, learning_rate=1e-2, progress=False)
    assert len(result.losses) == 80
    assert not result.interrupted
    assert sum(result.losses[-10:]) < 0.9 * sum(result.losses[:10])
    assert torch.equal(torch.get_rng_state(), state)
    assert len(pyro.get_param_store()) == 0


def test_resumed_run_equals_uninterrupted_run(make_machine, episodes, tmp_path, monkeypatch):
    options = {"num_steps": 12, "checkpoint_every": 4, "progress": False}
    whole = fit(seeded(make_machine), episodes, folder=tmp_path / "whole", **options)

    class KilledError(Exception):
        pass

    def killed_at_7(index, draw=episodes.__class__.__getitem__):
        if index == 7:
            raise KilledError
        return draw(episodes, index)

    with monkeypatch.context() as patch:
        patch.setattr(Episodes, "__getitem__", lambda self, index: killed_at_7(index))
        with pytest.raises(KilledError):
            fit(seeded(make_machine), episodes, folder=tmp_path / "cut", **options)
    machine = make_machine()  # of other parameters: all comes from the checkpoint
    resumed = fit(machine, episodes, folder=tmp_path / "cut", resume=True, **options)
    assert resumed.losses == whole.losses
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0].splitlines()] == list(range(1, 13))
    assert "bound" in json.loads(lines[0].splitlines()[0])
    finished = fit(machine, episodes, folder=tmp_path / "cut", resume=True, **options)
    assert finished.losses == whole.losses


def test_ctrl_c_stops_after_the_step(make_machine, episodes, tmp_path, monkeypatch):
    options = {"num_steps": 12, "progress": False}
    whole = fit(seeded(make_machine), episodes, **options)
    draw = Episodes.__getitem__

    def interrupting(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, index)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Episodes, "__getitem__", interrupting)
        stopped = fit(seeded(make_machine), episodes, folder=tmp_path, **options)
    assert stopped.interrupted
    assert len(stopped.losses) == 6
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = fit(make_machine(), episodes, folder=tmp_path, resume=True, **options)
    assert resumed.losses == whole.losses
    assert not resumed.interrupted


def test_checkpoints_survive_a_kill(tmp_path):
    """A process killed at any moment leaves a whole checkpoint."""
    script = (
        "import torch, pyro_kanerva as pk; from pathlib import Path; torch.set_num_threads(1)\n"
        "machine = pk.KanervaMachine(pk.MLPEncoder((4,), 3, 8), pk.MLPDecoder(3, (4,), 8), "
        "memory_prior=pk.GaussianMemory(2, 3))\n"
        "episodes = pk.Episodes((torch.rand(40, 4) < 0.5).float(), 5, 4)\n"
        f"pk.fit(machine, episodes, num_steps=100000, folder={str(tmp_path)!r}, checkpoint_every=1, progress=False)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    process.wait()
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(content["state"]["losses"]) >= 1


def test_cue_channel_and_weights_are_used(make_machine, episodes):
    losses = {
        name: fit(seeded(make_machine), episodes, num_steps=2, progress=False, **options).losses[0]
        for name, options in {
            "plain": {},
            "no autoencoder": {"autoencoder_weight": 0.0},
            "light memory": {"memory_kl_weight": 0.1},
            "damaged cues": {"cue_channel": lambda x: 1 - x},
            "other noise": {"seed": 1},
            "other loss": {"loss": Trace_ELBO(max_plate_nesting=2)},
        }.items()
    }
    assert len(set(losses.values())) == len(losses)
    assert losses["no autoencoder"] < losses["plain"]
    assert losses["light memory"] < losses["plain"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps is 0"),
        ({"num_steps": 1, "checkpoint_every": 0}, "checkpoint_every 0"),
        ({"num_steps": 1, "learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"num_steps": 1, "resume": True}, "resume=True without a folder"),
    ],
)
def test_bad_options(make_machine, episodes, options, message):
    with pytest.raises(ValueError, match=message):
        fit(make_machine(), episodes, progress=False, **options)


def test_bad_checkpoints(make_machine, episodes, tmp_path):
    options = {"folder": tmp_path, "progress": False}
    with pytest.raises(FileNotFoundError):
        fit(make_machine(), episodes, num_steps=2, resume=True, **options)
    fit(make_machine(), episodes, num_steps=2, **options)
    with pytest.raises(ValueError, match=r"holds a checkpoint already\. Go on from it with resume"):
        fit(make_machine(), episodes, num_steps=2, **options)
    with pytest.raises(ValueError, match=r"num_steps was 2, now 3.*Pass the same"):
        fit(make_machine(), episodes, num_steps=3, resume=True, **options)
    with pytest.raises(ValueError, match="machine of another build"):
        fit(make_machine(slots=4), episodes, num_steps=2, resume=True, **options)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole pyro_kanerva checkpoint file"):
        fit(make_machine(), episodes, num_steps=2, resume=True, **options)


def test_divergence_is_named(make_machine, episodes):
    with pytest.raises(ValueError, match=r"learning.rate"):
        fit(make_machine(), episodes, num_steps=400, learning_rate=1e6, progress=False)
