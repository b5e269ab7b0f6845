"""What a machine refuses: patterns, parts that do not fit together, and what diverged parts return."""

import pyro.distributions as dist
import pytest
import torch
from helpers import Identity, linear_machine, small_machine
from pyro.infer import Trace_ELBO

from pyro_kanerva import (
    AmortizedReader,
    CategoricalAddress,
    CategoricalLikelihood,
    ExactReader,
    Flip,
    GaussianAddress,
    HorseshoeAddress,
    KanervaMachine,
    LaplaceReader,
    MatrixNormal,
    MixtureAddress,
    MixtureReader,
    MLPDecoder,
    MLPEncoder,
    Occlusion,
    OnlineWriter,
    PseudoInverseWriter,
    Replace,
    ScalarReader,
    SimplexAddress,
    SlotReader,
)

# ---------------------------------------------------------------------- patterns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :4], r"event shape \(1, 5, 4\) .*; expected \(1, 5, 7\). Resize them"),
        (lambda x: x.squeeze(2), r"\(3, 8, 5, 7\)\); .* Add the missing dimension with patterns.unsqueeze\(2\)"),
        (lambda x: x[0, :, 0], r"\(8, 5, 7\)\); .* Add the missing dimension with patterns.unsqueeze\(1\)"),
        (lambda x: x.unsqueeze(0), r"shape \(1, 3, 8, 1, 5, 7\); expected \(episodes, patterns\) \+ \(1, 5, 7\)"),
        (lambda x: x[0, 0], "expected"),
        (lambda x: x.double(), r"dtype torch.float64 on cpu; expected torch.float32 on cpu.*\.to\(dtype\)"),
        (lambda x: x.to("meta"), r"torch.float32 on meta; expected torch.float32 on cpu.*\.to\(device\)"),
        (lambda x: torch.where(x > 0, torch.nan, x), "NaN or infinite entries"),
        (lambda x: torch.where(x > 0, torch.inf, x), "NaN or infinite entries"),
        (lambda x: 0.5 * x, "entries other than 0 and 1.*Binarize"),
        (lambda x: x[:, :0], "empty batch or episode"),
        (lambda x: x[:0], "empty batch or episode"),
    ],
)
@pytest.mark.parametrize("call", ["model", "guide", "bound", "write"])
def test_bad_patterns(make_machine, patterns, change, message, call):
    with pytest.raises(ValueError, match=rf"{call}\(\): patterns .*{message}"):
        getattr(make_machine(), call)(change(patterns))


def test_the_missing_dimension_of_vectors(patterns):
    """The dimension of size 1 may be anywhere in the event shape."""
    machine = linear_machine(2, 35, encoder=Identity(5, 1, 7))
    with pytest.raises(ValueError, match=r"with patterns.unsqueeze\(3\)"):
        machine.write(patterns[:, :, 0])
    assert machine.with_episodes(patterns[:, :, 0].unsqueeze(3), "test").shape == (3, 8, 5, 1, 7)


def test_integer_classes_are_patterns_and_cues():
    """The same as float classes, in every call; other likelihoods refuse integers."""
    machine = small_machine((6,), output_shape=(6, 3), likelihood=CategoricalLikelihood(3))
    classes = torch.randint(0, 3, (2, 4, 6))
    one, other = (machine.write(patterns) for patterns in (classes, classes.float()))
    assert torch.equal(one.posterior.loc, other.posterior.loc)
    bounds = []
    for patterns in (classes, classes.float()):
        torch.manual_seed(1)
        bounds.append(machine.bound(patterns).bound)
    assert torch.equal(*bounds)
    model, guide = machine.training_pair(cue_channel=Replace(0.2, 3))
    assert Trace_ELBO(max_plate_nesting=2).loss(model, guide, classes) > 0
    noise = Replace(0.2, 3)
    cues = noise(classes)
    assert cues.dtype == torch.int64
    for cue in (cues, Occlusion(torch.arange(6) < 3)(classes)):
        retrievals = [one.query(x, channel=noise, num_steps=2).patterns for x in (cue, cue.float())]
        assert torch.equal(*retrievals)
    with pytest.raises(ValueError, match=r"write\(\): patterns have entries other than the classes 0 ... 2"):
        machine.write(classes + 1)
    with pytest.raises(ValueError, match=r"write\(\): patterns have dtype torch.int64 on cpu; expected torch.float32"):
        small_machine((6,)).write(classes)


