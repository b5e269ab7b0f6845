"""Autocast is for encoder and decoder: all other results are the same to the last bit with and without it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine, random_factor, random_memory
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl_divergence
from torch.utils._pytree import tree_leaves

from pyro_kanerva import (
    AmortizedReader,
    AmortizedWriter,
    CategoricalAddress,
    Episodes,
    ExactReader,
    FrameWriter,
    GaussianAddress,
    GaussianMemory,
    GaussianNoise,
    KanervaMachine,
    LaplaceAddress,
    LaplaceReader,
    LowRankMemory,
    MatrixNormal,
    Memory,
    MixtureAddress,
    MixtureReader,
    MixtureWriter,
    MLPDecoder,
    MLPEncoder,
    OnlineWriter,
    PseudoInverseWriter,
    ReadingWriter,
    ScalarReader,
    SimplexAddress,
    SlotReader,
    SlotWriter,
    VariationalEnergy,
    conjugate,
    evaluation,
    fit,
    readers,
    retrieval_model,
    writers,
)
from pyro_kanerva.conjugate import inverse_positive, precision_to_scale_tril
from pyro_kanerva.diagnostics import importance_weights
from pyro_kanerva.distributions import GaussianMixture, SharedCovarianceNormal
from pyro_kanerva.model import InParamStore, Parts
from pyro_kanerva.writers import write_in_blocks

K, C = 6, 8


def machine(dtype=torch.float32, **parts):
    """By default with networks that have no operation that autocast changes."""
    torch.manual_seed(0)
    parts.setdefault("memory_prior", GaussianMemory(K, C, 1.0))
    return linear_machine(K, C, 0.3, code_scale=0.5, **parts).to(dtype)


def in_bfloat16(enabled=True):
    return torch.autocast("cpu", torch.bfloat16, enabled=enabled)


def tensors_of(result):
    """All tensors of a result, also of memories, distributions and traces."""
    if isinstance(result, Memory):
        parts = tree_leaves([tuple(record) for record in result.records])
        records = [part for part in parts if isinstance(part, torch.Tensor)]
        return [result.posterior.loc, result.posterior.scale_tril_row, *records]
    if isinstance(result, torch.distributions.Distribution):
        return [result.mean, result.variance]
    if isinstance(result, tuple | list):
        return [tensor for part in result for tensor in tensors_of(part)]
    return [result] if isinstance(result, torch.Tensor) else []


def assert_same_bits(call):
    """``call`` returns the same under autocast as without it."""
    results = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with in_bfloat16(enabled):
            result = call()
            assert torch.is_autocast_enabled("cpu") == enabled
        results.append(tensors_of(result))
    assert results[0]
    for one, other in zip(*results, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


PATTERNS = torch.randn(2, 20, C, generator=torch.Generator().manual_seed(5))
CUES, ADDRESSES = PATTERNS[:, :3], torch.randn(2, 3, K, generator=torch.Generator().manual_seed(6))
CHANNEL = GaussianNoise(0.2)
SIGMA = torch.tensor(0.5)


# ---------------------------------------------------------------------- conjugate and distributions


def posterior(*batch):
    return random_memory(*batch, slots=K, size=C, dtype=torch.float32)


def square(size):
    """A positive definite matrix (2, size, size)."""
    factor = random_factor(2, size, dtype=torch.float32)
    return factor @ factor.mT


def statistics():
    return conjugate.statistics(ADDRESSES, CUES, SIGMA)


ALGEBRA = {  # a function and its arguments by name; those after "*" have no position
    "address_mean": lambda: {"codes": PATTERNS, "memory_loc": posterior(2).loc, "noise_scale": SIGMA},
    "address_posterior": lambda: {
        "codes": PATTERNS,
        "memory_loc": posterior(2).loc,
        "noise_scale": SIGMA,
        "*": None,
        "prior_loc": torch.randn(K),
        "prior_precision": square(K)[0],
        "row_covariance": square(K),
    },
    "mixture_address_posterior": lambda: {
        "codes": PATTERNS,
        "memory_loc": posterior(2).loc,
        "noise_scale": SIGMA,
        "prior": MixtureAddress(K)(),
        "*": None,
        "row_covariance": square(K),
    },
    "code_information": lambda: {"memory_loc": posterior(2).loc, "variance": SIGMA, "row_covariance": square(K)},
    "address_precision": lambda: {
        "information": square(K),
        "prior_precision": square(C),
        "jacobian": torch.randn(2, K, C),
    },
    "online_update": lambda: {
        "posterior": posterior(2),
        "address": ADDRESSES[:, 0],
        "code": CUES[:, 0],
        "noise_scale": SIGMA,
    },
    "block_update": lambda: {
        "posterior": posterior(2),
        "addresses": ADDRESSES,
        "codes": CUES,
        "noise_scale": SIGMA,
        "address_scale_tril": random_factor(2, K, dtype=torch.float32),
    },
    "coordinate_ascent_sweep": lambda: {
        "prior": posterior(2),
        "posterior": posterior(2),
        "codes": PATTERNS,
        "noise_scale": SIGMA,
    },
    "statistics": lambda: {
        "addresses": ADDRESSES,
        "codes": CUES,
        "noise_scale": SIGMA,
        "address_scale_tril": random_factor(2, K, dtype=torch.float32),
    },
    "write_sequence": lambda: {
        "prior": posterior(),
        "codes": PATTERNS,
        "noise_scale": SIGMA,
        "block_size": 4,
        "sweeps": 1,
    },
    "cholesky": lambda: {"matrix": square(K), "name": "some matrix"},
    "precision_to_scale_tril": lambda: {"precision": square(K), "name": "some matrix"},
    "inverse_positive": lambda: {"matrix": square(K), "name": "some matrix"},
}


def test_every_function_of_conjugate_is_here():
    """But for ``add_statistics``, which takes any number of parts and has a test of its own."""
    functions = {name for name in conjugate.__all__ if name[0].islower()}
    assert functions == {*ALGEBRA, "add_statistics"}


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("name", ALGEBRA)
def test_functions_of_conjugate(name, by_name):
    arguments = ALGEBRA[name]()
    names = list(arguments)
    number = names.index("*") if "*" in names else len(names)
    positional = [] if by_name else [arguments[key] for key in names[:number]]
    rest = {key: value for key, value in arguments.items() if key != "*" and key not in names[: len(positional)]}
    assert_same_bits(lambda: getattr(conjugate, name)(*positional, **rest))


def test_add_statistics():
    prior, part = posterior(2), statistics()
    assert_same_bits(lambda: conjugate.add_statistics(prior, part, part))
    assert_same_bits(lambda: conjugate.add_statistics(prior, part))


def test_write_in_blocks():
    prior = posterior()
    assert_same_bits(lambda: write_in_blocks(prior, PATTERNS, SIGMA, 4, 1))
    assert_same_bits(lambda: write_in_blocks(prior=prior, codes=PATTERNS, noise_scale=SIGMA, block_size=4, sweeps=1))


def address_terms(q):
    prior = dist.MultivariateNormal(torch.zeros(K), torch.eye(K))
    value = q.rsample()
    return [value, q.log_prob(value), q.entropy(), kl_divergence(q, prior), kl_divergence(q, prior.expand((3,)))]


def matrix_terms(q, p):
    value = q.rsample()
    moments = [q.mean, q.variance, q.row_covariance, q.row_precision, q.column_covariance]
    return [value, *moments, q.log_prob(value), q.entropy(), kl_divergence(q, p)]


@pytest.mark.parametrize("columns", [False, True])
def test_matrix_normals(columns):
    column = random_factor(2, C, dtype=torch.float32) if columns else None
    q, p = posterior(2), posterior()
    q = MatrixNormal(q.loc, q.scale_tril_row, column)
    assert_same_bits(lambda: matrix_terms(q, p))


def test_gaussian_mixtures():
    parts = torch.randn(2, 3, K), torch.randn(2, 4, K), torch.randn(2, 3, 4), random_factor(2, K, dtype=torch.float32)

    def terms():
        q = GaussianMixture(*parts)
        value = q.rsample()
        moments = [q.mean, q.variance, q.covariance_of_components, q.mean_covariance_scale_tril(), q.heaviest_mean]
        return [value, *moments, q.log_prob(value)]

    assert_same_bits(terms)


def test_shared_covariances():
    q = SharedCovarianceNormal(ADDRESSES, random_factor(2, K, dtype=torch.float32))
    assert_same_bits(lambda: address_terms(q))


# ---------------------------------------------------------------------- writers and readers, called directly

WRITERS = {
    "OnlineWriter": lambda: OnlineWriter(4, 1),
    "OnlineWriter, one by one": lambda: OnlineWriter(1),
    "OnlineWriter, one block": lambda: OnlineWriter(64),
    "FrameWriter": lambda: FrameWriter(posterior()),
    "ReadingWriter": lambda: ReadingWriter(SimplexAddress(K)),
    "ReadingWriter, a network": lambda: ReadingWriter(
        GaussianAddress(K), AmortizedReader(nn.Linear(C, 2 * K)), block_size=4
    ),
    "SlotWriter": lambda: SlotWriter(),
    "MixtureWriter": lambda: MixtureWriter(MixtureAddress(K)),
    "PseudoInverseWriter": lambda: PseudoInverseWriter(K),
    "AmortizedWriter": lambda: AmortizedWriter(nn.Linear(C, K)),
}
READERS = {
    "ExactReader": (lambda: ExactReader(), GaussianAddress),
    "ExactReader, another prior": (lambda: ExactReader(), lambda slots: LaplaceAddress(slots)),
    "ScalarReader": (lambda: ScalarReader(), GaussianAddress),
    "LaplaceReader": (lambda: LaplaceReader(), LaplaceAddress),
    "LaplaceReader, a simplex": (lambda: LaplaceReader(), SimplexAddress),
    "LaplaceReader, weights": (lambda: LaplaceReader(), lambda slots: lambda: dist.Dirichlet(torch.ones(slots))),
    "MixtureReader": (lambda: MixtureReader(), MixtureAddress),
    "SlotReader": (lambda: SlotReader(), CategoricalAddress),
    "AmortizedReader": (lambda: AmortizedReader(nn.Linear(C, 2 * K)), GaussianAddress),
}


def test_every_writer_and_reader_is_here():
    for package, calls, suffix in ((writers, WRITERS, "Writer"), (readers, READERS, "Reader")):
        classes = {name for name in package.__all__ if name.endswith(suffix)} - {suffix}
        assert classes == {name.split(",")[0] for name in calls}


@pytest.mark.parametrize("make", WRITERS.values(), ids=WRITERS)
def test_writers(make):
    writer, prior = make(), posterior()
    assert_same_bits(lambda: [*result_of(writer(PATTERNS, prior, SIGMA))])


def result_of(result):
    return [result.memory.loc, result.memory.row_covariance, result.addresses, result.address_scale_tril]


@pytest.mark.parametrize(("make", "prior"), READERS.values(), ids=READERS)
def test_readers(make, prior):
    reader, matrix, prior = make(), posterior(2).loc, prior(K)()

    def read():
        q = reader(PATTERNS, matrix, prior, SIGMA)
        q = q.base_dist if isinstance(q, torch.distributions.TransformedDistribution) else q
        return [q.mean, q.variance]

    assert_same_bits(read)


# ---------------------------------------------------------------------- machines and memories

OF_THE_MACHINE = {
    "bound": lambda m: m.bound(PATTERNS, 2),
    "write": lambda m: m.write(PATTERNS),
    "write, a stream": lambda m: m.write([PATTERNS, PATTERNS[:, :3]]),
    "write_codes": lambda m: m.write_codes(PATTERNS).memory,
    "prior_memory": lambda m: m.prior_memory(2),
    "encode": lambda m: m.encode(PATTERNS),
    "code": lambda m: m.code(ADDRESSES, m.memory_prior().loc),
    "decode": lambda m: m.decode(PATTERNS, (C,)),
    "predict": lambda m: m.predict(ADDRESSES, m.memory_prior().loc),
    "decoder_output": lambda m: m.decoder_output(PATTERNS),
    "likelihood_of": lambda m: m.likelihood_of(PATTERNS, PATTERNS.shape),
    "read_codes": lambda m: m.read_codes(PATTERNS, m.memory_prior().loc),
    "code_prior": lambda m: m.code_prior(PATTERNS),
    "model": lambda m: poutine.trace(m.model).get_trace(PATTERNS).nodes["address"]["value"],
    "guide": lambda m: poutine.trace(m.guide).get_trace(PATTERNS).nodes["address"]["value"],
    "training_pair": lambda m: Trace_ELBO(max_plate_nesting=2)(*m.training_pair())(PATTERNS),
}
OF_A_MEMORY = {
    "write": lambda m: m.write(PATTERNS),
    "write, a stream": lambda m: m.write([PATTERNS, PATTERNS[:, :3]]),
    "write_chunk": lambda m: m.write_chunk(m.posterior, CUES)[:2],
    "erase": lambda m: m.write(PATTERNS).erase(m.records[0]),
    "erase, some patterns": lambda m: m.erase(m.records[0], [0, 2]),
    "to": lambda m: m.to(torch.float64),
    "merge": lambda m: Memory.merge([m, m.machine.write(PATTERNS)]),
    "read": lambda m: m.read(CUES),
    "query": lambda m: m.query(CUES),
    "query, a channel": lambda m: m.query(CUES, channel=CHANNEL),
    "query, a variational energy": lambda m: m.query(CUES, channel=CHANNEL, energy=VariationalEnergy(2)),
    "query, a part of the entries": lambda m: m.query(CUES, observed=torch.arange(C) < 4),
    "sample": lambda m: m.sample(CUES, 3, channel=CHANNEL, sample_memory=True),
    "log_evidence": lambda m: m.log_evidence(CUES, num_samples=3),
    "recognize": lambda m: m.recognize(CUES, PATTERNS, 0.5)[1:],
    "identify": lambda m: m.identify(CUES),
    "generate": lambda m: m.generate(3),
    "generate, by a query": lambda m: m.generate(3, num_steps=2),
    "predict": lambda m: m.predict(ADDRESSES),
    "energy": lambda m: m.energy(ADDRESSES, CUES, channel=CHANNEL),
}
NOT_ALGEBRA = {  # methods without an operation on tensors
    "save",
    "load",
    "record",
    "config",
    "check",
    "check_patterns",
    "with_episodes",
    "register",
    "release",
    "code_scale",
    "event_shape",
    "read_code_posterior",
}


def test_every_public_method_is_here():
    for owners, calls in (((KanervaMachine, Parts, InParamStore), OF_THE_MACHINE), ((Memory,), OF_A_MEMORY)):
        public = {name for owner in owners for name in vars(owner) if not name.startswith("_")} - NOT_ALGEBRA
        assert public == {name.split(",")[0] for name in calls}


@pytest.mark.parametrize("call", OF_THE_MACHINE.values(), ids=OF_THE_MACHINE)
def test_methods_of_a_machine(call):
    built = machine()
    assert_same_bits(lambda: call(built))


@pytest.mark.parametrize("call", OF_A_MEMORY.values(), ids=OF_A_MEMORY)
def test_methods_of_a_memory(call):
    memory = machine().write(PATTERNS)
    assert_same_bits(lambda: call(memory))


OTHERS = {
    "sample of the posterior": lambda m: m.posterior.sample(),
    "density of the posterior": lambda m: m.posterior.log_prob(m.posterior.loc + 0.1),
    "covariance of the posterior": lambda m: m.posterior.row_covariance,
    "divergence of the posterior": lambda m: kl_divergence(m.posterior, m.machine.memory_prior()),
    "a reader's address": lambda m: address_terms(m.machine.read_codes(CUES, m.posterior.loc)),
    "retrieval_model": lambda m: retrieval_model(m, CHANNEL, CUES),
    "importance_weights": lambda m: importance_weights(m.machine, PATTERNS, 3),
    "evaluate_bound": lambda m: evaluation.evaluate_bound(m.machine, [PATTERNS]),
    "evaluate_recall": lambda m: evaluation.evaluate_recall(m.machine, [PATTERNS], CHANNEL, channel=CHANNEL).errors,
    "familiarity": lambda m: evaluation.familiarity(m, CUES),
}


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS)
def test_functions_of_a_memory(call):
    memory = machine().write(PATTERNS)
    assert_same_bits(lambda: call(memory))


@pytest.mark.parametrize(
    "parts",
    [
        {"writer": AmortizedWriter(nn.Linear(C, K)), "reader": AmortizedReader(nn.Linear(C, 2 * K))},
        {"writer": OnlineWriter(1)},
        {"writer": OnlineWriter(4, 2)},
        {"writer": OnlineWriter(64)},
        {"writer": FrameWriter(GaussianMemory(K, C))},
        {"memory_prior": LowRankMemory(K, C, 2)},
        {"address_prior": SimplexAddress(K)},
        {"address_prior": MixtureAddress(K)},
        {"address_prior": CategoricalAddress(K)},
    ],
)
def test_other_parts(parts):
    built = machine(**parts)
    memory = built.write(PATTERNS)
    assert_same_bits(lambda: (built.bound(PATTERNS), built.write(PATTERNS)))
    assert_same_bits(lambda: (memory.read(CUES), memory.query(CUES), memory.query(CUES, channel=CHANNEL)))


# ---------------------------------------------------------------------- gradients


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])  # the second takes divergences by itself
def test_losses_and_gradients(kind):
    """Those of Pyro's ELBO modules, with the backward pass outside autocast."""
    results = []
    for enabled in (False, True):
        built = machine()
        torch.manual_seed(2)
        with in_bfloat16(enabled):
            loss = kind(max_plate_nesting=2)(built.model, built.guide)(PATTERNS)
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in built.parameters())])
        pyro.clear_param_store()
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_gradients_of_the_bound():
    results = []
    for enabled in (False, True):
        built = machine()
        torch.manual_seed(2)
        with in_bfloat16(enabled):
            loss = -built.bound(PATTERNS).bound.sum()
        loss.backward()
        results.append([loss, *(parameter.grad for parameter in built.parameters())])
    for one, other in zip(*results, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def assert_same_bits_backward(function, *inputs):
    """The gradient with respect to ``inputs`` is the same with the backward pass under autocast and without it."""
    results = []
    for enabled in (False, True):
        leaves = [value.clone().requires_grad_() for value in inputs]
        total = function(*leaves).square().sum()
        with in_bfloat16(enabled):
            results.append(torch.autograd.grad(total, leaves))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("factorize", [precision_to_scale_tril, inverse_positive])
def test_backward_of_factorizations_within_autocast(factorize):
    root = torch.randn(3, K, 2 * K)
    assert_same_bits_backward(lambda matrix: factorize(matrix, "some matrix"), root @ root.mT)


@pytest.mark.parametrize("block_size", [1, 4])
def test_backward_of_a_sequence_within_autocast(block_size):
    """With respect to the addresses, whose gradient is written by hand."""
    prior = GaussianMemory(K, C, 1.0)().loc.detach(), torch.eye(K)

    def addresses(loc, factor, codes, sigma):
        return OnlineWriter(block_size)(codes, MatrixNormal(loc, factor, validate_args=False), sigma).addresses

    assert_same_bits_backward(addresses, *prior, PATTERNS, torch.tensor(0.5))


def test_float64_stays_float64():
    """Autocast does not change it, and no cast of the machine does."""
    built = machine(torch.float64, encoder=MLPEncoder((C,), C, 16), decoder=MLPDecoder(C, (C,), 16))
    x = PATTERNS.double()
    memory = built.write(x)
    assert memory.posterior.loc.dtype == torch.float64
    assert_same_bits(lambda: (built.bound(x), memory.query(x[:, :3]), built.write(x)))


# ---------------------------------------------------------------------- where networks run in which precision


class Probe(nn.Module):
    """A linear network that notes the dtypes within, and whether autocast is on in its backward pass."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.event_shape = (inputs,)
        self.linear = nn.Linear(inputs, outputs)
        self.within, self.backward = [], []

    def forward(self, x):
        y = self.linear(x)
        self.within.append((x.dtype, y.dtype))
        if y.requires_grad:
            y.register_hook(lambda gradient: self.backward.append(torch.is_autocast_enabled("cpu")))
        return y


class Spy(OnlineWriter):
    """A writer that notes the dtypes of its arguments, and whether autocast is on."""

    def forward(self, codes, prior, code_scale):
        self.within = codes.dtype, prior.loc.dtype, code_scale.dtype, torch.is_autocast_enabled("cpu")
        return super().forward(codes, prior, code_scale)


FLOATS = torch.float32, torch.float32
HALF = torch.float32, torch.bfloat16
NETWORK_CALLS = {
    "bound": lambda m, memory: m.bound(PATTERNS).bound,
    "write": lambda m, memory: m.write(PATTERNS).posterior.loc,
    "write, a stream": lambda m, memory: m.write([PATTERNS]).posterior.loc,
    "encode": lambda m, memory: m.encode(PATTERNS),
    "decode": lambda m, memory: m.decode(PATTERNS, (C,)).mean,
    "predict": lambda m, memory: m.predict(ADDRESSES, memory.posterior.loc).mean,
    "read": lambda m, memory: memory.read(CUES),
    "query": lambda m, memory: memory.query(CUES).energy,
    "query, a channel": lambda m, memory: memory.query(CUES, channel=CHANNEL).energy,
    "query, a variational energy": lambda m, memory: memory.query(CUES, energy=VariationalEnergy(2)).energy,
    "sample": lambda m, memory: memory.sample(CUES, 2).patterns,
    "sample, a channel": lambda m, memory: memory.sample(CUES, 2, channel=CHANNEL).patterns,
    "log_evidence": lambda m, memory: memory.log_evidence(CUES, num_samples=2),
    "generate": lambda m, memory: memory.generate(2),
    "energy": lambda m, memory: memory.energy(ADDRESSES, CUES, channel=CHANNEL),
    "retrieval_model": lambda m, memory: retrieval_model(memory, CHANNEL, CUES),
    "importance_weights": lambda m, memory: importance_weights(m, PATTERNS, 2),
    "training": lambda m, memory: TraceMeanField_ELBO(max_plate_nesting=2)(*m.training_pair())(PATTERNS),
}


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("call", NETWORK_CALLS.values(), ids=NETWORK_CALLS)
def test_encoder_and_decoder_run_in_bfloat16(call, enabled):
    """Their outputs, and all results, are float32."""
    encoder, decoder = Probe(C, C), Probe(C, C)
    built = machine(encoder=encoder, decoder=decoder)
    memory = built.write(PATTERNS)
    encoder.within.clear()
    with in_bfloat16(enabled):
        result = call(built, memory)
    assert {*encoder.within, *decoder.within} == {HALF if enabled else FLOATS}
    assert result.dtype == torch.float32


@pytest.mark.parametrize("enabled", [False, True])
def test_writers_run_in_float32(enabled):
    writer = Spy(8, 1)
    built = machine(encoder=Probe(C, C), decoder=Probe(C, C), writer=writer)
    for call in (built.bound, built.write, built.training_pair()[1]):
        with in_bfloat16(enabled):
            call(PATTERNS)
        assert writer.within == (torch.float32, torch.float32, torch.float32, False)


def test_networks_of_writers_and_readers_run_in_float32():
    """Called by a machine, in whatever is asked of it, or directly."""
    network = Probe(C, 2 * K)
    built = machine(writer=AmortizedWriter(network), reader=AmortizedReader(network))
    with in_bfloat16():
        memory = built.write(PATTERNS)
        memory.read(CUES)
        memory.query(CUES)
        memory.query(CUES, channel=CHANNEL)
        memory.sample(CUES, 2, channel=CHANNEL)
        memory.log_evidence(CUES, num_samples=2)
        loss = -built.bound(PATTERNS).bound.sum()
        loss = loss + TraceMeanField_ELBO(max_plate_nesting=2)(*built.training_pair())(PATTERNS)
    assert set(network.within) == {FLOATS}
    loss.backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in built.parameters())
    network.within.clear()
    with in_bfloat16():
        built.writer(PATTERNS, posterior(), SIGMA)
        built.reader(PATTERNS, posterior().loc, GaussianAddress(K)(), SIGMA)
    assert set(network.within) == {FLOATS}


def test_training_steps_go_back_in_float32():
    """With the backward pass outside autocast."""
    encoder, decoder = Probe(C, C), Probe(C, C)
    built = machine(encoder=encoder, decoder=decoder)
    with in_bfloat16():
        loss = TraceMeanField_ELBO(max_plate_nesting=2)(*built.training_pair())(PATTERNS)
    loss.backward()
    assert set(encoder.backward) == set(decoder.backward) == {False}
    assert all(parameter.grad.dtype == torch.float32 for parameter in built.parameters())


def test_an_error_leaves_autocast_as_it_was():
    built = machine(writer=lambda codes, prior, scale: OnlineWriter()(codes[:, :1], prior, scale))
    for enabled in (False, True):
        with in_bfloat16(enabled):
            with pytest.raises(ValueError, match="writer returned"):
                built.bound(PATTERNS)
            assert torch.is_autocast_enabled("cpu") == enabled


def test_autocast_that_is_off_inside():
    """A caller's inner context counts."""
    encoder = Probe(C, C)
    built = machine(encoder=encoder)
    with in_bfloat16(), in_bfloat16(enabled=False):
        built.bound(PATTERNS)
    assert set(encoder.within) == {FLOATS}


def test_the_dtype_of_autocast_is_kept():
    encoder = Probe(C, C)
    with torch.autocast("cpu", torch.float16):
        machine(encoder=encoder).write(PATTERNS)
    assert set(encoder.within) == {(torch.float32, torch.float16)}


IMAGES = (torch.rand(64, C, generator=torch.Generator().manual_seed(3)) < 0.4).float()


def test_fit_trains_under_autocast():
    """The networks in bfloat16, the backward pass outside, and the loss falls."""
    encoder, decoder = Probe(C, C), Probe(C, C)
    built = machine(encoder=encoder, decoder=decoder)
    with in_bfloat16():
        losses = fit(built, Episodes(IMAGES, 8, 4), num_steps=150, learning_rate=0.05, progress=False).losses
    assert torch.tensor(losses).isfinite().all()
    assert sum(losses[-5:]) < sum(losses[:5]) - 5
    assert set(encoder.within) == set(decoder.within) == {HALF}
    assert set(encoder.backward) == set(decoder.backward) == {False}


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])
def test_fit_under_autocast_is_fit_without(kind):
    """With networks that autocast does not touch: every loss and parameter to the last bit."""
    results = []
    for enabled in (False, True):
        built = machine()
        with in_bfloat16(enabled):
            result = fit(built, Episodes(IMAGES, 8, 4), num_steps=5, loss=kind(max_plate_nesting=2), progress=False)
        results.append([torch.tensor(result.losses), *built.parameters()])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)
