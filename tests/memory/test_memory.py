"""The stored memory: writing on, reading, generating, and files."""

import os
import pickle

import pytest
import torch

from pyro_kanerva import (
    CategoricalLikelihood,
    GaussianMemory,
    KanervaMachine,
    Memory,
    MLPDecoder,
    MLPEncoder,
    OnlineWriter,
    conjugate,
)


def test_write_is_the_writer_on_the_codes(make_machine, patterns):
    machine = make_machine(writer=OnlineWriter(3))
    memory = machine.write(patterns)
    expected = machine.writer(machine.encode(patterns), machine.memory_prior(), machine.code_scale)
    torch.testing.assert_close(memory.posterior.loc, expected.memory.loc)
    torch.testing.assert_close(memory.posterior.scale_tril_row, expected.memory.scale_tril_row)
    assert memory.posterior.batch_shape == (3,)
    assert not memory.posterior.loc.requires_grad


def test_writing_on_equals_writing_at_once(make_machine, patterns):
    """With blocks that end where the first write ends, the online rule cannot tell the difference."""
    machine = make_machine(writer=OnlineWriter(2)).double()
    x = patterns.double()
    once = machine.write(x)
    first = machine.write(x[:, :4])
    for twice in (first.write(x[:, 4:]), machine.write(x[:, 4:], memory=first)):
        torch.testing.assert_close(twice.posterior.loc, once.posterior.loc)
        torch.testing.assert_close(twice.posterior.row_covariance, once.posterior.row_covariance)
        assert len(twice.records) == 2
    assert len(first.records) == 1


@pytest.mark.parametrize("sweeps", [0, 1])
def test_records_hold_what_the_posterior_is_made_of(make_machine, patterns, sweeps):
    machine = make_machine(writer=OnlineWriter(4, sweeps)).double()
    memory = machine.write(patterns.double()).write(patterns.double())
    sigma = machine.code_scale.detach()
    parts = [conjugate.evidence(r.addresses, r.codes, sigma, r.address_scale_tril) for r in memory.records]
    rebuilt = conjugate.add_evidence(machine.memory_prior(), *parts)
    torch.testing.assert_close(rebuilt.loc, memory.posterior.loc)
    torch.testing.assert_close(rebuilt.row_covariance, memory.posterior.row_covariance)


def test_single_episode(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns[0])
    assert memory.posterior.batch_shape == (1,)
    assert memory.read(patterns[0, :3]).shape == (1, 3, 1, 5, 7)
    assert memory.query(patterns[0], num_steps=2).energy.shape == (3, 1, 8)
    torch.testing.assert_close(memory.posterior.loc, machine.write(patterns).posterior.loc[:1])


def test_read(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns)
    mean = memory.read(patterns[:, :5])
    address = machine.read_codes(machine.encode(patterns[:, :5]), memory.posterior.loc).mean
    torch.testing.assert_close(mean, machine.predict(address @ memory.posterior.loc, (1, 5, 7)).probs)


def test_generate(make_machine, patterns):
    memory = make_machine().write(patterns)
    samples = memory.generate(4)
    assert samples.shape == (3, 4, 1, 5, 7)
    assert ((samples > 0) & (samples < 1)).all()
    sharpened = memory.generate(4, num_steps=3)
    assert sharpened.shape == (3, 4, 1, 5, 7)
    assert ((sharpened == 0) | (sharpened == 1)).all()


@pytest.mark.parametrize("sweeps", [0, 1])
def test_save_and_load(make_machine, patterns, tmp_path, sweeps):
    machine = make_machine(writer=OnlineWriter(4, sweeps))
    memory = machine.write(patterns).write(patterns)
    path = tmp_path / "memory.pt"
    memory.save(path)
    assert os.listdir(tmp_path) == ["memory.pt"]
    loaded = Memory.load(path, machine)
    assert repr(loaded) == repr(memory)
    assert torch.equal(loaded.posterior.loc, memory.posterior.loc)
    assert torch.equal(loaded.posterior.scale_tril_row, memory.posterior.scale_tril_row)
    for one, other in zip(loaded.records, memory.records, strict=True):
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.addresses, other.addresses)
        assert (one.address_scale_tril is None) == (sweeps == 0)
    torch.testing.assert_close(loaded.query(patterns).energy, memory.query(patterns).energy)
    assert Memory.load(path, machine.double()).read(patterns.double()).dtype == torch.float64


