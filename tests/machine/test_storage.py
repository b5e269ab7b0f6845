"""Files of machines: what was saved is loaded, also by another process, and files of other machines are refused."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from helpers import linear_machine, small_machine

from pyro_kanerva import (
    CategoricalLikelihood,
    LaplaceAddress,
    LowRankMemory,
    MixtureAddress,
    MLPEncoder,
    NormalLikelihood,
    OnlineWriter,
    kanerva_2018,
    pretrained,
)


def changed(machine):
    """The machine, with parameters other than those that it was built with."""
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter += 0.1 * torch.rand_like(parameter)
    return machine


def assert_same_parameters(one, other):
    torch.testing.assert_close(dict(one.state_dict()), dict(other.state_dict()), rtol=0, atol=0)


def in_another_process(code, folder):
    code = textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout


BUILD = """
import sys, torch, pyro_kanerva as pk
machine = pk.KanervaMachine(
    pk.MLPEncoder((1, 5, 7), 10, 16), pk.MLPDecoder(10, (1, 5, 7), 16), memory_prior=pk.GaussianMemory(6, 10)
)
"""


def test_another_process_loads_machine_and_memory(patterns, tmp_path):
    """Its bound under a fixed seed is equal to the last digit, and the memory of the machine still loads."""
    namespace = {}
    exec(BUILD, namespace)
    machine = changed(namespace["machine"])
    machine.save(tmp_path / "machine.pt")
    machine.write(patterns).save(tmp_path / "memory.pt")
    torch.save(patterns, tmp_path / "patterns.pt")
    assert sorted(os.listdir(tmp_path)) == ["machine.pt", "memory.pt", "patterns.pt"]
    torch.manual_seed(3)
    expected = machine.bound(patterns).bound.tolist(), machine.write(patterns).query(patterns).energy.sum().item()
    code = """
    torch.set_num_threads(1)
    machine.load("machine.pt")
    patterns = torch.load("patterns.pt")
    torch.manual_seed(3)
    bound = machine.bound(patterns).bound.tolist()
    print((bound, pk.Memory.load("memory.pt", machine).query(patterns).energy.sum().item()))
    """
    assert eval(in_another_process(BUILD + textwrap.dedent(code), tmp_path)) == expected


def test_another_process_opens_a_machine_of_the_package(tmp_path):
    """From the file alone: no parts are built."""
    machine = changed(pretrained("letters"))
    machine.save(tmp_path / "machine.pt")
    expected = machine.encoder(torch.ones(1, 1, 28, 28)).sum().item(), machine.code_scale.item()
    code = """
    import torch, pyro_kanerva as pk
    torch.set_num_threads(1)
    machine = pk.pretrained("machine.pt")
    print((machine.encoder(torch.ones(1, 1, 28, 28)).sum().item(), machine.code_scale.item()))
    print(pk.pretrained_card("machine.pt")["config"]["slots"])
    """
    found, slots = in_another_process(code, tmp_path).splitlines()
    assert eval(found) == expected
    assert int(slots) == machine.num_slots
    again = pretrained(tmp_path / "machine.pt")
    assert again.config == machine.config
    again.save(tmp_path / "again.pt")
    assert_same_parameters(pretrained(tmp_path / "again.pt"), machine)


MACHINES = {
    "default": small_machine,
    "low rank": lambda: small_machine(memory_prior=LowRankMemory(6, 10, 2)),
    "mixture": lambda: small_machine(address_prior=MixtureAddress(6, 0.1)),
    "2018": lambda: linear_machine(4, 3, machine=kanerva_2018),
    "classes": lambda: small_machine((6,), 3, 4, output_shape=(6, 3), likelihood=CategoricalLikelihood(3)),
}


@pytest.mark.parametrize("make", MACHINES.values(), ids=MACHINES)
def test_save_and_load(tmp_path, make):
    machine, other = changed(make()), make()
    machine.save(tmp_path / "machine.pt")
    assert other.load(tmp_path / "machine.pt") is other
    assert_same_parameters(other, machine)
    double = make().double().load(tmp_path / "machine.pt")
    assert {value.dtype for value in double.parameters()} == {torch.float64}
    with pytest.raises(ValueError, match=r"machine of your own parts.*call machine.load\(\)"):
        pretrained(tmp_path / "machine.pt")


def test_another_writer_without_parameters_loads(tmp_path):
    machine = changed(small_machine())
    machine.save(tmp_path / "machine.pt")
    assert_same_parameters(small_machine(writer=OnlineWriter(1)).load(tmp_path / "machine.pt"), machine)


def narrow_encoder():
    machine = small_machine(address_prior=MixtureAddress(6, 0.1))
    machine.encoder = MLPEncoder((1, 5, 7), 10, 16)
    return machine


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_machine(slots=5), "num_slots is 6 in the file, 5 in this machine"),
        (lambda: small_machine(code_size=9), "code_size is 10 in the file, 9 in this machine"),
        (lambda: small_machine((1, 7, 5)), r"event_shape is \[1, 5, 7\] in the file, \[1, 7, 5\] in this machine"),
        (lambda: small_machine(address_prior=LaplaceAddress(6)), "address_prior is 'GaussianMixture' in the file"),
        (lambda: small_machine(address_prior=MixtureAddress(6, 0.2)), "address_prior.scale_tril has other values"),
        (lambda: small_machine(memory_prior=LowRankMemory(6, 10, 2)), "memory_prior.factor is not in the file"),
        (lambda: small_machine(likelihood=NormalLikelihood()), "likelihood is 'BernoulliLikelihood' in the file"),
        (narrow_encoder, r"encoder.1.weight has shape \(32, 35\) in the file, \(16, 35\) in"),
    ],
)
def test_a_file_of_another_machine(tmp_path, make, message):
    small_machine(address_prior=MixtureAddress(6, 0.1)).save(tmp_path / "machine.pt")
    other = make()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=rf"machine.pt is of another machine: .*{message}.*Build the machine with"):
        other.load(tmp_path / "machine.pt")
    torch.testing.assert_close(dict(other.state_dict()), before, rtol=0, atol=0)


def test_files_of_other_kinds(tmp_path, patterns):
    machine = small_machine()
    machine.write(patterns).save(tmp_path / "memory.pt")
    with pytest.raises(ValueError, match="is a file of kind 'pyro_kanerva memory'"):
        machine.load(tmp_path / "memory.pt")
    with pytest.raises(
        ValueError, match=r"memory.pt is not a whole file of a trained machine. .*of kind 'pyro_kanerva m"
    ):
        pretrained(tmp_path / "memory.pt")
    with pytest.raises(FileNotFoundError, match="nothing"):
        machine.load(tmp_path / "nothing")
