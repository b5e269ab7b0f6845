"""Autocast is for the networks: what is between them is the same to the last bit."""

import pyro
import pyro.distributions as dist
import pytest
import torch
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
    FrameWriter,
    GaussianMemory,
    GaussianNoise,
    KanervaMachine,
    LowRankMemory,
    MatrixNormal,
    Memory,
    MLPDecoder,
    MLPEncoder,
    NormalLikelihood,
    OnlineWriter,
    RefinedWriter,
    SimplexAddress,
    VariationalEnergy,
    evaluation,
    fit,
    retrieval_model,
)
from pyro_kanerva._precision import _suspended
from pyro_kanerva.diagnostics import importance_weights
from pyro_kanerva.factorization import inverse_positive, precision_to_scale_tril

K, C = 6, 8


class Identity:
    """A network without an operation that autocast knows."""

    event_shape = (C,)

    def __call__(self, x):
        return x


def machine(encoder=None, decoder=None, dtype=torch.float32, **parts):
    torch.manual_seed(0)
    parts.setdefault("memory_prior", GaussianMemory(K, C, 1.0))
    likelihood = NormalLikelihood(0.3, learned=False)
    networks = Identity() if encoder is None else encoder, Identity() if decoder is None else decoder
    return KanervaMachine(*networks, likelihood=likelihood, code_scale=0.5, **parts).to(dtype)


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
    """That ``call`` returns the same under autocast as without."""
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


OF_THE_MACHINE = {
    "bound": lambda m: m.bound(PATTERNS, 2),
    "bound_of": lambda m: m.bound_of(
        PATTERNS, m.encode(PATTERNS), m.memory_prior().expand((2,)), m.memory_prior(), num_particles=2
    ),
    "write": lambda m: m.write(PATTERNS),
    "write, a stream": lambda m: m.write([PATTERNS, PATTERNS[:, :3]]),
    "write_codes": lambda m: m.write_codes(PATTERNS).memory,
    "write_patterns": lambda m: m.write_patterns(PATTERNS, PATTERNS).memory,
    "prior_memory": lambda m: m.prior_memory(2),
    "encode": lambda m: m.encode(PATTERNS),
    "decode": lambda m: m.decode(PATTERNS, (C,)),
    "predict": lambda m: m.predict(PATTERNS, (C,)),
    "decoder_output": lambda m: m.decoder_output(PATTERNS),
    "likelihood_of": lambda m: m.likelihood_of(PATTERNS, PATTERNS.shape),
    "read_codes": lambda m: m.read_codes(PATTERNS, m.memory_prior().loc),
    "draw_code": lambda m: m.draw_code(PATTERNS),
    "code_prior": lambda m: m.code_prior(PATTERNS),
    "model": lambda m: poutine.trace(m.model).get_trace(PATTERNS).nodes["address"]["value"],
    "guide": lambda m: poutine.trace(m.guide).get_trace(PATTERNS).nodes["address"]["value"],
    "training_pair": lambda m: Trace_ELBO(max_plate_nesting=2)(*m.training_pair())(PATTERNS),
}
OF_A_MEMORY = {
    "write": lambda m: m.write(PATTERNS),
    "write, a stream": lambda m: m.write([PATTERNS, PATTERNS[:, :3]]),
    "encode_and_write": lambda m: m.encode_and_write(PATTERNS)[1].memory,
    "evidence_of": lambda m: m.evidence_of(CUES, m.machine.write_codes(CUES, m.posterior)),
    "with_posterior": lambda m: m.with_posterior(m.posterior, m.records),
    "erase": lambda m: m.write(PATTERNS).erase(m.records[0]),
    "merge": lambda m: Memory.merge([m, m]),
    "read": lambda m: m.read(CUES),
    "query": lambda m: m.query(CUES),
    "query, a channel": lambda m: m.query(CUES, channel=CHANNEL),
    "query, a variational energy": lambda m: m.query(CUES, channel=CHANNEL, energy=VariationalEnergy(2)),
    "sample": lambda m: m.sample(CUES, 3, channel=CHANNEL, sample_memory=True),
    "log_evidence": lambda m: m.log_evidence(CUES, num_samples=3),
    "generate": lambda m: m.generate(3),
    "generate, by a query": lambda m: m.generate(3, num_steps=2),
    "predict": lambda m: m.predict(ADDRESSES),
    "energy": lambda m: m.energy(ADDRESSES, CUES, channel=CHANNEL),
}
NOT_ALGEBRA = {  # of tensors of the two classes
    "save",
    "load",
    "digest",
    "check",
    "check_patterns",
    "compile",
    "release",
    "code_scale",
    "event_shape",
    "read_code_posterior",
}


def test_every_public_method_is_here():
    for owner, calls in ((KanervaMachine, OF_THE_MACHINE), (Memory, OF_A_MEMORY)):
        public = {name for name in vars(owner) if not name.startswith("_")} - NOT_ALGEBRA
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


def address_terms(q):
    prior = dist.MultivariateNormal(torch.zeros(K), torch.eye(K))
    value = q.rsample()
    return [value, q.log_prob(value), q.entropy(), kl_divergence(q, prior), kl_divergence(q, prior.expand((3,)))]


@pytest.mark.parametrize("call", OTHERS.values(), ids=OTHERS)
def test_functions_of_a_memory(call):
    memory = machine().write(PATTERNS)
    assert_same_bits(lambda: call(memory))


