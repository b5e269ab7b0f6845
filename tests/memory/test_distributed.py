"""Several processes write into one memory."""

import contextlib
import os
import re
import runpy
import signal
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import ROOT, assert_close_posteriors, linear_machine, start_group

from pyro_kanerva import (
    CategoricalAddress,
    FrameWriter,
    GaussianMemory,
    KanervaMachine,
    MatrixNormal,
    Memory,
    OnlineWriter,
    SlotWriter,
    StreamRecord,
)
from pyro_kanerva.memory import distributed

K, C, LENGTH = 12, 10, 24
KINDS = {"one block": (3, 3, 3, 3), "frame": (4, 1, 0, 2)}  # chunks of each process


class Anew(OnlineWriter):
    continues = False


class Halves(SlotWriter):
    """Its memory is not the sum of its statistics."""

    def forward(self, codes, prior, code_scale):
        result = super().forward(codes, prior, code_scale)
        return result._replace(memory=MatrixNormal(result.memory.loc / 2, result.memory.scale_tril_row))


def seeded_machine(kind: str, seed: int = 0) -> KanervaMachine:
    """Equal seeds give equal machines in all processes."""
    torch.manual_seed(seed)
    prior = GaussianMemory(K, C, 1.0)
    writers = {"one block": OnlineWriter(4 * LENGTH), "frame": FrameWriter(prior), "anew": Anew(LENGTH)}
    return linear_machine(K, C, 1.0, memory_prior=prior, writer=writers[kind])


