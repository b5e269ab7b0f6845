"""Any input to a public function gives a finite result of the documented shape, or an error that names the input.

An error is one of ours if it is a ``ValueError`` or ``TypeError`` whose message names the function, the class or the
argument. An ``AttributeError``, an ``IndexError`` or a ``RuntimeError`` of torch is a failure.
"""

import math

import pytest
import torch
from helpers import small_machine
from hypothesis import given, settings
from hypothesis import strategies as st

import pyro_kanerva as pk
from pyro_kanerva import conjugate
from pyro_kanerva.datasets.episodes import binarize, to_levels
from pyro_kanerva.evaluation import entry_error, familiarity
from pyro_kanerva.memory import recognize_scores

B, T, K, C, E = 2, 3, 4, 3, (2, 3)
DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip
SHAPES = [
    (), (1,), (K,), (C,), (K, C), (K, K), (T, K), (T, C), (T, *E), (1, T, *E), (B, T, *E), (B, T), (B, T, K), (B, K, C),
    (B, 0, *E), (0, T, *E), (B, T, 2, 0), (B, T, 3, 2), (1, 1, *E), (3, 2, B, T, *E), (0,), (B, 1, 4, 4),
]  # fmt: skip
FILLS = ["binary", "normal", "ones", "nan", "inf", "huge", "negative"]
FORMS = ["plain", "transposed", "expanded", "strided", "gradient", "sparse", "parameter"]


@st.composite
def tensors(draw, shapes=SHAPES):
    """A tensor of any kind; small and legal ones are frequent."""
    shape, fill = draw(st.sampled_from(shapes)), draw(st.sampled_from(["binary", *FILLS]))
    dtype, form = draw(st.sampled_from([torch.float32, *DTYPES])), draw(st.sampled_from(["plain", *FORMS]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 3)))
    values = torch.randn(shape, generator=generator)
    if fill != "normal":
        constant = {"nan": math.nan, "inf": math.inf, "huge": 1e30, "negative": -1.0, "ones": 1.0}
        values = (values > 0).float() if fill == "binary" else torch.full(shape, constant[fill])
    if not dtype.is_floating_point and not dtype.is_complex:
        values = values.nan_to_num(0, 1, 0).clamp(0, 1)
    values = values.to(dtype)
    if form == "transposed" and values.dim() > 1:
        values = values.mT.contiguous().mT
    elif form == "expanded" and values.dim() and len(values):
        values = values[:1].expand(values.shape)
    elif form == "strided" and values.dim():
        values = values.repeat_interleave(2, -1)[..., ::2]
    elif form in ("gradient", "parameter") and values.is_floating_point():
        values = torch.nn.Parameter(values) if form == "parameter" else values.requires_grad_()
    elif form == "sparse":
        values = values.to_sparse()
    return values


NO_TENSORS = st.sampled_from([None, "memory.pt", [[1, 0]], [], (), 3, 0.5, {}, object(), torch.Tensor])
ANYTHING = st.one_of(tensors(), tensors(), NO_TENSORS)
PATTERNS = st.one_of(tensors([(B, T, *E), (T, *E), (1, T, *E), (B, 1, *E), (B, 0, *E)]), ANYTHING)


def machine_of(kind):
    torch.manual_seed(0)
    return {
        "bernoulli": lambda: small_machine(E, K, C),
        "normal": lambda: small_machine(E, K, C, likelihood=pk.NormalLikelihood()),
        "categorical": lambda: small_machine(E, K, C, (*E, 2), likelihood=pk.CategoricalLikelihood(2)),
        "slots": lambda: small_machine(E, K, C, address_prior=pk.CategoricalAddress(K)),
        "simplex": lambda: small_machine(E, K, C, address_prior=pk.SimplexAddress(K)),
        "mixture": lambda: small_machine(E, K, C, address_prior=pk.MixtureAddress(K)),
    }[kind]()


KINDS = ["bernoulli", "normal", "categorical", "slots", "simplex", "mixture"]
LEGAL = (torch.arange(B * T * 6).remainder(5) < 2).float().view(B, T, *E)
MEMORIES = {kind: machine_of(kind).write(LEGAL, name="first") for kind in KINDS}
ADDRESS = {kind: memory.query(LEGAL, num_steps=0).address[-1] for kind, memory in MEMORIES.items()}


