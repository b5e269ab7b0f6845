"""Files of memories: what was saved is loaded, and broken or foreign files are refused."""

import os
import pickle

import pyro.distributions as dist
import pytest
import torch
from helpers import assert_close_posteriors, assert_same_memory

from pyro_kanerva import (
    GaussianMemory,
    KanervaMachine,
    LaplaceAddress,
    MatrixNormal,
    Memory,
    NormalLikelihood,
    OnlineWriter,
    _files,
)


@pytest.mark.parametrize("sweeps", [0, 1])
def test_save_and_load(make_machine, patterns, tmp_path, sweeps):
    machine = make_machine(writer=OnlineWriter(4, sweeps))
    memory = machine.write(patterns).write(patterns)
    path = tmp_path / "memory.pt"
    memory.save(path)
    assert os.listdir(tmp_path) == ["memory.pt"]
    loaded = Memory.load(path, machine)
    assert repr(loaded) == repr(memory)
    assert_same_memory(loaded, memory)
    assert all((record.address_scale_tril is None) == (sweeps == 0) for record in loaded.records)
    torch.testing.assert_close(loaded.query(patterns).energy, memory.query(patterns).energy)
    assert Memory.load(path, machine.double()).read(patterns.double()).dtype == torch.float64


def test_a_memory_with_a_stream(make_machine, patterns, tmp_path):
    machine = make_machine()
    memory = machine.write(patterns).write(iter(patterns.split(3, 1))).write(patterns)
    memory.save(tmp_path / "memory.pt")
    loaded = Memory.load(tmp_path / "memory.pt", machine)
    assert_same_memory(loaded, memory)
    assert loaded.records[1].precision.dtype == torch.float64
    assert_close_posteriors(loaded.erase(loaded.records[1]).posterior, memory.erase(memory.records[1]).posterior)


def test_a_file_without_streams_and_names(make_machine, patterns, tmp_path):
    """An older file: all its records are single writes of codes, addresses and covariance."""
    machine = make_machine()
    memory = machine.write(patterns)
    memory.save(tmp_path / "memory.pt")
    header, state = _files.load(tmp_path / "memory.pt", "memory")
    del state["streams"]
    state["records"] = [record[:3] for record in state["records"]]
    _files.save(tmp_path / "old.pt", "memory", header, state)
    assert_same_memory(Memory.load(tmp_path / "old.pt", machine), memory)


def test_a_failed_save_leaves_the_old_file(make_machine, patterns, tmp_path, monkeypatch):
    machine = make_machine()
    path = tmp_path / "memory.pt"
    machine.write(patterns).save(path)
    before = path.read_bytes()

    def fail(file):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
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
        with pytest.raises(ValueError, match="not a whole pyro_kanerva memory file: it is damaged, cut off"):
            Memory.load(path, machine)
    path.write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match="not a whole"):
        Memory.load(path, machine)
    _files.save(path, "memory", {}, {"state": Malicious()})
    with pytest.raises(ValueError, match="holds Python objects, which are never loaded"):
        Memory.load(path, machine)
    assert not (tmp_path / "pwned").exists()
    with monkeypatch.context() as patch:
        patch.setattr(_files, "VERSION", 99)
        _files.save(path, "memory", {}, {})
    with pytest.raises(ValueError, match="version 99; expected 'pyro_kanerva memory', version 2"):
        Memory.load(path, machine)
    torch.save({"kind": "pyro_kanerva memory", "version": 1, "header": "{}", "state": {}}, path)
    with pytest.raises(ValueError, match=r"not a whole pyro_kanerva memory file: .* of an older version"):
        Memory.load(path, machine)
    _files.save(path, "checkpoint", {}, {})
    with pytest.raises(ValueError, match="of kind 'pyro_kanerva checkpoint'"):
        Memory.load(path, machine)
    with pytest.raises(FileNotFoundError, match="nothing"):
        Memory.load(tmp_path / "nothing", machine)


class LaplaceLikelihood:
    def __call__(self, output):
        return dist.Laplace(output, 0.5)


OTHER_PARTS = {
    "encoder": {"encoder": lambda patterns: 2 * patterns},
    "decoder": {"decoder": lambda codes: codes + 1},
    "likelihood": {"likelihood": LaplaceLikelihood()},
    "address prior": {"address_prior": LaplaceAddress(3)},
    "mean of the address prior": {"address_prior": dist.Normal(torch.full((3,), 0.3), 1.0).to_event(1)},
    "mean of the memory prior": {"memory_prior": MatrixNormal(1 + torch.eye(3, 4), torch.eye(3))},
    "scale of the memory prior": {"memory_prior": MatrixNormal(torch.eye(3, 4), 2 * torch.eye(3))},
}


@pytest.mark.parametrize("name", OTHER_PARTS)
def test_a_machine_that_differs_in_no_parameter(tmp_path, name):
    """The machine of the memory has plain callables and distributions."""
    usual = {
        "encoder": lambda patterns: patterns,
        "decoder": lambda codes: codes,
        "likelihood": NormalLikelihood(0.5, learned=False),
        "address_prior": dist.Normal(torch.zeros(3), 1.0).to_event(1),
        "memory_prior": MatrixNormal(torch.eye(3, 4), torch.eye(3)),
    }
    patterns, path = torch.randn(1, 5, 4), tmp_path / "memory.pt"
    machine = KanervaMachine(**usual)
    machine.write(patterns).save(path)
    Memory.load(path, KanervaMachine(**usual))
    Memory.load(path, KanervaMachine(**usual).double())
    with pytest.raises(ValueError, match=r"machine with other parameters or parts"):
        Memory.load(path, KanervaMachine(**{**usual, **OTHER_PARTS[name]}))


@pytest.mark.parametrize("name", ["loc", "scale_tril_row", "codes", "addresses"])
@pytest.mark.parametrize("change", [lambda x: x * torch.nan, lambda x: x[..., :-1], lambda x: x.long()])
def test_numbers_that_are_no_memory(make_machine, patterns, tmp_path, name, change):
    machine, path = make_machine(), tmp_path / "memory.pt"
    machine.write(patterns).save(path)
    header, state = _files.load(path, "memory")
    if name in state:
        state[name] = change(state[name])
    else:
        (record,) = state["records"]
        state["records"] = [
            tuple(change(part) if i == ("codes", "addresses").index(name) else part for i, part in enumerate(record))
        ]
    _files.save(path, "memory", header, state)
    with pytest.raises(ValueError, match="numbers of a memory that are NaN or of a wrong shape"):
        Memory.load(path, machine)


def test_networks_with_dropout_are_compared_without_it(tmp_path):
    def machine():
        torch.manual_seed(0)
        encoder = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5))
        return KanervaMachine(encoder, torch.nn.Linear(4, 4), memory_prior=GaussianMemory(3, 4))

    first = machine()
    first.write((torch.rand(1, 5, 4) < 0.5).float()).save(tmp_path / "memory.pt")
    assert first.encoder[1].training
    Memory.load(tmp_path / "memory.pt", machine().train())


def test_memory_of_another_machine(make_machine, patterns, tmp_path):
    machine = make_machine()
    machine.write(patterns).save(tmp_path / "memory.pt")
    with pytest.raises(ValueError, match=r"machine with other parameters.*write the patterns again"):
        Memory.load(tmp_path / "memory.pt", make_machine())
    with torch.no_grad():
        machine.encoder[1].bias[0] += 1
    with pytest.raises(ValueError, match="machine with other parameters"):
        Memory.load(tmp_path / "memory.pt", machine)
