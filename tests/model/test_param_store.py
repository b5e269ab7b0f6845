"""Names of parameters in Pyro's parameter store, and a store that another process saved."""

import copy
import gc
import pickle
import subprocess
import sys

import pyro
import pytest
import torch
from helpers import parameters_of, small_machine, unmoved
from pyro.infer import SVI, Trace_ELBO

import pyro_kanerva as pk

SAVE = """
import sys
import pyro, torch
import pyro_kanerva as pk

def machine(name, seed):
    torch.manual_seed(seed)
    return pk.KanervaMachine(
        pk.MLPEncoder((3,), 4, 8), pk.MLPDecoder(4, (3,), 8), memory_prior=pk.GaussianMemory(2, 4), name=name
    )

names = sys.argv[2].split(",")
machines = {name: machine(name, seed) for seed, name in enumerate(names, int(sys.argv[3]))}
x = (torch.rand(2, 4, 3) < 0.5).float()
if sys.argv[1] == "save":
    for one in machines.values():
        svi = pyro.infer.SVI(one.model, one.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
        svi.step(x)
    pyro.get_param_store().save("store.pt")
else:
    pyro.get_param_store().load("store.pt")
    for one in machines.values():
        one.model(x)
for name, one in machines.items():
    print(name, *(value.double().sum().item() for value in one.parameters()))
"""


def test_a_store_of_another_process_with_machines_in_another_order(tmp_path):
    printed = []
    for arguments in (("save", "left,right", "0"), ("load", "right,left", "7")):
        command = [sys.executable, "-c", SAVE, *arguments]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        printed.append(sorted(result.stdout.splitlines()))
    assert printed[0] == printed[1]
    assert printed[0][0].split()[1:] != printed[0][1].split()[1:]


def step(machine, patterns):
    SVI(machine.model, machine.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(max_plate_nesting=2)).step(patterns)


def test_a_loaded_store_is_trained_on(make_machine, patterns, tmp_path):
    """Parameters stay the same objects, so that an optimizer made before still moves them."""
    machine = make_machine(name="letters")
    optimizer = torch.optim.SGD(machine.parameters(), lr=0.1)
    step(machine, patterns)
    saved = parameters_of(machine)
    pyro.get_param_store().save(tmp_path / "store.pt")
    step(machine, patterns)
    pyro.get_param_store().load(tmp_path / "store.pt")
    machine.register()
    assert unmoved(machine, saved) == list(saved)
    assert set(pyro.get_param_store()) == {f"letters$$${name}" for name in saved}
    Trace_ELBO(max_plate_nesting=2)(machine.model, machine.guide)(patterns).backward()
    optimizer.step()
    assert unmoved(machine, saved) == []
    step(machine, patterns)


def test_two_living_machines_of_one_name(make_machine, patterns):
    machine = make_machine(name="letters")
    step(machine, patterns)
    for build in (
        make_machine,
        lambda name: pk.kanerva_2018(
            pk.MLPEncoder((3,), 4), pk.MLPDecoder(4, (3,)), memory_prior=pk.GaussianMemory(2, 4), name=name
        ),
    ):
        with pytest.raises(ValueError, match=r"a living machine has the name 'letters'.*another name, or call release"):
            build(name="letters")
    machine.release()
    other = make_machine(name="letters")
    with pytest.raises(ValueError, match="a living machine has the name 'letters'"):
        machine.model(patterns)
    del other
    gc.collect()
    machine.model(patterns)


def test_a_machine_that_is_refused_does_not_take_its_name(make_machine):
    with pytest.raises(ValueError, match="code_scale") as held:
        make_machine(name="letters", code_scale=-1.0)
    make_machine(name="letters")
    assert held.tb is not None  # which keeps the refused machine alive


def test_copies_of_a_named_machine_have_keys_of_their_own(make_machine, patterns):
    machine = make_machine(name="letters")
    pickled = pickle.dumps(machine)
    for other in (copy.deepcopy(machine), pickle.loads(pickled)):
        assert other.name is None
        before = parameters_of(machine)
        step(other, patterns)
        assert len(unmoved(machine, before)) == len(before)
    del machine
    gc.collect()
    assert pickle.loads(pickled).name == "letters"


@pytest.mark.parametrize("name", ["", "a$$$b", 3])
def test_names_that_are_none(make_machine, name):
    with pytest.raises(ValueError, match=r"KanervaMachine: name is .*; expected a text"):
        make_machine(name=name)


def test_parameters_of_another_machine_in_the_store(make_machine, patterns, tmp_path):
    """They would freeze the machine, or be frozen."""
    machine = make_machine()
    machine.register()
    pyro.get_param_store().save(tmp_path / "store.pt")
    pyro.get_param_store().load(tmp_path / "store.pt")
    with pytest.raises(ValueError, match=r"another parameter 'kanerva_machine_\d+\$.*order.*name=.*machine.save"):
        machine.model(patterns)
    machine.release()
    machine.model(patterns)
    small_machine(name="letters").register()
    with pytest.raises(ValueError, match=r"'letters\$.* of shape .*equal machine, or call release\(\)"):
        small_machine((9,), name="letters").register()


@pytest.mark.parametrize("name", [None, "letters"])
def test_a_part_that_is_replaced_is_trained(make_machine, patterns, name):
    machine = make_machine(name=name)
    step(machine, patterns)
    machine.decoder = pk.MLPDecoder(10, (1, 5, 7))
    before = parameters_of(machine)
    step(machine, patterns)
    assert unmoved(machine, before) == []