def tensors_of(result):
    """The tensors in a result."""
    if isinstance(result, pk.Memory):
        result = (result.posterior.loc, result.posterior.scale_tril_row)
    if isinstance(result, pk.MatrixNormal):
        result = (result.loc, result.scale_tril_row)
    if isinstance(result, torch.distributions.Distribution):
        result = (result.mean,)
    if isinstance(result, tuple):
        return [part for entry in result for part in tensors_of(entry)]
    return [result] if isinstance(result, torch.Tensor) else []


def check(call, words, shape=None):
    """``call`` returns finite tensors, the first of ``shape``; or it raises an error whose message has one of words."""
    try:
        result = call()
    except (TypeError, ValueError) as error:
        if not any(word in str(error) for word in words):
            raise AssertionError("the message names neither the function nor the argument") from error
        return
    found = tensors_of(result)
    assert found
    assert all(bool(part.isfinite().all()) for part in found)
    if shape is not None:
        assert tuple(found[0].shape) == shape


# name: the call with a memory and any patterns; the shape of its first tensor for Q patterns of 2 episodes
OF_PATTERNS = {
    "write()": (lambda memory, x: memory.machine.write(x), lambda q: (B, K, C)),
    "write() to": (lambda memory, x: memory.write(x), lambda q: (B, K, C)),
    "query()": (lambda memory, x: memory.query(x, num_steps=2), lambda q: (3, B, q, *E)),
    "query() channel": (
        lambda memory, x: memory.query(x, num_steps=1, channel=pk.Occlusion(torch.tensor([True, False, True]))),
        lambda q: (2, B, q, *E),
    ),
    "sample()": (lambda memory, x: memory.sample(x, 2, burn_in=1), lambda q: (2, B, q, *E)),
    "read()": (lambda memory, x: memory.read(x), lambda q: (B, q, *E)),
    "log_evidence()": (lambda memory, x: memory.log_evidence(x, num_samples=2), lambda q: (B, q)),
    "recognize()": (lambda memory, x: memory.recognize(x, LEGAL, 0.5), lambda q: (B, q)),
    "recognize() held_out": (lambda memory, x: memory.recognize(LEGAL, x, 0.5), lambda q: (B, T)),
    "identify()": (lambda memory, x: memory.identify(x), lambda q: (B, q)),
    "familiarity()": (lambda memory, x: familiarity(memory, x), lambda q: (B, q)),
    "bound()": (lambda memory, x: memory.machine.bound(x)[:3], lambda q: (B,)),
}


def check_patterns(kind, name, value):
    call, shape = OF_PATTERNS[name]
    own = isinstance(value, torch.Tensor) and value.dim() == 4 and len(value) == B
    torch.manual_seed(0)
    check(lambda: call(MEMORIES[kind], value), [name.split()[0]], shape(value.shape[1]) if own else None)


MASK = torch.tensor([True, False, True])
CHANNELS = [
    pk.Flip(0.1),
    pk.SaltAndPepper(0.2),
    pk.Replace(0.1),
    pk.GaussianNoise(0.5),
    pk.Occlusion(MASK),
    pk.Where(MASK, pk.Flip(0.1), pk.SaltAndPepper(0.2)),
]
MATRIX = pk.MatrixNormal(torch.zeros(K, C), torch.eye(K))
MANY = torch.randn(B, 20, generator=torch.Generator().manual_seed(0))

