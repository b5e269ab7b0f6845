"""What a machine refuses: patterns, parts that do not fit together, and what diverged parts return."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import Identity, linear_machine, small_machine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_kanerva import (
    AmortizedReader,
    CategoricalAddress,
    CategoricalLikelihood,
    ExactReader,
    Flip,
    GaussianAddress,
    GaussianMemory,
    GaussianNoise,
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
    PointEnergy,
    PseudoInverseWriter,
    Replace,
    ScalarReader,
    SimplexAddress,
    SlotReader,
    Surrogate,
    Where,
    WriteResult,
)
from pyro_kanerva.model import checks

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
    with pytest.raises(ValueError, match=r"prior has NaN or infinite"):
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


# ---------------------------------------------------------------------- priors


class Hierarchical(nn.Module):
    """A scale that is drawn, as in a hierarchical model."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self):
        scale = pyro.sample("scale", dist.HalfNormal(1.0))
        return dist.Normal(torch.randn(self.shape), scale).to_event(len(self.shape))


def spikes(*shape):
    """Half of the entries are exactly zero."""

    class SpikeAndSlab(dist.Normal):
        def sample(self, sample_shape=torch.Size()):
            value = super().sample(sample_shape)
            return torch.where(torch.rand(value.shape) < 0.5, 0.0, value)

        def expand(self, batch_shape, _instance=None):
            return SpikeAndSlab(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    return SpikeAndSlab(torch.zeros(shape), torch.ones(shape)).to_event(len(shape))


def atoms(*shape):
    components = dist.Delta(torch.randn(*shape, 2))
    return dist.MixtureSameFamily(dist.Categorical(torch.ones(*shape, 2)), components).to_event(len(shape))


BAD_PRIORS = {
    "sample": (Hierarchical, r"samples the sites \['scale'\].*HierarchicalMemory.*nn.Parameter"),
    "delta": (lambda *s: dist.Delta(torch.randn(s), event_dim=len(s)), "Delta gives single values a positive prob"),
    "atoms": (atoms, "MixtureSameFamily gives single values a positive probability.*narrow Normal"),
    "spike": (spikes, "SpikeAndSlab gives single values a positive probability"),
    "torch": (
        lambda *s: torch.distributions.Independent(torch.distributions.Normal(torch.randn(s), 1.0), len(s)),
        "returned Independent of torch.distributions; expected a Pyro distribution.*in pyro.distributions",
    ),
    "none": (lambda *s: lambda: None, "returned None; expected a Pyro distribution"),
    "tensor": (lambda *s: lambda: torch.zeros(s), r"returned a tensor of shape \(.*; expected a Pyro distribution"),
    "pair": (lambda *s: lambda: (torch.zeros(s), 1.0), r"returned a tuple of \(Tensor, float\)"),
    "class": (lambda *s: GaussianAddress, r"is the class GaussianAddress; expected an object"),
    "number": (lambda *s: 3.0, "is an object of type float; expected a module or a function"),
}


@pytest.mark.parametrize("kind", ["memory_prior", "address_prior"])
@pytest.mark.parametrize("name", BAD_PRIORS)
def test_priors_that_are_refused(kind, name):
    build, message = BAD_PRIORS[name]
    prior = build(4, 5) if kind == "memory_prior" else build(4)
    with pytest.raises(ValueError, match=f"KanervaMachine: {kind} .*{message}"):
        linear_machine(4, 5, **{kind: prior})


@pytest.mark.parametrize("slots", [1, 4])
def test_a_memory_prior_without_moments(slots):
    """A single slot needs them as well: the writer starts from the Gaussian of equal moments."""
    prior = dist.Cauchy(torch.randn(slots, 5), 1.0).to_event(2)
    with pytest.raises(ValueError, match=r"memory prior Cauchy has no finite mean and variance.*Surrogate\(prior"):
        linear_machine(slots, 5, memory_prior=prior)
    machine = linear_machine(slots, 5, memory_prior=Surrogate(prior, GaussianMemory(slots, 5)))
    assert machine.bound(torch.randn(2, 3, 5)).bound.isfinite().all()


@pytest.mark.parametrize("prior", [dist.HalfNormal(torch.ones(4, 5)), dist.Bernoulli(torch.full((4, 5), 0.5))])
def test_a_memory_prior_on_other_values(prior):
    with pytest.raises(ValueError, match=rf"memory_prior {type(prior).__name__} has the support .*all real matrices"):
        linear_machine(4, 5, memory_prior=prior.to_event(2))


def test_an_address_prior_without_moments():
    """It needs none: the default reader takes Newton steps."""
    machine, x = linear_machine(4, 5, address_prior=dist.Cauchy(torch.zeros(4), 1.0).to_event(1)), torch.randn(2, 3, 5)
    assert machine.bound(x).bound.isfinite().all()
    memory = machine.write(x)
    assert (memory.query(x, num_steps=3).energy.diff(dim=0) <= 0).all()
    assert memory.read(x).isfinite().all()


def test_narrow_priors_have_no_atoms():
    """Also where float32 rounds many draws to one number. The check leaves the random state alone."""
    narrow = dist.Normal(torch.arange(20.0).reshape(4, 5) + 1, 1e-7).to_event(2)
    state = torch.get_rng_state()
    KanervaMachine(Identity(5), Identity(5), memory_prior=narrow, address_prior=MixtureAddress(4, 1e-7))
    checks.check_no_atoms("memory_prior", dist.Laplace(torch.zeros(4, 5), 1.0).to_event(2), "")
    assert torch.equal(torch.get_rng_state(), state)


# ---------------------------------------------------------------------- what parts return


PAIR, NOTHING = (torch.zeros(1), torch.zeros(1)), None
RETURNS = {
    "encoder pair": ({"encoder": lambda x: PAIR}, r"encoder returned a tuple of \(Tensor, Tensor\); expected a tensor"),
    "encoder none": ({"encoder": lambda x: NOTHING}, "encoder returned None; expected a tensor"),
    "encoder rows": ({"encoder": lambda x: x.sum(0)}, r"encoder returned shape \(5,\) .*; expected 6 rows"),
    "encoder arguments": ({"encoder": lambda x, y: x}, "encoder failed on a tensor .*missing 1 required"),
    "decoder pair": ({"decoder": lambda z: PAIR}, "decoder returned a tuple"),
    "decoder rows": ({"decoder": lambda z: z.mean()}, r"decoder returned shape \(\) .*one for each input"),
    "likelihood tensor": ({"likelihood": lambda y: y}, r"likelihood returned a tensor of shape .*Pyro distribution"),
    "likelihood none": ({"likelihood": lambda y: None}, "likelihood returned None"),
    "likelihood torch": (
        {"likelihood": lambda y: torch.distributions.Normal(y, 1.0)},
        "likelihood returned Normal of torch.distributions.*pyro.distributions",
    ),
    "likelihood shape": ({"likelihood": lambda y: dist.Normal(y[..., :3], 1.0)}, r"give shape \(.*3\); expected"),
    "writer pair": (
        {"writer": lambda z, p, s: tuple(OnlineWriter()(z, p, s)[:2])},
        r"writer returned a tuple of \(MatrixNormal, Tensor\); expected a WriteResult.*Return WriteResult",
    ),
    "writer memory": (
        {"writer": lambda z, p, s: p},
        "writer returned an object of type MatrixNormal; expected a Write",
    ),
    "writer none": ({"writer": lambda z, p, s: None}, "writer returned None; expected a WriteResult"),
    "writer tensor": ({"writer": lambda z, p, s: WriteResult(p.loc, z)}, "returned as memory a tensor"),
    "writer addresses": ({"writer": lambda z, p, s: WriteResult(p, None)}, "returned as addresses None"),
    "reader tensor": ({"reader": lambda z, m, p, s: z}, r"reader returned a tensor .*; expected q\(w \| x, M\)"),
    "reader none": ({"reader": lambda z, m, p, s: None}, "reader returned None"),
    "reader event": (
        {"reader": lambda z, m, p, s: dist.Normal(z[..., :4] + 0 * m[..., :1, :1], 1.0)},
        r"reader returned batch and event shape \((1, )?2, 3, 4\), \(\); expected \((1, )?2, 3\), \(4,\)",
    ),
    "code_posterior": ({"code_posterior": lambda z: z}, r"code_posterior returned a tensor .*q\(z \| x\)"),
}


@pytest.mark.parametrize("name", RETURNS)
@pytest.mark.parametrize("call", ["bound", "elbo"])
def test_wrong_returns_are_named(name, call):
    parts, message = RETURNS[name]
    if "encoder" in parts:
        parts["encoder"].event_shape = (5,)
    machine, x = linear_machine(4, 5, **parts), torch.randn(2, 3, 5)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        machine.bound(x) if call == "bound" else Trace_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, x)