def test_patterns_without_an_event_shape(patterns):
    machine = linear_machine(2, 35, encoder=torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"shape \(3, 8\); expected \(episodes, patterns\)"):
        machine.write(patterns[..., 0, 0, 0])


# ---------------------------------------------------------------------- parts


@pytest.mark.parametrize("call", ["bound", "model", "guide"])
def test_decoder_of_another_shape(make_machine, patterns, call):
    """Shapes that would broadcast must not pass."""
    machine = make_machine()
    machine.decoder = MLPDecoder(10, (1, 1, 7))
    program = machine.training_pair()[1] if call == "guide" else getattr(machine, call)
    with pytest.raises(ValueError, match=r"give shape \(.*1, 1, 7\); expected \(.*1, 5, 7\), that of the patterns"):
        program(patterns)
    machine.decoder = MLPDecoder(9, (1, 5, 7))
    with pytest.raises(ValueError, match=r"decoder failed on a tensor of shape .*code_size 10"):
        program(patterns)


def test_reader_of_another_shape(make_machine, patterns):
    machine = make_machine(reader=lambda codes, matrix, prior, scale: dist.Normal(codes, 1.0).to_event(1))
    with pytest.raises(
        ValueError, match=r"reader returned batch and event shape \(3, 8\), \(10,\); expected \(1, 3, 8\)"
    ):
        machine.bound(patterns)


def test_diverged_parameters_are_named(make_machine, patterns):
    machine = make_machine()
    with torch.no_grad():
        machine.encoder[1].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"encoder returned NaN or infinite codes.*learning rate"):
        machine.write(patterns)
    machine = make_machine()
    memory = machine.write(patterns)
    with torch.no_grad():
        machine.decoder[-2].bias.fill_(torch.nan)
    for call in (machine.bound, machine.training_pair()[1], machine.model, memory.read, lambda x: memory.generate(2)):
        with pytest.raises(ValueError, match=r"decoder returned NaN or infinite values.*learning rate"):
            call(patterns)
    for channel in (None, Flip(0.1)):
        with pytest.raises(ValueError, match=r"energy of a cue is NaN or infinite.*learning rate"):
            memory.query(patterns, channel=channel)
    machine = make_machine()
    with torch.no_grad():
        machine.memory_prior.loc.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"address precision .* NaN or infinite"):
        machine.write(patterns)


def changed(**change):
    """A writer whose result is changed."""

    def write(codes, prior, code_scale):
        return OnlineWriter()(codes, prior, code_scale)._replace(**change)

    return write


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (
            changed(addresses=torch.zeros(2, 6, 5)),
            r"writer returned a memory .*addresses \(2, 6, 5\); expected \(2,\), \(4, 3\) and \(2, 6, 4\)",
        ),
        (
            changed(memory=MatrixNormal(torch.zeros(4, 3), torch.eye(4))),
            r"writer returned a memory of batch and event shape \(\), \(4, 3\)",
        ),
        (lambda codes, prior, scale: OnlineWriter()(codes[:, :1], prior, scale), r"writer returned .*\(2, 1, 4\)"),
    ],
)
def test_writer_of_another_shape(writer, message):
    with pytest.raises(ValueError, match=message):
        linear_machine(4, 3, writer=writer).write(torch.randn(2, 6, 3))


