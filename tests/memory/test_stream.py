"""Streams: they give what writing chunk by chunk gives, in constant memory, and go on after a kill."""

import copy
import gc
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
import weakref

import pytest
import torch
from helpers import ROOT, assert_close_posteriors, assert_same_memory, linear_machine, natural_parameters

from pyro_kanerva import (
    AmortizedWriter,
    CategoricalAddress,
    FrameWriter,
    GaussianMemory,
    Memory,
    MLPEncoder,
    OnlineWriter,
    PseudoInverseWriter,
    SimplexAddress,
    StreamRecord,
    WriteRecord,
)

K, C = 6, 8


def seeded_machine(seed=0, **parts):
    """Equal seeds give equal machines, here and in another process."""
    torch.manual_seed(seed)
    return linear_machine(K, C, **parts)


def chunks(number=5, episodes=2, seed=1):
    """Chunks of 7, 8, 9, 7, ... patterns."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(episodes, 7 + i % 3, C, generator=generator) for i in range(number)]


def num_patterns(parts):
    return sum(part.shape[1] for part in parts)


def assert_same_posterior(one, other):
    """Equal to the last bit."""
    assert torch.equal(one.posterior.loc, other.posterior.loc)
    assert torch.equal(one.posterior.scale_tril_row, other.posterior.scale_tril_row)


def one_by_one(memory, parts):
    for part in parts:
        memory = memory.write(part)
    return memory


WRITERS = {
    "default": lambda: OnlineWriter(8, 1),
    "the paper's": lambda: OnlineWriter(1),
    "one block": lambda: OnlineWriter(64),
    "blocks and sweeps": lambda: OnlineWriter(3, 2),
    "frame": lambda: FrameWriter(GaussianMemory(K, C)),
    "amortized": lambda: AmortizedWriter(MLPEncoder((C,), K, 16)),
}


# ---------------------------------------------------------------------- what a stream is


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("make", [list, iter, tuple, lambda parts: (part for part in parts)])
def test_a_stream_is_its_chunks_one_after_the_other(writer, make):
    machine, parts = seeded_machine(writer=WRITERS[writer]()), chunks()
    expected = one_by_one(machine.prior_memory(2), parts)
    streamed = machine.write(make(parts))
    assert_same_posterior(streamed, expected)
    (record,) = streamed.records
    assert (record.num_chunks, record.num_patterns) == (5, num_patterns(parts))
    assert record.precision.dtype == record.precision_loc.dtype == torch.float64
    singles = [single.statistics(machine.code_scale.detach()) for single in expected.records]
    for name in ("precision", "precision_loc"):
        total = sum(getattr(single, name) for single in singles)
        torch.testing.assert_close(getattr(record, name), total, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("address_prior", [SimplexAddress(K), CategoricalAddress(K)], ids=["simplex", "slots"])
def test_streams_of_other_addresses(address_prior):
    machine, parts = seeded_machine(address_prior=address_prior), chunks(3)
    assert_same_posterior(machine.write(iter(parts)), one_by_one(machine.prior_memory(2), parts))


def test_single_episodes_without_a_batch():
    machine, parts = seeded_machine(), chunks(episodes=1)
    assert_same_memory(machine.write(part[0] for part in parts), machine.write(iter(parts)))


def test_a_stream_into_a_memory():
    """By ``memory.write`` and by ``machine.write``."""
    machine, parts = seeded_machine(), chunks()
    start = machine.write(parts[0])
    expected = one_by_one(start, parts[1:])
    streamed = start.write(iter(parts[1:]))
    assert_same_posterior(streamed, expected)
    assert_same_memory(machine.write(iter(parts[1:]), start), streamed)
    assert streamed.records[0] is start.records[0]
    assert len(start.records) == 1
    assert isinstance(streamed.records[1], StreamRecord)
    assert repr(streamed).startswith(f"Memory(2 episodes of {num_patterns(parts)} patterns")


def test_streams_work_without_gradients():
    streamed = seeded_machine().write(iter(chunks()))
    assert not streamed.posterior.loc.requires_grad
    assert not streamed.records[0].precision.requires_grad


def test_codes_come_from_the_encoder():
    machine = linear_machine(K, C, encoder=MLPEncoder((C,), C, 16))
    assert_same_posterior(machine.write(iter(chunks())), one_by_one(machine.prior_memory(2), chunks()))


# ---------------------------------------------------------------------- erasing and merging


@pytest.mark.parametrize("writer", ["default", "the paper's", "one block"])
def test_erasing_a_stream_and_what_is_around_it(writer):
    machine, parts = seeded_machine(writer=WRITERS[writer]()), chunks(6)
    before = machine.write(parts[0])
    streamed = before.write(iter(parts[1:5]))
    after = streamed.write(parts[5])
    assert_close_posteriors(after.erase(after.records[2]).posterior, streamed.posterior)
    assert_close_posteriors(streamed.erase(streamed.records[1]).posterior, before.posterior)
    assert_close_posteriors(after.erase(after.records[2]).erase(after.records[1]).posterior, before.posterior)
    # Without the first write, the statistics of the stream and of the last write are left.
    rest = after.erase(after.records[0])
    assert [type(record) for record in rest.records] == [StreamRecord, WriteRecord]
    found, prior = natural_parameters(rest.posterior), natural_parameters(machine.memory_prior())
    added = [record.statistics(machine.code_scale.detach()) for record in after.records[1:]]
    for name in ("precision", "precision_loc"):
        expected = getattr(prior, name).detach() + sum(getattr(part, name) for part in added)
        torch.testing.assert_close(getattr(found, name).double(), expected, rtol=1e-3, atol=1e-3)


def test_erasing_all_leaves_the_prior():
    machine = seeded_machine()
    streamed = machine.write(iter(chunks()))
    assert_close_posteriors(streamed.erase(streamed.records[0]).posterior, machine.prior_memory(2).posterior)


def test_merging_streams():
    machine = seeded_machine(
        writer=AmortizedWriter(MLPEncoder((C,), K, 16))
    )  # addresses that do not depend on the memory
    parts = chunks(6)
    merged = Memory.merge([machine.write(iter(parts[:2])), machine.write(parts[2]), machine.write(iter(parts[3:]))])
    assert [type(record) for record in merged.records] == [StreamRecord, WriteRecord, StreamRecord]
    assert_close_posteriors(merged.posterior, machine.write(iter(parts)).posterior)
    assert_close_posteriors(
        merged.erase(merged.records[1]).posterior, machine.write(iter([*parts[:2], *parts[3:]])).posterior
    )


# ---------------------------------------------------------------------- constant memory


class Watched:
    """A stream that counts how many of its earlier chunks are alive when it makes the next one."""

    def __init__(self, number):
        self.number = number
        self.alive = []

    def __iter__(self):
        references = []
        for _ in range(self.number):
            self.alive.append(sum(reference() is not None for reference in references))
            chunk = torch.randn(1, 7, C)
            references.append(weakref.ref(chunk))
            yield chunk
            del chunk


def test_earlier_chunks_are_forgotten(tmp_path):
    """However long the stream is, only the last chunk is alive, and the file does not grow."""
    machine = seeded_machine()
    start = machine.prior_memory(1)
    for number in (5, 60):
        watched = Watched(number)
        memory = start.write(watched, path=tmp_path / f"{number}.pt", save_every=1)
        assert max(watched.alive) <= 1
        assert len(memory.records) == 1
    sizes = [(tmp_path / f"{number}.pt").stat().st_size for number in (5, 60)]
    assert abs(sizes[0] - sizes[1]) < 100


def test_the_first_chunk_is_forgotten():
    watched = Watched(20)
    seeded_machine().write(watched)
    assert max(watched.alive) <= 1


def test_the_number_of_tensors_does_not_grow():
    """The number of all live tensors, also of codes, addresses and posteriors, while the stream goes on."""
    counts = []

    def stream():
        for _ in range(6):
            gc.collect()
            counts.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
            yield torch.randn(1, 7, C)

    seeded_machine().prior_memory(1).write(stream())
    assert max(counts[2:]) - min(counts[2:]) <= 1


def test_chunks_are_asked_for_one_at_a_time():
    """A chunk is written before the next one is asked for."""
    seen = []

    class Writer(OnlineWriter):
        def forward(self, *args):
            seen.append("written")
            return super().forward(*args)

    machine = seeded_machine(writer=Writer(8, 1))

    def stream():
        for part in chunks(4):
            seen.append("made")
            yield part

    machine.write(stream())
    assert seen == ["made", "written"] * 4


# ---------------------------------------------------------------------- saving and resuming


def test_a_stream_is_resumed_under_its_name(tmp_path):
    machine, path = seeded_machine(), tmp_path / "memory.pt"
    start = machine.write(chunks()[0], labels=torch.arange(7))
    start.write(iter(chunks(3)), path=path, name="monday")
    with pytest.raises(ValueError, match="holds a stream of name 'monday', not None; pass the same name"):
        start.write(iter(chunks(5)), path=path, resume=True)
    resumed = start.write(iter(chunks(5)), path=path, resume=True, name="monday")
    assert (resumed.record("monday").num_chunks, len(resumed)) == (5, 7 + num_patterns(chunks(5)))


@pytest.mark.parametrize(("save_every", "number", "saves"), [(1, 5, 5), (2, 5, 2), (10, 5, 0), (5, 5, 1)])
def test_saves_now_and_then_and_at_the_end(tmp_path, save_every, number, saves):
    machine, path, found = seeded_machine(), tmp_path / "memory.pt", []

    def stream():
        for part in chunks(number):
            found.append(Memory.load(path, machine).records[0].num_chunks if path.exists() else 0)
            yield part

    memory = machine.write(stream(), path=path, save_every=save_every)
    assert found == [save_every * (written // save_every) for written in range(number)]
    assert sum(one != other for one, other in itertools.pairwise(found)) == saves - (save_every * saves == number)
    assert_same_memory(Memory.load(path, machine), memory)
    assert_same_memory(memory, machine.write(iter(chunks(number))))
    assert list(tmp_path.iterdir()) == [path]


def test_ten_chunks_between_two_saves_by_default(tmp_path):
    machine, path, found = seeded_machine(), tmp_path / "memory.pt", []

    def stream():
        for part in chunks(12):
            found.append(path.exists())
            yield part

    machine.write(stream(), path=path)
    assert found == [False] * 10 + [True] * 2


class StopError(Exception):
    """It interrupts the streams below."""


def interrupted(parts, after):
    yield from parts[:after]
    raise StopError(f"stop after {after}")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("writer", ["default", "the paper's", "one block"])
def test_going_on_after_an_interruption(tmp_path, before, writer):
    """Interrupted twice, the first time with chunks that were not saved: equal to the last bit to one go."""
    machine, parts, path = seeded_machine(writer=WRITERS[writer]()), chunks(9), tmp_path / "memory.pt"
    start = machine.write(chunks(1, seed=7)[0]) if before else machine.prior_memory(2)
    expected = start.write(iter(parts))
    with pytest.raises(StopError, match="stop after 5"):
        start.write(interrupted(parts, 5), path=path, save_every=2)
    assert Memory.load(path, machine).records[-1].num_chunks == 4
    with pytest.raises(StopError, match="stop after 7"):
        start.write(interrupted(parts, 7), path=path, save_every=1, resume=True)
    assert Memory.load(path, machine).records[-1].num_chunks == 7
    assert_same_memory(start.write(iter(parts), path=path, resume=True), expected)
    assert_same_memory(Memory.load(path, machine), expected)
    # A stream that is already written stays as it is.
    assert_same_memory(start.write(iter(parts), path=path, resume=True), expected)
    # One that has become longer goes on.
    longer = [*parts, *chunks(2, seed=9)]
    assert_same_memory(start.write(iter(longer), path=path, resume=True), start.write(iter(longer)))


def test_the_machine_goes_on_as_well(tmp_path):
    machine, parts, path = seeded_machine(), chunks(), tmp_path / "memory.pt"
    with pytest.raises(StopError, match="stop after 3"):
        machine.write(interrupted(parts, 3), path=path, save_every=1)
    assert_same_memory(machine.write(iter(parts), path=path, resume=True), machine.write(iter(parts)))


def test_a_save_that_fails_leaves_the_last_one(tmp_path, monkeypatch):
    """A full disk at the third save."""
    machine, parts, path = seeded_machine(), chunks(), tmp_path / "memory.pt"
    replace, calls = os.replace, []

    def fail_at_third(source, target):
        calls.append(target)
        if len(calls) == 3:
            raise OSError("No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_third)
    with pytest.raises(OSError, match="No space left"):
        machine.write(iter(parts), path=path, save_every=1)
    assert Memory.load(path, machine).records[-1].num_chunks == 2
    assert list(tmp_path.iterdir()) == [path]
    assert_same_memory(machine.write(iter(parts), path=path, resume=True), machine.write(iter(parts)))


CHILD = """
    import runpy, sys, time
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, {tests!r})  # of the helpers
    this = runpy.run_path({file!r})
    def stream():
        for number, part in enumerate(this["chunks"]({number})):
            print(number, flush=True)
            time.sleep({pause})
            yield part
    this["seeded_machine"]().write(stream(), path={path!r}, save_every=1, resume={resume})
    print("end", flush=True)