# name: the call with a memory and anything, and the words of which one is in the message of every error
OF_ANYTHING = {
    "write(memory)": (lambda memory, x: memory.machine.write(LEGAL, x), ["memory"]),
    "write(labels)": (lambda memory, x: memory.write(LEGAL, labels=x), ["labels"]),
    "write(name)": (lambda memory, x: memory.write(LEGAL, name=x), ["name"]),
    "predict(address)": (lambda memory, x: memory.predict(x), ["address"]),
    "predict(matrix)": (lambda memory, x: memory.predict(ADDRESS["bernoulli"], matrix=x), ["matrix"]),
    "energy(address)": (lambda memory, x: memory.energy(x, LEGAL), ["address"]),
    "energy(cues)": (lambda memory, x: memory.energy(ADDRESS["bernoulli"], x), ["cues"]),
    "query(observed)": (lambda memory, x: memory.query(LEGAL, num_steps=1, observed=x), ["observed"]),
    "query(channel)": (lambda memory, x: memory.query(LEGAL, num_steps=1, channel=x), ["channel"]),
    "query(energy)": (lambda memory, x: memory.query(LEGAL, num_steps=1, energy=x), ["energy"]),
    "query(matrix)": (lambda memory, x: memory.query(LEGAL, num_steps=1, matrix=x), ["matrix"]),
    "query(num_steps)": (lambda memory, x: memory.query(LEGAL, num_steps=x), ["num_steps"]),
    "query(tolerance)": (lambda memory, x: memory.query(LEGAL, num_steps=1, tolerance=x), ["tolerance"]),
    "sample(num_samples)": (lambda memory, x: memory.sample(LEGAL, x), ["num_samples"]),
    "sample(burn_in)": (lambda memory, x: memory.sample(LEGAL, 1, burn_in=x), ["burn_in"]),
    "sample(observed)": (lambda memory, x: memory.sample(LEGAL, 1, burn_in=0, observed=x), ["observed"]),
    "generate(num_samples)": (lambda memory, x: memory.generate(x), ["num_samples"]),
    "generate(matrix)": (lambda memory, x: memory.generate(2, matrix=x), ["matrix"]),
    "recognize(false_alarms)": (lambda memory, x: memory.recognize(LEGAL, LEGAL, x), ["false_alarms"]),
    "recognize_scores(score)": (lambda memory, x: recognize_scores(x, MANY, 0.1), ["score"]),
    "recognize_scores(held_out_score)": (lambda memory, x: recognize_scores(MANY, x, 0.1), ["score", "false_alarms"]),
    "erase(record)": (lambda memory, x: memory.erase(x), ["record"]),
    "erase(index)": (lambda memory, x: memory.erase(memory.records[0], x), ["index", "mask"]),
    "record()": (lambda memory, x: memory.erase(memory.record(x)), ["record"]),
    "merge()": (lambda memory, x: pk.Memory.merge(x), ["merge()"]),
    "merge() of one": (lambda memory, x: pk.Memory.merge([memory, x]), ["merge()"]),
    "familiarity(memory)": (lambda memory, x: familiarity(x, LEGAL), ["memory"]),
    "bound(num_particles)": (lambda memory, x: memory.machine.bound(LEGAL, x)[:3], ["num_particles"]),
    "Episodes(images)": (
        lambda memory, x: pk.Episodes(x, 1, 1)[0].double().nan_to_num(0, 0, 0),
        ["Episodes", "images"],
    ),
    "Episodes(labels)": (lambda memory, x: pk.Episodes(LEGAL.flatten(0, 1), 1, 1, labels=x)[0], ["Episodes"]),
    "Episodes(length)": (lambda memory, x: pk.Episodes(LEGAL.flatten(0, 1), x, 1)[0], ["Episodes"]),
    "binarize()": (lambda memory, x: binarize(x), ["images"]),
    "to_levels()": (lambda memory, x: to_levels(x), ["images"]),
    "entry_error(recalled)": (lambda memory, x: entry_error(x, LEGAL).nan_to_num(0, 0, 0), ["entry_error()"]),
    "entry_error(patterns)": (lambda memory, x: entry_error(LEGAL, x).nan_to_num(0, 0, 0), ["entry_error()"]),
    "MatrixNormal(loc)": (lambda memory, x: pk.MatrixNormal(x, torch.eye(K)), ["MatrixNormal", "loc"]),
    "MatrixNormal(scale_tril_row)": (
        lambda memory, x: pk.MatrixNormal(MATRIX.loc, x),
        ["MatrixNormal", "scale_tril_row"],
    ),
    "fit(episodes)": (lambda memory, x: fit(memory, x), ["fit()"]),
    "fit(a batch)": (lambda memory, x: fit(memory, [x]), ["fit()", "model()", "guide()"]),
}