@pytest.mark.parametrize(
    "parts",
    [
        {"writer": OnlineWriter(1)},
        {"writer": OnlineWriter(4, 2)},
        {"writer": OnlineWriter(64)},
        {"writer": FrameWriter(GaussianMemory(K, C))},
        {"writer": RefinedWriter(OnlineWriter(8, 1), num_steps=2)},
        {"memory_prior": LowRankMemory(K, C, 2)},
        {"address_prior": SimplexAddress(K)},
        {"address_prior": CategoricalAddress(K)},
    ],
)
def test_other_parts(parts):
    built = machine(**parts)
    memory = built.write(PATTERNS)
    assert_same_bits(lambda: (built.bound(PATTERNS), built.write(PATTERNS), memory.read(CUES), memory.query(CUES)))


@pytest.mark.parametrize("kind", [Trace_ELBO, TraceMeanField_ELBO])  # the second takes divergences by itself
def test_losses_and_gradients(kind):
    """Of Pyro's ELBO modules, with the backward pass outside autocast."""
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
    """Of a gradient with respect to ``inputs``, with the backward pass within autocast and without it."""
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
    """Of the addresses, which are all there is of a write before the memory is brought up to date."""
    prior = GaussianMemory(K, C, 1.0)().loc.detach(), torch.eye(K)

    def addresses(loc, factor, codes, sigma):
        return OnlineWriter(block_size)(codes, MatrixNormal(loc, factor, validate_args=False), sigma).addresses

    assert_same_bits_backward(addresses, *prior, PATTERNS, torch.tensor(0.5))


def test_float64_stays_float64():
    """Autocast leaves float64 alone, and so do the machine's own casts."""
    built = machine(MLPEncoder((C,), C, 16), MLPDecoder(C, (C,), 16), dtype=torch.float64)
    x = PATTERNS.double()
    memory = built.write(x)
    assert memory.posterior.loc.dtype == torch.float64
    assert_same_bits(lambda: (built.bound(x), memory.query(x[:, :3]), built.write(x)))


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


class ProbedWriter(OnlineWriter):
    """A writer that notes the dtype of its codes, and whether autocast is on around it."""

    def forward(self, codes, prior, code_scale):
        self.within = codes.dtype, prior.loc.dtype, code_scale.dtype, torch.is_autocast_enabled("cpu")
        return super().forward(codes, prior, code_scale)


FLOATS = torch.float32, torch.float32
HALF = torch.float32, torch.bfloat16


@pytest.mark.parametrize("enabled", [False, True])
def test_networks_run_in_bfloat16_and_the_writer_does_not(enabled):
    encoder, decoder, writer = Probe(C, C), Probe(C, C), ProbedWriter(8, 1)
    built = machine(encoder, decoder, writer=writer)
    with in_bfloat16(enabled):
        bound = built.bound(PATTERNS)
        memory = built.write(PATTERNS)
        results = [bound.bound, memory.posterior.loc, memory.read(CUES), memory.query(CUES).energy]
        results += [memory.sample(CUES, 2).patterns, memory.log_evidence(CUES, num_samples=2), memory.generate(2)]
        results += [built.encode(PATTERNS), built.decode(PATTERNS, (C,)).mean]
        loss = TraceMeanField_ELBO(max_plate_nesting=2)(*built.training_pair())(PATTERNS)
    assert set(encoder.within) == set(decoder.within) == {HALF if enabled else FLOATS}
    assert {result.dtype for result in (*results, loss)} == {torch.float32}
    assert writer.within == (torch.float32, torch.float32, torch.float32, False)
    loss.backward()
    assert set(encoder.backward) == set(decoder.backward) == {False}
    assert all(parameter.grad.dtype == torch.float32 for parameter in built.parameters())


def test_networks_of_writers_and_readers_run_in_bfloat16():
    network = Probe(C, 2 * K)
    built = machine(writer=AmortizedWriter(network), reader=AmortizedReader(network))
    with in_bfloat16():
        memory = built.write(PATTERNS)
        memory.read(CUES)
        loss = -built.bound(PATTERNS).bound.sum()
    loss.backward()
    assert set(network.within) == {HALF}
    assert memory.posterior.loc.dtype == memory.records[0].addresses.dtype == torch.float32
    # given the addresses, the algebra is that of float32
    with in_bfloat16():
        rewritten = machine(writer=lambda codes, prior, scale: OnlineWriter(64)(codes, prior, scale)).write(PATTERNS)
    assert rewritten.posterior.loc.dtype == torch.float32


def test_an_error_leaves_autocast_as_it_was():
    built = machine(lambda x: x[..., :-1], memory_prior=GaussianMemory(K, C))
    for enabled in (False, True):
        with in_bfloat16(enabled):
            with pytest.raises(ValueError, match="encoder returned codes of shape"):
                built.bound(PATTERNS)
            assert torch.is_autocast_enabled("cpu") == enabled
            assert _suspended.get() is None


def test_networks_outside_autocast_after_one_inside():
    """What was suspended in one call does not come back in another."""
    encoder = Probe(C, C)
    built = machine(encoder)
    with in_bfloat16():
        built.bound(PATTERNS)
    encoder.within.clear()
    built.bound(PATTERNS)
    assert set(encoder.within) == {FLOATS}
    with in_bfloat16(), in_bfloat16(enabled=False):
        built.bound(PATTERNS)
    assert set(encoder.within) == {FLOATS}


def test_the_dtype_of_autocast_is_kept():
    encoder = Probe(C, C)
    with torch.autocast("cpu", torch.float16):
        machine(encoder).write(PATTERNS)
    assert set(encoder.within) == {(torch.float32, torch.float16)}


IMAGES = (torch.rand(64, C, generator=torch.Generator().manual_seed(3)) < 0.4).float()


def test_fit_trains_under_autocast():
    """The networks in bfloat16, the backward pass outside, and the loss falls."""
    encoder, decoder = Probe(C, C), Probe(C, C)
    built = machine(encoder, decoder)
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
