"""The example of training in several processes: it learns what one process does, and no process waits forever."""

import contextlib
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from helpers import ROOT, start_group
from pyro.infer import TraceMeanField_ELBO

from pyro_kanerva import Episodes, glyphs

EXAMPLE = ROOT / "examples" / "train_distributed.py"
SIZES = {"slots": 4, "code-size": 8, "width": 32, "length": 8, "episodes": 4, "test-episodes": 32, "lr": 0.003}
SMALL = [word for name, size in SIZES.items() for word in (f"--{name}", str(size))]


@pytest.fixture
def example():
    return runpy.run_path(str(EXAMPLE))


def arguments(example, *more):
    return example["parser"]().parse_args([*SMALL, *more])


def train(rank, folder, *more):
    """What one of several processes does; it writes what it prints and its error into files."""
    example = runpy.run_path(str(EXAMPLE))
    with open(folder / f"printed {rank}", "w") as file, contextlib.redirect_stdout(file):
        try:
            example["main"](arguments(example, *more))
        except Exception as error:
            (folder / f"error {rank}").write_text(f"{type(error).__name__}: {error}")
            raise


def train_by_hand(example, args, *, world, first_rank=0):
    """Machine and optimizer after steps on whole batches, where the shares of ``world`` processes have their noise."""
    machine = example["build"](args)
    episodes = Episodes(glyphs("train"), args.length, args.episodes, seed=args.seed)
    optimizer = torch.optim.Adam(machine.parameters(), args.lr)
    loss_of = TraceMeanField_ELBO(max_plate_nesting=2)(*machine.training_pair())
    for step in range(args.steps):
        optimizer.zero_grad()
        for rank in range(world):
            torch.manual_seed(hash((args.seed, step, first_rank + rank)))
            (loss_of(episodes[step][rank::world]) / (args.episodes * args.length)).backward()
        optimizer.step()
    return machine, optimizer


def held_out_bound(machine, args):
    patterns = Episodes(glyphs("test"), args.length, args.test_episodes, seed=args.seed)[0]
    torch.manual_seed(args.seed)
    with torch.no_grad():
        return machine.bound(patterns).bound.mean().item()


def test_two_processes_make_the_steps_of_one(example, tmp_path):
    out, steps = tmp_path / "machine.pt", ("--steps", "20")
    group = start_group(2, __file__, "train", tmp_path, *steps, "--out", str(out))
    while not group.join():
        pass
    printed = (tmp_path / "printed 0").read_text()
    assert re.search(r"same parameters, of digests (\w{12}) \1\n", printed)
    args = arguments(example, *steps)
    machine, optimizer = train_by_hand(example, args, world=2)
    state = torch.load(out, weights_only=True)
    torch.testing.assert_close(state["machine"], dict(machine.state_dict()), rtol=1e-4, atol=1e-5)
    # Adam's steps do not depend on the size of the gradients; the averages that it keeps do.
    torch.testing.assert_close(state["optimizer"]["state"], optimizer.state_dict()["state"], rtol=1e-4, atol=1e-5)

    bound = -float(re.search(r"negative bound of 32 held-out episodes (\S+) nats", printed)[1])
    others = [train_by_hand(example, args, world=1, first_rank=rank)[0] for rank in range(5)]  # with other noise
    bounds = torch.tensor([held_out_bound(other, args) for other in others])
    assert abs(bound - bounds.mean()) < 5 * bounds.std()


@pytest.mark.slow
def test_torchrun():
    """The command of the example's docstring, without warnings."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(EXAMPLE)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    options = {"capture_output": True, "text": True, "timeout": 120, "env": environment}
    result = subprocess.run([*command, *SMALL, "--steps", "2"], **options)
    assert result.returncode == 0, result.stderr
    assert re.search(r"same parameters, of digests (\w{12}) \1\n", result.stdout)


def test_one_process(example, tmp_path, capsys):
    out = tmp_path / "machine.pt"
    bound = example["main"](arguments(example, "--steps", "4", "--out", str(out)))
    args = arguments(example, "--steps", "4")
    machine, _ = train_by_hand(example, args, world=1)
    torch.testing.assert_close(
        torch.load(out, weights_only=True)["machine"], dict(machine.state_dict()), rtol=0, atol=0
    )
    assert bound.mean().item() == held_out_bound(machine, args)
    assert f"negative bound of 32 held-out episodes {-bound.mean():.2f} nats per pattern" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["machine.pt"]


def test_training_goes_on_as_if_there_had_been_no_stop(example, tmp_path):
    whole = example["main"](arguments(example, "--steps", "4"))
    out = str(tmp_path / "machine.pt")
    example["main"](arguments(example, "--steps", "2", "--out", out))
    assert torch.equal(example["main"](arguments(example, "--steps", "4", "--out", out)), whole)
    with pytest.raises(ValueError, match=r"machine.pt is of a run with .*'lr': 0.003.*; pass the same, or another"):
        example["main"](arguments(example, "--steps", "4", "--out", out, "--lr", "0.1"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stuck"])
def test_a_process_that_is_lost_ends_the_other(number, example, tmp_path):
    out = tmp_path / "machine.pt"
    more = ["--steps", "1000000", "--save-every", "3", "--out", str(out), "--timeout", "6"]
    group = start_group(2, __file__, "train", tmp_path, *more)
    survivor, lost = group.processes
    try:
        give_up = time.monotonic() + 60
        while not out.exists() and survivor.is_alive() and time.monotonic() < give_up:
            time.sleep(0.05)
        os.kill(lost.pid, number)
        survivor.join(30)
    finally:
        for process in group.processes:
            process.kill()
            process.join()
    message = (tmp_path / "error 0").read_text()
    assert message.startswith(
        "RuntimeError: Rank 0 of 2: another process is gone, never came, or was silent for 6 seconds"
    )
    assert message.endswith(f"start all of them again; training goes on from {out}.")

    step = torch.load(out, weights_only=True)["step"]
    assert step % 3 == 0
    assert example["main"](arguments(example, "--steps", str(step + 1), "--out", str(out))).isfinite().all()
    assert torch.load(out, weights_only=True)["step"] == step + 1


def test_a_process_that_never_comes(example, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match=r"Rank 0 of 2: .*silent for 1 seconds.*; no checkpoint was written"):
        example["main"](arguments(example, "--timeout", "1"))


def test_errors_of_its_own_are_left_alone(example, monkeypatch):
    """A RuntimeError with another cause keeps its message."""
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: None)
    with (
        pytest.raises(RuntimeError, match=r"^my own$"),
        example["process_group"](arguments(example), 0, 2, torch.device("cpu")),
    ):
        raise RuntimeError("my own")


def test_a_batch_that_cannot_be_shared_out(example, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="--episodes is 4; expected a multiple of 3, the number of processes"):
        example["main"](arguments(example))


def test_different_parameters_are_found(example, monkeypatch):
    def gather(digests, digest):
        digests[:] = [digest, "other"]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    with pytest.raises(RuntimeError, match=r"different parameters, of digests \w{12} other"):
        example["check_equal"](example["build"](arguments(example)), 0, 2)