@pytest.mark.parametrize("name", ["encoder", "decoder", "likelihood", "writer", "reader", "code_posterior"])
def test_parts_that_cannot_be_called(name):
    with pytest.raises(ValueError, match=rf"{name} is the class ExactReader; expected an object. Make one"):
        linear_machine(4, 5, **{name: ExactReader})
    with pytest.raises(ValueError, match=rf"{name} is an object of type float; expected a module or a function"):
        linear_machine(4, 5, **{name: 3.0})


def test_a_class_of_distributions_is_a_likelihood():
    machine, x = linear_machine(4, 5, likelihood=dist.Laplace, decoder=lambda z: z), torch.randn(2, 3, 5)
    with pytest.raises(TypeError, match="scale"):  # Laplace needs one, which is not the machine's business
        machine.bound(x)
    counts = linear_machine(4, 5, likelihood=dist.Poisson, decoder=torch.exp)
    assert counts.bound(x.abs().round()).bound.isfinite().all()


@pytest.mark.parametrize(
    ("cue_channel", "message"),
    [
        (lambda x: None, r"cue_channel returned None; expected damaged copies of the patterns, a tensor \(2, 3, 5\)"),
        (lambda x: x[..., :2], r"cue_channel returned shape \(2, 3, 2\); expected that of the patterns, \(2, 3, 5\)"),
    ],
)
def test_cue_channels(cue_channel, message):
    _, guide = linear_machine(4, 5).training_pair(cue_channel=cue_channel)
    with pytest.raises(ValueError, match=message):
        guide(torch.randn(2, 3, 5))


