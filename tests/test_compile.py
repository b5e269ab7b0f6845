"""A compiled machine computes what it computes otherwise; the quick tests compile without generating code."""

import copy
import pickle
import uuid
from collections import Counter
from typing import ClassVar

import pyro
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_kanerva import (
    AmortizedReader,
    AmortizedWriter,
    FrameWriter,
    GaussianMemory,
    MLPEncoder,
    OnlineWriter,
)

pytestmark = [  # warnings of torch's own tracing
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]
PARTS = "encoder", "decoder", "writer", "reader"


@pytest.fixture(autouse=True)
def _nothing_compiled():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Graphs:
    """A backend that runs what it is given, and counts, also what its copies are given."""

    counts: ClassVar = Counter()

    def __init__(self):
        self.key = uuid.uuid4()

    @property
    def number(self):
        return self.counts[self.key]

    def __call__(self, graph, inputs):
        self.counts[self.key] += 1
        return graph.forward


def loss_and_gradients(machine, patterns, kind=TraceMeanField_ELBO):
    torch.manual_seed(1)
    machine.zero_grad()
    loss = kind(max_plate_nesting=2)(*machine.training_pair())(patterns)
    loss.backward()
    pyro.clear_param_store()
    return [loss.detach(), *(parameter.grad.clone() for parameter in machine.parameters())]


def assert_same(one, other, tolerance=1e-5):
    """Relative to the largest entry of each tensor."""
    for found, expected in zip(one, other, strict=True):
        assert found.isfinite().all()
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def episodes(number=3, length=10):
    return (torch.rand(number, length, 1, 5, 7) < 0.3).float()


def assert_compiles_to_the_same(machine, *parts, **options):
    patterns = episodes()
    expected = loss_and_gradients(machine, patterns)
    assert all(gradient.abs().max() > 0 for gradient in expected)
    machine.compile(*parts, **options)
    assert_same(loss_and_gradients(machine, patterns), expected)
    assert_same(loss_and_gradients(machine, patterns), expected)  # the second time from what is compiled


@pytest.mark.parametrize(
    "writer",
    [OnlineWriter(8, 1), None, *(pytest.param(OnlineWriter(size), marks=pytest.mark.slow) for size in (1, 64))],
)
def test_loss_and_gradients(make_machine, writer):
    prior, graphs = GaussianMemory(6, 10), Graphs()
    machine = make_machine(memory_prior=prior, writer=FrameWriter(prior) if writer is None else writer)
    assert_compiles_to_the_same(machine, backend=graphs)
    assert graphs.number <= len(PARTS) + 1  # of the decoder a second one, since codes are decoded as well


def test_loss_and_gradients_by_an_ahead_of_time_autograd(make_machine):
    """Where torch also traces the backward pass of what the algebra has by hand."""
    assert_compiles_to_the_same(make_machine(), backend="aot_eager")


def test_networks_of_writers_and_readers(make_machine):
    network = MLPEncoder((10,), 12, 16)
    machine = make_machine(writer=AmortizedWriter(network), reader=AmortizedReader(network))
    assert_compiles_to_the_same(machine, backend=Graphs())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # torch's own, of its compiler
