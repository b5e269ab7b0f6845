"""Without validation, a training step never makes the host wait for the device: no operation looks into a tensor."""

import traceback
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.autograd import Function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import pyro_kanerva
from pyro_kanerva import (
    ConvDecoder,
    ConvEncoder,
    Flip,
    FrameWriter,
    GaussianMemory,
    KanervaMachine,
    LowRankMemory,
    MixtureAddress,
    NormalLikelihood,
    OnlineWriter,
)

WAITING = {  # operations whose result CUDA returns only after all work before them
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "nonzero_static",
    "argwhere",
    "masked_select",
    "equal",
    "_linalg_check_errors",
    "_is_all_true",
    "_is_any_true",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "repeat_interleave",
    "_assert_async",
}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put", "_index_put_impl_"}


PACKAGES = {name: Path(package.__file__).parent for name, package in (("pyro", pyro), ("machine", pyro_kanerva))}


def callers():
    """("pyro" or "machine", function) of the calls of Pyro and of this package that led here, innermost first."""
    frames = traceback.extract_stack()[::-1]
    return [
        (name, frame.name)
        for frame in frames
        for name, folder in PACKAGES.items()
        if Path(frame.filename).is_relative_to(folder)
    ]


class NoWaiting(TorchDispatchMode):
    """Raises where an operation would make the host wait for the device.

    With ``pyro_may``, Pyro's ELBO may read its own value. A tensor made of Python numbers is copied to the device,
    which waits as well.
    """

    def __init__(self, pyro_may=False):
        super().__init__()
        self.pyro_may = pyro_may
        self.by_pyro = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name in INDEXING and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in tree_leaves(args[1])
        )
        if name in WAITING or masks:
            # Pyro reads the loss as a number, and looks for NaN in it and in its gradient
            if not (self.pyro_may and {("pyro", "torch_item"), ("pyro", "warn_if_nan")} & set(callers())):
                raise AssertionError(f"aten.{name} makes the host wait")
            self.by_pyro += 1
        if name == "lift_fresh" and [package for package, _ in callers()][:1] == ["machine"]:
            raise AssertionError(f"aten.{name} of numbers makes the host wait")
        return function(*args, **(kwargs or {}))


def step(loss_of, patterns, **options):
    """Loss and gradients under the mode, and how often Pyro waited."""
    with NoWaiting(**options) as mode:
        loss = loss_of(patterns)
        loss.backward()
    assert loss.isfinite()
    return mode.by_pyro


def count(elbo, machine, patterns, **options):
    with pyro.validation_enabled(False):
        return step(elbo(max_plate_nesting=2)(*machine.training_pair(**options)), patterns, pyro_may=True)


@pytest.mark.parametrize("length", [1, 5, 8, 20])  # one block, of fewer patterns than slots or more, and several
def test_a_training_step_waits_for_nothing(make_machine, length):
    """Pyro alone does: it reads the loss as a number, and looks for NaN in it and in its gradient."""
    patterns = (torch.rand(3, length, 1, 5, 7) < 0.3).float()
    assert count(TraceMeanField_ELBO, make_machine(), patterns) <= 4


@pytest.mark.parametrize("length", [5, 20])
def test_the_bound_waits_for_nothing(make_machine, length):
    machine = make_machine()
    patterns = (torch.rand(3, length, 1, 5, 7) < 0.3).float()
    with pyro.validation_enabled(False):
        step(lambda patterns: -machine.bound(patterns, 2).bound.sum(), patterns)
    assert all(parameter.grad.isfinite().all() for parameter in machine.parameters())


@pytest.mark.parametrize(
    "parts",
    [
        {"writer": OnlineWriter(1)},
        {"writer": OnlineWriter(8, 2)},
        {"memory_prior": LowRankMemory(6, 10, 2)},
        {"likelihood": NormalLikelihood(0.5)},
        {"address_prior": MixtureAddress(6)},
    ],
)
def test_other_closed_forms_wait_for_nothing(make_machine, parts, patterns):
    count(TraceMeanField_ELBO, make_machine(**parts), patterns.repeat(1, 3, 1, 1, 1))


@pytest.mark.parametrize("elbo", [TraceMeanField_ELBO, Trace_ELBO])
def test_a_frame_waits_for_nothing(make_machine, patterns, elbo):
    prior = GaussianMemory(6, 10)
    count(elbo, make_machine(memory_prior=prior, writer=FrameWriter(prior)), patterns, memory_kl_weight=0.5)


def test_damaged_cues_wait_for_nothing(make_machine, patterns):
    count(TraceMeanField_ELBO, make_machine(), patterns, cue_channel=Flip(0.1))


def test_convolutional_networks_wait_for_nothing():
    machine = KanervaMachine(
        ConvEncoder((1, 28, 28), 10, 4), ConvDecoder(10, (1, 28, 28), 4), memory_prior=GaussianMemory(6, 10)
    )
    count(TraceMeanField_ELBO, machine, (torch.rand(2, 9, 1, 28, 28) < 0.3).float())


def test_with_validation_it_waits(make_machine, patterns):
    """The counter-test: with Pyro's checks on, the machine looks at patterns, codes and factors."""
    loss_of = TraceMeanField_ELBO(max_plate_nesting=2)(*make_machine().training_pair())
    with pyro.validation_enabled(True), pytest.raises(AssertionError, match="_local_scalar_dense makes the host wait"):
        step(loss_of, patterns, pyro_may=True)  # from the first look at the patterns on
    with pyro.validation_enabled(False), pytest.raises(AssertionError, match="_local_scalar_dense makes the host wait"):
        step(loss_of, patterns)  # Pyro does, even then


class _WaitsInBackward(Function):
    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float(gradient.sum() > 0)


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).all()),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.nonzero(),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.linalg.cholesky(x),
        lambda x: torch.linalg.inv(x),
        lambda x: torch.linalg.solve(x, x),
        lambda x: x.index_put((x > 0,), torch.tensor(1.0)),
        lambda x: _WaitsInBackward.apply(x).sum().backward(),
    ],
)
def test_what_waits_is_seen(look):
    """A test of the mode itself, also within backward."""
    matrix = torch.eye(3).requires_grad_()
    with NoWaiting(), pytest.raises(AssertionError, match="host wait"):
        look(matrix)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
@pytest.mark.parametrize("length", [3, 8, 20])
def test_a_machine_whose_algebra_overflows(make_machine, length):
    """Without validation the loss is NaN; with validation an error says what to do."""
    machine = make_machine()
    with torch.no_grad():
        machine.memory_prior.loc.fill_(1e30)
    patterns = (torch.rand(3, length, 1, 5, 7) < 0.3).float()
    loss_of = TraceMeanField_ELBO(max_plate_nesting=2)(*machine.training_pair())
    with pyro.validation_enabled(False):
        assert loss_of(patterns).isnan()
        assert machine.bound(patterns).bound.isnan().all()
    with pyro.validation_enabled(True), pytest.raises(ValueError, match=r"address precision .*raise code_scale"):
        machine.bound(patterns)


@pytest.mark.parametrize("parts", [{}, {"address_prior": MixtureAddress(6)}], ids=["Gaussian", "mixture"])
def test_an_episode_that_fails_does_not_touch_the_others(make_machine, patterns, parts):
    machine = make_machine(likelihood=NormalLikelihood(0.5), **parts)
    with pyro.validation_enabled(False), torch.no_grad():
        patterns[1, 0] = torch.nan
        bound = machine.bound(patterns).bound
    assert bound.isnan().tolist() == [False, True, False]
