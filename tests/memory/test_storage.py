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
    PseudoInverseWriter,
    _files,
)
from pyro_kanerva.memory import storage


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
    del header["sample"]
    state["behavior"] = storage.behavior(machine, memory.event_shape, None)  # all numbers
    _files.save(tmp_path / "old.pt", "memory", header, state)
    assert_same_memory(Memory.load(tmp_path / "old.pt", machine), memory)


ROUNDING = {torch.float64: 0.0, torch.float32: 0.0, torch.float16: 2**-11, torch.bfloat16: 2**-8}  # |error| / |number|


@pytest.mark.parametrize("dtype", [*ROUNDING, torch.int8])
@pytest.mark.parametrize("sweeps", [0, 1])
def test_the_error_of_each_dtype(make_machine, patterns, tmp_path, dtype, sweeps):
    machine = make_machine(writer=OnlineWriter(4, sweeps))
    memory = machine.write(patterns, name="first", labels=torch.arange(patterns.shape[1]))
    memory = memory.write(iter(patterns.split(3, 1)))
    memory.save(tmp_path / "memory.pt", dtype=dtype)
    loaded = Memory.load(tmp_path / "memory.pt", machine)
    assert loaded.posterior.loc.dtype == loaded.records[0].codes.dtype == torch.float32
    relative = ROUNDING.get(dtype, 2**-11)

    def assert_close(found, expected):
        assert ((found - expected).abs() <= relative * expected.abs() + 2**-25).all()

    loc = memory.posterior.loc
    if dtype == torch.int8:
        error = (loaded.posterior.loc - loc).abs()
        assert (error <= loc.abs().amax(-1, keepdim=True) / 254 + 1e-6).all()
        assert error.max() > 0
    else:
        assert_close(loaded.posterior.loc, loc)
    assert_close(loaded.posterior.scale_tril_row, memory.posterior.scale_tril_row)
    record, expected = loaded.records[0], memory.records[0]
    assert record.name == "first"
    assert torch.equal(record.labels, expected.labels)
    assert_close(record.codes, expected.codes)
    assert_close(record.addresses, expected.addresses)
    if sweeps:
        assert_close(record.address_scale_tril, expected.address_scale_tril)
    assert torch.equal(loaded.records[1].precision, memory.records[1].precision)
    assert torch.equal(loaded.identify(patterns).pattern, memory.identify(patterns).pattern)


def test_the_numbers_of_a_file(make_machine, patterns, tmp_path):
    """Half precision has half of the bytes, 8 bits have a quarter of those of R."""
    machine, path = make_machine(), tmp_path / "memory.pt"
    memory = machine.write(patterns)
    sizes = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.int8):
        memory.save(path, dtype=dtype, records=False)
        state = _files.load(path, "memory")[1]
        sizes[dtype] = {name: state[name].nbytes for name in ("loc", "scale_tril_row")}
        assert state["records"] == []
    whole = sizes[torch.float32]
    half = {name: size // 2 for name, size in whole.items()}
    assert sizes[torch.float16] == sizes[torch.bfloat16] == half
    assert sizes[torch.int8] == half | {"loc": whole["loc"] // 4}


def test_a_memory_without_records(make_machine, patterns, tmp_path):
    machine, path = make_machine(), tmp_path / "memory.pt"
    memory = machine.write(patterns)
    memory.save(path, records=False)
    loaded = Memory.load(path, machine)
    assert torch.equal(loaded.posterior.loc, memory.posterior.loc)
    assert loaded.records == ()
    more = loaded.write(patterns)
    assert_close_posteriors(more.posterior, memory.write(patterns).posterior)
    with pytest.raises(ValueError, match="saved in a smaller dtype or without records"):
        more.erase(more.records[0])
    machine.writer = PseudoInverseWriter(6)
    with pytest.raises(ValueError, match="starts anew with every write"):
        loaded.write(patterns)
    machine.prior_memory(len(patterns)).write(patterns)


def test_erase_after_rounding(make_machine, patterns, tmp_path):
    machine, path = make_machine(), tmp_path / "memory.pt"
    memory = machine.write(patterns).write(patterns)
    memory.save(path, dtype=torch.bfloat16)
    loaded = Memory.load(path, machine)
    with pytest.raises(ValueError, match="saved in a smaller dtype or without records"):
        loaded.erase(loaded.records[0])


def test_dtypes_that_do_not_fit(make_machine, patterns, tmp_path):
    machine, path = make_machine(), tmp_path / "memory.pt"
    memory = machine.write(patterns)
    memory.save(path)
    before = path.read_bytes()
    posterior = memory.posterior
    for dtype in (torch.uint8, torch.int64, torch.complex64, "int8"):
        with pytest.raises(ValueError, match=r"save\(\): dtype is .*; expected one of torch.float64, torch.float32"):
            memory.save(path, dtype=dtype)
    large = MatrixNormal(1e6 * posterior.loc, posterior.scale_tril_row)
    with pytest.raises(ValueError, match=r"too large for torch.float16. Pass dtype=torch.bfloat16"):
        Memory(machine, large, memory.event_shape).save(path, dtype=torch.float16)
    narrow = MatrixNormal(posterior.loc, 1e-9 * posterior.scale_tril_row)
    for dtype in (torch.float16, torch.int8):
        with pytest.raises(ValueError, match=r"0 in torch.float16. Pass dtype=torch.bfloat16"):
            Memory(machine, narrow, memory.event_shape).save(path, dtype=dtype)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["memory.pt"]
    for matrix in (large, narrow):
        Memory(machine, matrix, memory.event_shape).save(path, dtype=torch.bfloat16)
        assert Memory.load(path, machine).posterior.loc.isfinite().all()


def test_a_row_of_zeros_in_8_bits():
    matrix = torch.tensor([[0.0, 0.0], [1e-3, -2e-3], [5e7, 1.0]])
    numbers, scale = storage.quantized(matrix)
    assert numbers.tolist() == [[0, 0], [64, -127], [127, 0]]
    torch.testing.assert_close(numbers * scale, matrix, rtol=0, atol=5e7 / 254)
    assert torch.equal((numbers * scale)[0], matrix[0])


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


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {"loc_scale": state["loc_scale"] * torch.nan},
        lambda state: {"loc_scale": state["loc_scale"][:, :-1]},
        lambda state: {"loc": state["loc"].float()},
        lambda state: {"loc_scale": state["loc_scale"].long()},
    ],
)
def test_8_bits_that_are_no_memory(make_machine, patterns, tmp_path, change):
    machine, path = make_machine(), tmp_path / "memory.pt"
    machine.write(patterns).save(path, dtype=torch.int8)
    header, state = _files.load(path, "memory")
    _files.save(path, "memory", header, state | change(state))
    with pytest.raises(ValueError, match="numbers of a memory that are NaN or of a wrong shape"):
        Memory.load(path, machine)


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