def test_generated_code(make_machine, tmp_path, monkeypatch):
    """The default backend, from an empty cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    assert_compiles_to_the_same(make_machine())


def test_each_part_is_one_graph(make_machine):
    """Without breaks, in which Python would come in between, and compiled once."""
    machine, graphs = make_machine(), Graphs()
    machine.compile(backend=graphs)
    for _ in range(2):
        machine.bound(episodes()).bound.sum().backward()
        assert graphs.number == len(PARTS)


def test_only_the_parts_that_are_named(make_machine):
    machine, graphs = make_machine(), Graphs()
    machine.compile("writer", "reader", backend=graphs)
    machine.encode(episodes())
    assert graphs.number == 0
    machine.bound(episodes())
    assert graphs.number == 2


def test_a_part_that_is_compiled_later(make_machine):
    """What was compiled before stays."""
    machine, first, second = make_machine(), Graphs(), Graphs()
    machine.compile("decoder", backend=first)
    machine.compile("encoder", backend=second)
    machine.bound(episodes())
    assert (first.number, second.number) == (1, 1)


@pytest.mark.parametrize("parts", [("wrtier",), ("writer", "likelihood"), ("",)])
def test_an_unknown_part(make_machine, parts):
    machine = make_machine()
    with pytest.raises(ValueError, match=r"compile\(\): parts are .*expected some of .*'encoder', 'decoder'"):
        machine.compile(*parts, backend=Graphs())
    machine.bound(episodes())


def test_names_stay(make_machine):
    machine = make_machine()
    names, parameters = list(machine.state_dict()), list(machine.parameters())
    machine.compile("encoder", "decoder", backend=Graphs())
    machine.bound(episodes())
    assert list(machine.state_dict()) == names
    assert all(one is other for one, other in zip(machine.parameters(), parameters, strict=True))
    other = make_machine()
    other.load_state_dict(machine.state_dict())
    patterns = episodes()
    assert_same(loss_and_gradients(other, patterns), loss_and_gradients(machine, patterns))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda machine: pickle.loads(pickle.dumps(machine))])
def test_copies_are_not_compiled(make_machine, duplicate):
    machine, graphs = make_machine(), Graphs()
    machine.compile("encoder", backend=graphs)
    other, patterns = duplicate(machine), episodes()
    found = loss_and_gradients(other, patterns)
    assert graphs.number == 0
    assert_same(loss_and_gradients(machine, patterns), found)
    assert graphs.number > 0  # the original still is


def test_learned_and_moved_parameters_are_used(make_machine):
    """What is compiled holds no copy of the parameters."""
    machine, patterns = make_machine(), episodes()
    machine.compile("encoder", "writer", backend=Graphs())
    before = loss_and_gradients(machine, patterns)
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.add_(0.05)
    assert_same(loss_and_gradients(machine, patterns), loss_and_gradients(copy.deepcopy(machine), patterns))
    assert loss_and_gradients(machine, patterns)[0] != before[0]
    machine.double()
    assert_same(
        loss_and_gradients(machine, patterns.double()), loss_and_gradients(copy.deepcopy(machine), patterns.double())
    )


def test_other_shapes(make_machine):
    """Compiled anew, or for any shape: the same in any case."""
    machine = make_machine()
    plain = copy.deepcopy(machine)
    machine.compile("writer", "reader", backend=Graphs())
    for number, length in ((2, 10), (1, 1)):
        patterns = episodes(number, length)
        bounds = []
        for some in (machine, plain):
            torch.manual_seed(1)
            bounds.append(some.bound(patterns).bound)
        assert_same([bounds[0]], [bounds[1]])


def test_a_part_that_is_replaced_is_used(make_machine):
    machine, patterns = make_machine(), episodes()
    machine.compile("writer", backend=Graphs())
    machine.write(patterns)
    machine.writer = OnlineWriter(1)
    plain = copy.deepcopy(machine)
    assert_same([machine.write(patterns).posterior.loc], [plain.write(patterns).posterior.loc])


def test_under_autocast(make_machine):
    machine, patterns = make_machine(), episodes()
    plain = copy.deepcopy(machine)
    machine.compile("encoder", "decoder", backend=Graphs())
    bounds = []
    for some in (machine, plain):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            bounds.append(some.bound(patterns).bound)
    assert_same([bounds[0]], [bounds[1]])


def test_a_matrix_without_a_factor(make_machine):
    """Torch's own error; without validation, NaN."""
    machine, patterns = make_machine(), episodes()
    machine.compile("writer", backend=Graphs())
    with torch.no_grad():
        machine.memory_prior.loc.fill_(1e30)
    with pytest.raises(torch.linalg.LinAlgError, match="not positive-definite"):
        machine.write(patterns)
    with pyro.validation_enabled(False):
        assert machine.write(patterns).posterior.loc.isnan().all()
