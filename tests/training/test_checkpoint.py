"""Checkpoints: what a run has learned comes back, and broken or foreign files are refused."""

import subprocess
import sys
import time

import pytest
import torch

from pyro_kanerva import fit
from pyro_kanerva.training import load_checkpoint


def test_load_checkpoint(make_machine, episodes, tmp_path):
    """Parameters and losses of a run, whatever its settings, and the state of an optimizer that is given."""
    machine, other = make_machine(), make_machine()
    losses = fit(machine, episodes, num_steps=3, folder=tmp_path, progress=False).losses
    optimizer = torch.optim.Adam(other.parameters())
    assert load_checkpoint(tmp_path, other, optimizer) == losses
    torch.testing.assert_close(dict(other.state_dict()), dict(machine.state_dict()), rtol=0, atol=0)
    assert all(state["step"] == 3 for state in optimizer.state_dict()["state"].values())
    assert load_checkpoint(tmp_path, other, settings={"loss": "TraceMeanField_ELBO", "seed": 0}) == losses
    with pytest.raises(ValueError, match="seed was 0, now 1"):
        load_checkpoint(tmp_path, other, settings={"loss": "TraceMeanField_ELBO", "seed": 1})


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
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
    finally:
        process.kill()
        process.wait()
    content = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert len(content["state"]["losses"]) >= 1


def test_bad_checkpoints(make_machine, episodes, tmp_path):
    options = {"folder": tmp_path, "progress": False}
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        fit(make_machine(), episodes, num_steps=2, resume=True, **options)
    fit(make_machine(), episodes, num_steps=2, **options)
    with pytest.raises(ValueError, match=r"holds a checkpoint already\. Go on from it with resume"):
        fit(make_machine(), episodes, num_steps=2, **options)
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001, now 0\.1.*Pass the same"):
        fit(make_machine(), episodes, num_steps=2, learning_rate=0.1, resume=True, **options)
    with pytest.raises(ValueError, match=r"num_steps is 1; expected at least 2, the steps of the run"):
        fit(make_machine(), episodes, num_steps=1, resume=True, **options)
    with pytest.raises(ValueError, match="machine of another build"):
        fit(make_machine(slots=4), episodes, num_steps=2, resume=True, **options)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole pyro_kanerva checkpoint file"):
        fit(make_machine(), episodes, num_steps=2, resume=True, **options)
