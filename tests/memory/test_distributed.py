"""Several real processes write into one memory."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing.spawn import start_processes

from pyro_kanerva import (
    FrameWriter,
    GaussianMemory,
    KanervaMachine,
    Memory,
    NormalLikelihood,
    OnlineWriter,
    StreamRecord,
    distributed,
)

K, C, LENGTH = 12, 10, 24
LENGTHS = {"one block": (3, 3, 3, 3), "frame": (4, 1, 0, 2)}  # chunks of each process


class Identity(nn.Module):
    event_shape = (C,)

    def forward(self, x):
        return x


def machine(kind: str, seed: int = 0) -> KanervaMachine:
    torch.manual_seed(seed)
    prior = GaussianMemory(K, C, 1.0)
    writer = {"one block": OnlineWriter(4 * LENGTH), "frame": FrameWriter(prior)}[kind]
    return KanervaMachine(
        Identity(), Identity(), memory_prior=prior, writer=writer, likelihood=NormalLikelihood(0.3, learned=False)
    )


def chunk(rank: int, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * rank + number)
    return torch.randn(LENGTH - rank, C, generator=generator)


def chunks(kind: str, rank: int):
    return (chunk(rank, number) for number in range(LENGTHS[kind][rank]))


def join(rank: int, world: int, port: int, seconds: float = 60) -> None:
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=timedelta(seconds=seconds))


def run(job, world: int, *args: object, others_fail: bool = False) -> None:
    """``job(rank, world, port, *args)`` in ``world`` fresh processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = start_processes(job, (world, port, *args), world, join=False, start_method="spawn")
    if others_fail:
        for process in context.processes:
            process.join(60)
        return
    while not context.join():
        pass


def write_shard(rank: int, world: int, port: int, kind: str, folder: Path) -> None:
    join(rank, world, port)
    memory = machine(kind).write(chunk(9, 0))
    distributed.write(memory, chunks(kind, rank)).save(folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("kind", LENGTHS)
def test_processes_write_the_memory_of_one_process(kind, world, tmp_path):
    run(write_shard, world, kind, tmp_path)
    built = machine(kind)
    memories = [Memory.load(tmp_path / f"{rank}.pt", built) for rank in range(world)]
    start = built.write(chunk(9, 0))
    ranks = range(world)
    if kind == "one block":  # the chunks of a round are one chunk of a single process
        stream = [torch.cat([chunk(rank, number) for rank in ranks]) for number in range(3)]
    else:  # whatever the order
        stream = [part for rank in reversed(ranks) for part in chunks(kind, rank)]
    alone = start.write(stream)
    for memory in memories:
        for found, expected in (
            (memory.posterior.loc, alone.posterior.loc),
            (memory.posterior.row_covariance, alone.posterior.row_covariance),
        ):
            assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
        assert torch.equal(memory.posterior.loc, memories[0].posterior.loc)
        record = memory.records[-1]
        assert isinstance(record, StreamRecord)
        assert record.num_patterns == alone.records[-1].num_patterns
        assert record.num_chunks == max(LENGTHS[kind][:world])
    restored = memories[0].erase(memories[0].records[-1]).posterior
    assert (restored.loc - start.posterior.loc).abs().max() < 1e-4


def lose_one(rank: int, world: int, port: int, how: str, folder: Path) -> None:
    join(rank, world, port, seconds=3)

    def stream():
        for number in range(1000):
            if rank == 1 and number == 3:
                os.kill(os.getpid(), getattr(signal, how))
            yield chunk(rank, number)

    began = time.monotonic()
    try:
        distributed.write(machine("frame").prior_memory(), stream())
    except RuntimeError as error:
        (folder / "error").write_text(str(error))
        (folder / "seconds").write_text(str(time.monotonic() - began))
    if how == "SIGSTOP":
        os.kill(int((folder / "pid").read_text()), signal.SIGKILL)


def note_and_lose_one(rank: int, world: int, port: int, how: str, folder: Path) -> None:
    if rank == 1:
        (folder / "pid").write_text(str(os.getpid()))
    lose_one(rank, world, port, how, folder)


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_lost_process_is_an_error_and_no_hang(how, tmp_path):
    run(note_and_lose_one, 2, how, tmp_path, others_fail=True)
    assert "rank 0 lost another process, which is gone or was silent" in (tmp_path / "error").read_text()
    assert float((tmp_path / "seconds").read_text()) < 20


def fail_somewhere(rank: int, world: int, port: int, folder: Path) -> None:
    join(rank, world, port)
    said = []
    built = machine("frame")
    for streams in (
        iter([chunk(0, 0), chunk(0, 1) if rank == 0 else torch.full((3, C), torch.nan)]),
        iter([chunk(0, 0), chunk(0, 1) if rank == 0 else torch.zeros(3, C + 1)]),
        iter([]),
    ):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            distributed.write(built.prior_memory(), streams)
        said.append(str(caught.value))
    with pytest.raises(ValueError, match="differ") as caught:
        distributed.write(machine("frame", seed=rank).prior_memory(), [chunk(0, 0)])
    (folder / str(rank)).write_text("\n".join(said))
    dist.destroy_process_group()


def test_what_is_wrong_in_one_process_is_told_in_all(tmp_path):
    run(fail_somewhere, 2, tmp_path)
    here, there = ((tmp_path / str(rank)).read_text().splitlines() for rank in (0, 1))
    assert "another process failed" in here[0]
    assert "another process failed" in here[1]
    assert "NaN" in there[0]
    assert f"event shape ({C + 1},)" in there[1]
    assert "no process has a chunk" in here[2]
    assert "no process has a chunk" in there[2]


def test_without_a_group():
    with pytest.raises(ValueError, match=r"no process group.*memory\.write"):
        distributed.write(machine("frame").prior_memory(), [chunk(0, 0)])


@pytest.mark.parametrize("world", [2, 4])
def test_a_memory_whose_columns_are_shared_out(world):
    example = Path(__file__).parents[1] / "examples" / "sharded_memory.py"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(example)], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    held, whole = re.search(r"each holds ([\d.]+) MiB of a mean of ([\d.]+)", done.stdout).groups()
    assert float(held) == pytest.approx(float(whole) / world, abs=0.01)
    differences = [float(found) for found in re.findall(r"in one piece (\S+) of the largest", done.stdout)]
    assert len(differences) == 2
    assert max(differences) < 1e-5