def test_a_failed_save_leaves_the_old_file(make_machine, patterns, tmp_path, monkeypatch):
    machine = make_machine()
    path = tmp_path / "memory.pt"
    machine.write(patterns).save(path)
    before = path.read_bytes()

    def fail(content, file):
        file.write(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        machine.write(patterns).write(patterns).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["memory.pt"]


class Malicious:
    def __reduce__(self):
        return os.system, ("echo pwned > pwned",)


def test_bad_files(make_machine, patterns, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    machine = make_machine()
    path = tmp_path / "memory.pt"
    machine.write(patterns).save(path)
    whole = path.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="not a whole pyro_kanerva memory file; it may be cut off"):
            Memory.load(path, machine)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=r"not a whole|holds Python objects"):
        Memory.load(path, machine)
    torch.save({"kind": "pyro_kanerva memory", "state": Malicious()}, path)
    with pytest.raises(ValueError, match="holds Python objects, which are never loaded"):
        Memory.load(path, machine)
    assert not (tmp_path / "pwned").exists()
    torch.save({"kind": "pyro_kanerva memory", "version": 99, "header": "{}", "state": {}}, path)
    with pytest.raises(ValueError, match="version 99; expected 'pyro_kanerva memory', version 1"):
        Memory.load(path, machine)
    torch.save({"kind": "pyro_kanerva memory", "version": 1}, path)
    with pytest.raises(ValueError, match="not a whole pyro_kanerva memory file"):
        Memory.load(path, machine)
    torch.save({"kind": "pyro_kanerva memory", "version": 2, "other": "layout"}, path)
    with pytest.raises(ValueError, match="version 2; expected"):
        Memory.load(path, machine)
    torch.save({"kind": "pyro_kanerva checkpoint", "version": 1, "header": "{}", "state": {}}, path)
    with pytest.raises(ValueError, match="of kind 'pyro_kanerva checkpoint'"):
        Memory.load(path, machine)
    with pytest.raises(FileNotFoundError):
        Memory.load(tmp_path / "nothing", machine)


def test_machine_moved_under_a_memory(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns)
    machine.double()
    with pytest.raises(ValueError, match=r"memory is torch.float32 .* machine is now torch.float64"):
        memory.read(patterns.double())


def test_memory_of_another_machine(make_machine, patterns, tmp_path):
    machine = make_machine()
    machine.write(patterns).save(tmp_path / "memory.pt")
    with pytest.raises(ValueError, match=r"machine with other parameters.*write the patterns again"):
        Memory.load(tmp_path / "memory.pt", make_machine())
    with torch.no_grad():
        machine.encoder[1].bias[0] += 1
    with pytest.raises(ValueError, match="machine with other parameters"):
        Memory.load(tmp_path / "memory.pt", machine)


@pytest.mark.parametrize("call", ["write", "read", "query"])
def test_bad_cues(make_machine, patterns, call):
    memory = make_machine().write(patterns)
    name = "patterns" if call == "write" else "cues"
    for change, message in [
        (lambda x: x[:2], "2 episodes .* expected 3, one for each memory"),
        (lambda x: x[0], "1 episodes"),
        (lambda x: x[..., 1:], r"event shape \(1, 5, 6\) .* expected \(1, 5, 7\)"),
        (lambda x: x.double(), "dtype"),
        (lambda x: x + 0.5, "other than 0 and 1"),
        (lambda x: x[:, :0], "empty"),
        (lambda x: x / 0, "NaN"),
    ]:
        with pytest.raises(ValueError, match=rf"{call}\(\): {name} .*{message}"):
            getattr(memory, call)(change(patterns))


def test_bad_number_of_samples(make_machine, patterns):
    memory = make_machine().write(patterns)
    with pytest.raises(ValueError, match="num_samples is 0"):
        memory.generate(0)
    with pytest.raises(ValueError, match="num_steps is -1"):
        memory.generate(2, num_steps=-1)


def test_read_of_classes_is_their_mode():
    machine = KanervaMachine(
        MLPEncoder((6,), 4, 16),
        MLPDecoder(4, (6, 3), 16),
        memory_prior=GaussianMemory(3, 4),
        likelihood=CategoricalLikelihood(3),
    )
    patterns = torch.randint(0, 3, (2, 5, 6)).float()
    memory = machine.write(patterns)
    address = machine.read_codes(machine.encode(patterns), memory.posterior.loc).mean
    assert torch.equal(memory.read(patterns), memory.predict(address).logits.argmax(-1).float())