"""


def run_and_kill(path, number, pause, resume, kill_at, delay=0.0):
    """Kill a process that writes a stream, ``delay`` seconds after it is asked for chunk ``kill_at``."""
    code = textwrap.dedent(CHILD).format(
        tests=str(ROOT / "tests"), file=__file__, number=number, pause=pause, path=str(path), resume=resume
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        lines = []
        for line in process.stdout:
            lines.append(line.strip())
            if lines[-1] == str(kill_at):
                time.sleep(delay)
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL, lines


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_going_on_after_a_kill(tmp_path):
    """A process is killed, and another one goes on: equal to the last bit to one go."""
    path, number = tmp_path / "memory.pt", 12
    run_and_kill(path, number, 0.02, False, kill_at=6)
    machine = seeded_machine()
    assert Memory.load(path, machine).records[0].num_chunks in (5, 6)
    resumed = machine.write(iter(chunks(number)), path=path, resume=True)
    assert_same_memory(resumed, machine.write(iter(chunks(number))))
    assert_same_memory(Memory.load(path, machine), resumed)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_kill_after_kill(tmp_path):
    """Killed at any moment, also within a save: the file is whole, and the end equal to the last bit."""
    path, number, machine = tmp_path / "memory.pt", 400, seeded_machine()
    run_and_kill(path, number, 0.0, False, kill_at=20)
    done = 0
    for attempt in range(8):
        found = Memory.load(path, machine).records[0].num_chunks
        assert found > done
        done = found
        run_and_kill(path, number, 0.0, True, kill_at=done + 15, delay=0.0007 * attempt)
    expected = machine.write(iter(chunks(number)))
    assert_same_memory(machine.write(iter(chunks(number)), path=path, resume=True), expected)


# ---------------------------------------------------------------------- errors


def test_options_are_for_streams():
    machine = seeded_machine()
    memory, part = machine.write(chunks()[0]), chunks()[1]
    message = r"write\(\): path, save_every, resume and progress are options for streams; pass an iterable of chunks"
    for options in ({"path": "memory.pt"}, {"save_every": 5}, {"resume": True}, {"progress": True}):
        for write in (memory.write, machine.write):
            with pytest.raises(ValueError, match=message):
                write(part, **options)
    with pytest.raises(TypeError, match="unexpected keyword"):
        machine.write(iter(chunks()), file="memory.pt")


def test_nothing_to_resume(tmp_path):
    machine = seeded_machine()
    memory = machine.prior_memory(2)
    for write in (memory.write, machine.write):
        with pytest.raises(ValueError, match="resume=True without a path"):
            write(iter(chunks()), resume=True)
        with pytest.raises(FileNotFoundError, match="memory"):
            write(iter(chunks()), path=tmp_path / "memory.pt", resume=True)
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_overwritten(tmp_path):
    machine, path = seeded_machine(), tmp_path / "memory.pt"
    path.write_text("precious")
    for write in (machine.prior_memory(2).write, machine.write):
        with pytest.raises(ValueError, match=r"memory\.pt exists already.*resume=True"):
            write(iter(chunks()), path=path)
    assert path.read_text() == "precious"


def test_files_of_something_else(tmp_path):
    machine, parts, path = seeded_machine(), chunks(), tmp_path / "memory.pt"
    start = machine.prior_memory(2)

    def resume(memory=start, message="does not hold this memory with part of a stream"):
        content = path.read_bytes()
        with pytest.raises(ValueError, match=message):
            memory.write(iter(parts), path=path, resume=True)
        assert path.read_bytes() == content

    machine.write(parts[0]).save(path)  # no stream
    resume()
    start.save(path)  # nothing
    resume()
    machine.write(parts[0]).write(iter(parts[1:])).save(path)  # a stream into another memory
    resume()
    machine.write(iter(parts)).save(path)
    resume(machine.write(parts[0]))
    machine.write(part[:1] for part in parts).save(path)  # of another number of episodes
    resume()
    seeded_machine(seed=3).write(iter(parts)).save(path)  # of another machine
    resume(message="machine with other parameters")
    path.write_bytes(path.read_bytes()[:1000])
    resume(message="not a whole")


def test_a_file_of_another_memory_of_the_machine(tmp_path):
    machine, parts, path = seeded_machine(), chunks(), tmp_path / "memory.pt"
    one, other = machine.write(parts[0]), machine.write(parts[3])
    with pytest.raises(StopError, match="stop after 2"):
        one.write(interrupted(parts, 2), path=path, save_every=1)
    with pytest.raises(ValueError, match="does not hold this memory"):
        other.write(iter(parts), path=path, resume=True)


@pytest.mark.parametrize("stream", [list, lambda: iter([]), lambda: (part for part in ())])
def test_empty_streams(tmp_path, stream):
    machine, path = seeded_machine(), tmp_path / "memory.pt"
    for write in (machine.prior_memory(2).write, machine.write):
        for options in ({}, {"path": path}):
            with pytest.raises(ValueError, match=r"write\(\): the stream has no chunks; expected at least one"):
                write(stream(), **options)
    assert not path.exists()


def test_chunks_that_are_no_tensors(tmp_path):
    machine, parts, path = seeded_machine(), chunks(), tmp_path / "memory.pt"
    with pytest.raises(ValueError, match="the stream begins with a list; expected a tensor"):
        machine.write(iter([parts[0].tolist()]))
    with pytest.raises(ValueError, match="the stream begins with a ndarray"):
        machine.write([parts[0].numpy()])
    with pytest.raises(ValueError, match="a chunk of the stream is a tuple; expected a tensor"):
        machine.write(iter([parts[0], (parts[1], 0)]), path=path, save_every=1)  # as a DataLoader with labels gives
    assert_same_memory(Memory.load(path, machine), machine.write(iter(parts[:1])))


@pytest.mark.parametrize("save_every", [0, -1])
def test_save_every(save_every):
    for write in (seeded_machine().write, seeded_machine().prior_memory(2).write):
        with pytest.raises(ValueError, match=rf"save_every is {save_every}; expected at least 1"):
            write(iter(chunks()), save_every=save_every)


class Anew(OnlineWriter):
    continues = False


@pytest.mark.parametrize("writer", [PseudoInverseWriter(K), Anew(8)], ids=lambda writer: type(writer).__name__)
def test_a_writer_that_does_not_continue(writer):
    """Refused at once, before the first chunk is asked for."""
    machine = seeded_machine(writer=writer)

    def stream():
        raise AssertionError("a chunk was asked for")
        yield

    with pytest.raises(ValueError, match=f"{type(writer).__name__} starts anew with every write"):
        machine.prior_memory(2).write(stream())
    for number in (1, 3):
        with pytest.raises(ValueError, match=f"{type(writer).__name__} starts anew with every write"):
            machine.write(iter(chunks(number)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (torch.randn(2, 4, C + 1), r"event shape \(9,\)"),
        (torch.randn(3, 4, C), "3 episodes"),
        (torch.randn(2, 0, C), "an empty batch or episode"),
        (torch.randn(2, 4, C).double(), "dtype torch.float64"),
        (torch.full((2, 4, C), torch.nan), "NaN or infinite"),
        (torch.randn(2, 2, 4, C), "expected"),
    ],
)
def test_a_broken_chunk_leaves_the_file_as_it_was(tmp_path, broken, message):
    """The stream goes on once the chunk is mended. A broken first chunk makes no file."""
    machine, parts, path = seeded_machine(), chunks(), tmp_path / "memory.pt"
    with pytest.raises(ValueError, match=message):
        machine.write(iter([*parts[:3], broken, parts[4]]), path=path, save_every=1)
    assert_same_memory(Memory.load(path, machine), machine.write(iter(parts[:3])))
    assert_same_memory(machine.write(iter(parts), path=path, resume=True), machine.write(iter(parts)))
    with pytest.raises(ValueError, match=message):
        machine.prior_memory(2).write(iter([broken]), path=tmp_path / "other.pt")
    assert not (tmp_path / "other.pt").exists()


def test_a_memory_of_another_machine():
    with pytest.raises(ValueError, match="belongs to another machine"):
        seeded_machine().write(iter(chunks()), seeded_machine(seed=2).prior_memory(2))


# ---------------------------------------------------------------------- progress, and numbers


def test_progress(capsys):
    machine = seeded_machine()
    machine.write(iter(chunks()))
    assert capsys.readouterr() == ("", "")
    machine.write(iter(chunks()), progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert f"{sum(part.shape[1] for part in chunks())}.0 patterns" in err


def test_progress_goes_on_where_it_was(tmp_path, capsys):
    machine, parts, path = seeded_machine(), chunks(), tmp_path / "memory.pt"
    with pytest.raises(StopError, match="stop after 3"):
        machine.write(interrupted(parts, 3), path=path, save_every=1)
    machine.write(iter(parts), path=path, resume=True, progress=True)
    err = capsys.readouterr().err
    assert f"{sum(part.shape[1] for part in parts[:3])}" in err.split("\r")[1]


@pytest.mark.parametrize("writer", [OnlineWriter(250), OnlineWriter(8, 1), OnlineWriter(64)])
def test_a_long_stream_in_float32(writer):
    """20,000 codes, K = 64, C = 48: within 5e-5 of float64, positive definite, and accounted for by its record.

    With K > C and a small sigma the rule itself amplifies rounding errors: the columns of the mean lie in the
    C-dimensional column space of R0, and errors outside of it grow. At sigma = 1 they do not.
    """
    codes, prior = torch.randn(1, 20_000, 48), GaussianMemory(64, 48)
    memories = []
    for dtype in (torch.float32, torch.float64):
        machine = linear_machine(64, 48, 1.0, memory_prior=copy.deepcopy(prior), writer=writer).to(dtype)
        memories.append(machine.write(iter(codes.to(dtype).split(500, 1))))
    found, expected = memories
    assert torch.linalg.eigvalsh(found.posterior.row_covariance.double()).min() > 0
    pairs = [
        (found.posterior.loc, expected.posterior.loc),
        (found.posterior.row_covariance, expected.posterior.row_covariance),
        (found.records[0].precision, expected.records[0].precision),
        (found.records[0].precision_loc, expected.records[0].precision_loc),
    ]
    for one, other in pairs:
        assert (one - other).norm() < 5e-5 * other.norm()
    left = found.erase(found.records[0])  # this also checks that the record accounts for the memory
    assert_close_posteriors(left.posterior, found.machine.prior_memory(1).posterior)


def test_resuming_with_a_shorter_stream(tmp_path):
    machine, path = seeded_machine(), tmp_path / "memory.pt"
    machine.write(iter(chunks(5)), path=path)
    before = path.read_bytes()
    for number in (1, 4):
        with pytest.raises(
            ValueError, match=rf"the stream has {number} chunks, but .* holds 5 of them. Pass the stream"
        ):
            machine.write(iter(chunks(number)), path=path, resume=True)
    assert path.read_bytes() == before
    assert machine.write(iter(chunks(5)), path=path, resume=True).records[0].num_chunks == 5