@pytest.mark.parametrize("writer", [None, PseudoInverseWriter(4)])
def test_slots_of_equal_mean(writer):
    with pytest.warns(UserWarning, match=r"same mean.*store nothing.*LaplaceMemory"):
        linear_machine(4, 5, memory_prior=dist.Laplace(torch.zeros(4, 5), 0.2).to_event(2), writer=writer)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"code_posterior": lambda z: dist.Normal(z, 1.0)}, r"code_posterior returned .*to_event\(1\)"),
        ({"address_prior": dist.Bernoulli(torch.full((4,), 0.5)).to_event(1)}, "not one-hot"),
    ],
)
def test_parts_of_the_wrong_kind(parts, message):
    with pytest.raises(ValueError, match=message):
        linear_machine(4, 5, **parts).bound(torch.randn(1, 3, 5))


WRONG_SUPPORT = "whose support is not that of the address prior"
WRONG_PAIRS = [
    (SlotReader, GaussianAddress, "SlotReader: the address prior is MultivariateNormal; expected a OneHotCategorical"),
    (SlotReader, SimplexAddress, "SlotReader: .*CategoricalAddress"),
    (MixtureReader, GaussianAddress, "MixtureReader: the address prior is MultivariateNormal; expected a GaussianMix"),
    (MixtureReader, CategoricalAddress, "MixtureReader: .* is OneHotCategorical; .*as MixtureAddress"),
    (SlotReader, MixtureAddress, "SlotReader: the address prior is GaussianMixture; expected a OneHotCategorical"),
    (ExactReader, SimplexAddress, "no finite mean and variance.*LaplaceReader"),
    (ExactReader, HorseshoeAddress, "no finite mean and variance.*LaplaceReader"),
    (ExactReader, CategoricalAddress, rf"{WRONG_SUPPORT} OneHotCategorical.*SlotReader\(\)"),
    (
        ExactReader,
        lambda slots: dist.HalfNormal(torch.ones(slots)).to_event(1),
        rf"SharedCovarianceNormal, {WRONG_SUPPORT}.*LaplaceReader\(\)",
    ),
    (ExactReader, lambda slots: dist.Dirichlet(torch.ones(slots)), rf"{WRONG_SUPPORT} Dirichlet"),
    (ScalarReader, SimplexAddress, "no finite mean and variance.*LaplaceReader"),
    (ScalarReader, CategoricalAddress, rf"{WRONG_SUPPORT} OneHotCategorical.*SlotReader\(\)"),
    (ScalarReader, lambda slots: dist.Gamma(torch.ones(slots), 1.0).to_event(1), WRONG_SUPPORT),
    (LaplaceReader, CategoricalAddress, r"LaplaceReader: the address prior OneHotCategorical is discrete; use Slot"),
    (lambda: AmortizedReader(torch.nn.Linear(2, 6)), SimplexAddress, WRONG_SUPPORT),
    (lambda: AmortizedReader(torch.nn.Linear(2, 6)), CategoricalAddress, WRONG_SUPPORT),
]


@pytest.mark.parametrize(("reader", "prior", "message"), WRONG_PAIRS)
@pytest.mark.parametrize("call", ["bound", "guide", "read"])
def test_wrong_pairs(reader, prior, message, call):
    machine = linear_machine(3, 2, address_prior=prior(3), reader=reader(), writer=OnlineWriter())
    x = torch.randn(2, 4, 2)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        machine.write(x).read(x) if call == "read" else getattr(machine, call)(x)


def test_the_warning_of_equal_slots_names_the_line_of_the_machine():
    prior = dist.Normal(torch.zeros(6, 10), 1.0).to_event(2)
    with pytest.warns(UserWarning, match="all slots of memory_prior have the same mean") as record:
        KanervaMachine(MLPEncoder((5,), 10), MLPDecoder(10, (5,)), memory_prior=prior)
    assert record[0].filename == __file__


def test_a_single_slot_needs_no_moments():
    prior = dist.Cauchy(torch.zeros(1, 10), 1.0).to_event(2)
    assert KanervaMachine(MLPEncoder((5,), 10), MLPDecoder(10, (5,)), memory_prior=prior).num_slots == 1