def fit(memory, episodes):
    """The losses of one step of a machine of its own."""
    return torch.tensor(pk.fit(machine_of("bernoulli"), episodes, num_steps=1, progress=False).losses)


def check_anything(name, value):
    call, words = OF_ANYTHING[name]
    torch.manual_seed(0)
    check(lambda: call(MEMORIES["bernoulli"], value), words)


CODES, ADDRESSES = torch.randn(T, C), torch.randn(T, K)
PART = conjugate.statistics(ADDRESSES, CODES, 1.0)
CLOSED_FORMS = {  # name: legal arguments
    "online_update": (MATRIX, ADDRESSES[0], CODES[0], 1.0),
    "block_update": (MATRIX, ADDRESSES, CODES, 1.0, torch.eye(K)),
    "coordinate_ascent_sweep": (MATRIX, MATRIX, CODES, 1.0),
    "address_posterior": (CODES, MATRIX.loc, 1.0),
    "address_mean": (CODES, MATRIX.loc, 1.0),
    "mixture_address_posterior": (CODES, MATRIX.loc, 1.0, pk.MixtureAddress(K)()),
    "statistics": (ADDRESSES, CODES, 1.0, torch.eye(K)),
    "add_statistics": (MATRIX, PART),
    "write_sequence": (MATRIX, CODES, 1.0, 2),
}


def check_closed_form(name, place, value):
    arguments = list(CLOSED_FORMS[name])
    if place < len(arguments) and not (name == "mixture_address_posterior" and place == 3):
        arguments[place] = value
    words = [name, "noise_scale", "Cholesky", "block_size"]
    check(lambda: getattr(conjugate, name)(*arguments), words)


def check_channel(channel, value):
    own = isinstance(value, torch.Tensor)
    finite = own and value.layout == torch.strided and bool(value.isfinite().all())
    words = [type(channel).__name__, "Flip", "SaltAndPepper"]
    check(
        lambda: channel(value) if finite or not own else channel(value).nan_to_num(0, 0, 0),
        words,
        tuple(value.shape) if own else None,
    )


@settings(max_examples=12)
@pytest.mark.parametrize("name", OF_PATTERNS)
@given(kind=st.sampled_from(KINDS), value=PATTERNS)
def test_patterns(name, kind, value):
    check_patterns(kind, name, value)


@settings(max_examples=10)
@pytest.mark.parametrize("name", OF_ANYTHING)
@given(value=ANYTHING)
def test_anything(name, value):
    check_anything(name, value)


@settings(max_examples=25)
@pytest.mark.parametrize("name", CLOSED_FORMS)
@given(place=st.integers(0, 4), value=ANYTHING)
def test_closed_forms(name, place, value):
    check_closed_form(name, place, value)


@settings(max_examples=15)
@pytest.mark.parametrize("channel", CHANNELS, ids=lambda channel: type(channel).__name__)
@given(value=PATTERNS)
def test_channels(channel, value):
    check_channel(channel, value)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@settings(max_examples=20_000)
@given(
    of=st.sampled_from([*OF_PATTERNS, *OF_ANYTHING, *CLOSED_FORMS, *CHANNELS]),
    kind=st.sampled_from(KINDS),
    place=st.integers(0, 4),
    value=PATTERNS,
)
def test_more_of_all(of, kind, place, value):
    if of in OF_PATTERNS:
        check_patterns(kind, of, value)
    elif of in OF_ANYTHING:
        check_anything(of, value)
    elif of in CLOSED_FORMS:
        check_closed_form(of, place, value)
    else:
        check_channel(of, value)


def test_memories_of_other_machines():
    memory, other = MEMORIES["bernoulli"], MEMORIES["normal"]
    for call, message in (
        (lambda: memory.machine.write(LEGAL, other), "memory belongs to another machine"),
        (lambda: memory.erase(other.records[0]), "record is not one of this memory"),
        (lambda: pk.Memory.merge([memory, other]), "belong to different machines"),
        (lambda: pk.Memory.merge([memory, memory.machine.write(LEGAL[:1])]), "2 and 1 episodes"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