def chunk(rank: int, number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(100 * rank + number)
    return torch.randn(LENGTH - rank, C, generator=generator)


def chunks(kind: str, rank: int):
    return (chunk(rank, number) for number in range(KINDS[kind][rank]))


@contextlib.contextmanager
def process_group(seconds: float = 60):
    dist.init_process_group("gloo", timeout=timedelta(seconds=seconds))
    yield
    dist.destroy_process_group()


def run(function: str, world: int, *arguments: object) -> None:
    """Run a function of this file in ``world`` processes, and raise their errors."""
    group = start_group(world, __file__, function, *arguments)
    while not group.join():
        pass


def write_shards(rank: int, folder: Path) -> None:
    with process_group():
        for kind in KINDS:
            memory = seeded_machine(kind).write(chunk(9, 0))
            distributed.write(memory, chunks(kind, rank)).save(folder / f"{kind} {rank}.pt")


@pytest.mark.parametrize("world", [2, 4])
def test_processes_write_the_memory_of_one_process(world, tmp_path):
    run("write_shards", world, tmp_path)
    for kind, lengths in KINDS.items():
        machine = seeded_machine(kind)
        memories = [Memory.load(tmp_path / f"{kind} {rank}.pt", machine) for rank in range(world)]
        start = machine.write(chunk(9, 0))
        if kind == "one block":  # the joined chunks of a round are one chunk of a single process
            stream = [torch.cat([chunk(rank, number) for rank in range(world)]) for number in range(3)]
        else:  # in any order
            stream = [part for rank in reversed(range(world)) for part in chunks(kind, rank)]
        alone = start.write(stream)
        for memory in memories:
            assert_close_posteriors(memory.posterior, alone.posterior)
            assert torch.equal(memory.posterior.loc, memories[0].posterior.loc)
            record = memory.records[-1]
            assert isinstance(record, StreamRecord)
            assert record.num_patterns == alone.records[-1].num_patterns
            assert record.num_chunks == max(lengths[:world])
        restored = memories[0].erase(memories[0].records[-1])
        assert_close_posteriors(restored.posterior, start.posterior)


def lose_one(rank: int, number: int, folder: Path) -> None:
    """Rank 1 gets a signal while it writes. Rank 0 notes its error, and how long it waited."""

    def stream():
        for index in range(1000):
            if rank == 1 and index == 3:
                os.kill(os.getpid(), number)
            yield chunk(rank, index)

    with process_group():
        impatient = dist.new_group(timeout=timedelta(seconds=3))
        memory, start = seeded_machine("frame").prior_memory(), time.monotonic()
        try:
            distributed.write(memory, stream(), group=impatient)
        except Exception as error:
            (folder / "error").write_text(f"{type(error).__name__}: {error}")
            (folder / "seconds").write_text(str(time.monotonic() - start))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_process_is_an_error_and_no_hang(number, tmp_path):
    group = start_group(2, __file__, "lose_one", number, tmp_path)
    group.processes[0].join(60)
    for process in group.processes:
        process.kill()
        process.join()
    error = (tmp_path / "error").read_text()
    assert "RuntimeError: distributed.write(): rank 0 lost another process" in error
    assert float((tmp_path / "seconds").read_text()) < 20


def fail_together(rank: int, folder: Path) -> None:
    said = []
    machine = seeded_machine("frame")

    def refused(memory, stream):
        with pytest.raises((ValueError, RuntimeError), match=r"write\(\)") as caught:
            distributed.write(memory, stream)
        said.append(str(caught.value))

    with process_group():
        for broken in (torch.full((3, C), torch.nan), torch.zeros(3, C + 1)):
            refused(machine.prior_memory(), iter([chunk(0, 0), chunk(0, 1) if rank == 0 else broken]))
        refused(machine.prior_memory(), iter([]))
        refused(seeded_machine("frame", seed=rank).prior_memory(), [chunk(0, 0)])
        refused(seeded_machine("anew").prior_memory(), [chunk(0, 0)])
    (folder / str(rank)).write_text("\n".join(said))


def test_all_processes_raise_an_error(tmp_path):
    run("fail_together", 2, tmp_path)
    zero, one = ((tmp_path / str(rank)).read_text().splitlines() for rank in (0, 1))
    assert "another process failed" in zero[0]
    assert "NaN" in one[0]
    assert "another process failed" in zero[1]
    assert f"event shape ({C + 1},)" in one[1]
    for said in (zero, one):
        assert "no process has a chunk" in said[2]
        assert "the memories or machines of the processes differ" in said[3]
        assert "Anew starts anew with every write" in said[4]


def write_slots(rank: int, folder: Path) -> None:
    """Each process writes into the slots that the other one leaves alone, so that order does not matter."""
    with process_group():
        machine = slot_machine(SlotWriter())
        distributed.write(machine.prior_memory(), [slot_chunk(rank, number) for number in range(2)]).save(
            folder / f"{rank}.pt"
        )
        with pytest.raises(ValueError, match=r"memory of Halves is not the sum.*build the machine with"):
            distributed.write(slot_machine(Halves()).prior_memory(), [slot_chunk(rank, 0)])


def slot_machine(writer) -> KanervaMachine:
    torch.manual_seed(0)
    return linear_machine(
        K, K, 0.3, memory_prior=GaussianMemory(K, K, 1.0), address_prior=CategoricalAddress(K), writer=writer
    )


def slot_chunk(rank: int, number: int) -> torch.Tensor:
    """Patterns near half of the prior's slots, of different numbers in each process."""
    slots = slot_machine(SlotWriter()).prior_memory().posterior.loc[0, rank::2]
    return slots[: 5 - rank] + 0.1 * torch.randn(5 - rank, K, generator=torch.Generator().manual_seed(number))


def test_processes_write_into_slots_as_one_process_does(tmp_path):
    run("write_slots", 2, tmp_path)
    machine = slot_machine(SlotWriter())
    found = [Memory.load(tmp_path / f"{rank}.pt", machine).posterior for rank in (0, 1)]
    alone = machine.write([slot_chunk(rank, number) for number in range(2) for rank in (0, 1)])
    assert (alone.posterior.loc - machine.prior_memory().posterior.loc).abs().max() > 0.05  # something was written
    for posterior in found:
        assert_close_posteriors(posterior, alone.posterior, 0.02)
    erased = alone.erase(alone.records[0])
    assert_close_posteriors(erased.posterior, machine.prior_memory().posterior)


def test_without_a_group():
    with pytest.raises(ValueError, match=r"no process group.*memory\.write"):
        distributed.write(seeded_machine("frame").prior_memory(), [chunk(0, 0)])


def share_columns(rank: int, folder: Path) -> None:
    example = runpy.run_path(str(ROOT / "examples" / "sharded_memory.py"))
    with open(folder / str(rank), "w") as file, contextlib.redirect_stdout(file):
        example["main"](example["parser"]().parse_args([]))


@pytest.mark.parametrize("world", [2, 4])
def test_a_memory_whose_columns_are_shared_out(world, tmp_path):
    run("share_columns", world, tmp_path)
    printed = (tmp_path / "0").read_text()
    held, whole = re.search(r"each holds ([\d.]+) MiB of a mean of ([\d.]+)", printed).groups()
    assert float(held) == pytest.approx(float(whole) / world, abs=0.01)
    differences = [float(found) for found in re.findall(r"in one piece (\S+) of the largest", printed)]
    assert len(differences) == 2
    assert max(differences) < 1e-5