class Own:
    """A channel of one's own, whose returns are given."""

    def __init__(self, posterior, log_evidence):
        self.posterior, self.log_evidence = posterior, log_evidence


def good_posterior(cues, prediction):
    return dist.Normal(cues + 0 * prediction.loc, 1.0)


def good_evidence(cues, prediction):
    return prediction.log_prob(cues)


CHANNELS = [
    (Own(lambda c, p: c, good_evidence), r"The channel Own: posterior\(\) returned a tensor .*p\(x \| c\)"),
    (Own(lambda c, p: None, good_evidence), r"The channel Own: posterior\(\) returned None"),
    (
        Own(lambda c, p: good_posterior(c, p).to_event(1), good_evidence),
        r"posterior\(\) returned batch and event shape \(1, 2, 3\), \(5,\); expected \(1, 2, 3, 5\), \(\)",
    ),
    (Own(good_posterior, lambda c, p: None), r"The channel Own: log_evidence\(\) returned None; expected log p\(c\)"),
    (
        Own(good_posterior, lambda c, p: p.log_prob(c).sum(-1)),
        r"log_evidence\(\) returned shape \(1, 2, 3\); expected \(1, 2, 3, 5\).*Do not sum",
    ),
]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(("channel", "message"), CHANNELS)
def test_channels(channel, message, nested):
    if nested:
        channel = Where(torch.arange(5) < 2, GaussianNoise(0.1), channel)
    x = torch.randn(2, 3, 5)
    memory = linear_machine(4, 5).write(x)
    with pytest.raises(ValueError, match=message):
        memory.query(x, channel=channel)
    if "posterior" in message:
        with pytest.raises(ValueError, match=r"The channel Own: posterior\(\) returned"):
            memory.sample(x, 1, channel=channel)


class OwnEnergy(PointEnergy):
    def __init__(self, **methods):
        vars(self).update(methods)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (PointEnergy, r"query\(\): energy is the class PointEnergy; expected PointEnergy\(\)"),
        (lambda w: 0.0, r"query\(\): energy is an object of type function; .*deviations and address_term"),
        (OwnEnergy(deviations=lambda s, n: None), r"energy OwnEnergy: deviations\(\) returned None"),
        (
            OwnEnergy(deviations=lambda s, n: torch.zeros(2, 3, 4)),
            r"deviations\(\) returned shape \(2, 3, 4\); expected \(S,\) \+ \(2, 3, 4\)",
        ),
        (OwnEnergy(address_term=lambda p, s, c: 0.0), r"address_term\(\) returned an object of type float; .*\(2, 3\)"),
        (OwnEnergy(address_term=lambda p, s, c: p.sum()), r"address_term\(\) returned shape \(\); expected \(2, 3\)"),
    ],
)
def test_energies(energy, message):
    x = torch.randn(2, 3, 5)
    with pytest.raises(ValueError, match=message):
        linear_machine(4, 5).write(x).query(x, energy=energy)


def test_a_joint_likelihood_is_for_all_but_queries():
    joint = linear_machine(4, 5, likelihood=lambda y: dist.MultivariateNormal(y, torch.eye(5)))
    x = torch.randn(2, 3, 5)
    memory = joint.write(x)
    assert joint.bound(x).bound.isfinite().all()
    assert memory.read(x).shape == memory.generate(3).shape == x.shape
    assert memory.sample(x, 2).patterns.shape == (2, 2, 3, 5)
    for channel in (None, GaussianNoise(0.1)):
        with pytest.raises(ValueError, match=r"joint distribution, MultivariateNormal of event shape \(5,\)"):
            memory.query(x, channel=channel)


def test_declared_event_dimensions_are_entries():
    """``to_event`` in a likelihood changes nothing."""
    plain = linear_machine(4, 5)
    declared = KanervaMachine(
        plain.encoder, plain.decoder, memory_prior=plain.memory_prior, code_scale=0.5,
        likelihood=lambda y: dist.Normal(y, 0.5).to_event(1),
    )  # fmt: skip
    x = torch.randn(2, 3, 5)
    energies = [machine.write(x).query(x, channel=GaussianNoise(0.2)).energy for machine in (plain, declared)]
    torch.testing.assert_close(*energies)


@pytest.mark.parametrize("patterns", [None, [[1.0]], 3.0])
def test_patterns_that_are_no_tensor(make_machine, patterns):
    machine = make_machine()
    for call in (machine.bound, machine.prior_memory().read, machine.prior_memory().query):
        with pytest.raises(ValueError, match=r"are .*; expected a dense tensor. Convert them with torch.as_tensor"):
            call(patterns)
