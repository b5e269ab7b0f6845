"""The checks of single parts, alone and in small machines."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_kanerva._checks import check_distribution
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.model.checks import check_address_prior as check_address
from pyro_kanerva.model.checks import check_memory_prior as check_memory
from pyro_kanerva.model.checks import check_write_result, prior_distribution
from pyro_kanerva.priors import GaussianAddress, GaussianMemory, Prior, as_distribution
from pyro_kanerva.testing.common import (
    check,
    converted,
    has_float_tensors,
    in_float64,
    isolated,
    name_of,
    new_part,
    refused,
)
from pyro_kanerva.testing.density import check_density
from pyro_kanerva.testing.machine import check_assembled, small_machine
from pyro_kanerva.writers import WriteResult

Build = Callable[[], Any]


def _check_prior(name: str, prior: Prior, event_shape: tuple[int, ...]) -> None:
    """Check what it returns, shapes, ``expand``, and the density."""
    with refused(name):
        distribution = prior_distribution("prior", prior)
    shapes = tuple(distribution.batch_shape), tuple(distribution.event_shape)
    remedy = f"Declare event dimensions with .to_event({len(event_shape)}), and leave the batch to the plates."
    check(shapes == ((), event_shape), name, f"batch and event shape (), {event_shape}", shapes, remedy)
    with refused(name):
        if len(event_shape) == 2:
            check_memory(prior)
        else:
            check_address(distribution, *event_shape)
    remedy = "Return a new distribution from expand(batch_shape), whose sample() and log_prob() have that batch."
    try:
        batched = distribution.expand((3, 4))
    except NotImplementedError:
        check(False, name, "an expand()", "NotImplementedError", remedy)
    with torch.no_grad():
        samples = batched.sample((2,))
        wanted, found = (2, 3, 4, *event_shape), tuple(samples.shape)
        check(found == wanted, name, f"samples of shape {wanted} from batch (3, 4)", found, remedy)
        log_prob = batched.log_prob(samples)
        found = tuple(log_prob.shape)
        check(found == (2, 3, 4), name, "log_prob of shape (2, 3, 4) from batch (3, 4)", found, remedy)
        single = torch.stack([distribution.log_prob(value) for value in samples.flatten(0, 2)]).reshape(2, 3, 4)
        equal = torch.allclose(single, log_prob, rtol=1e-4, atol=1e-4)
        check(equal, name, "log_prob of a batch to be that of its elements", "another", remedy)
        many = batched.sample((20,)).reshape(20, 12, -1)
        copies = bool((many == many[:, :1]).all())
        check(not copies, name, "independent samples in a batch", "twelve copies", remedy)
    if has_float_tensors(prior):
        with converted(name):
            distribution = as_distribution(in_float64(prior))
    check_density(name, distribution)


def check_memory_prior(build: Build, *, num_slots: int = 6, code_size: int = 10) -> None:
    """Check a memory prior: a module, callable or distribution of event shape (K, C).

    Checks its shapes and its density, see :func:`check_density`; that it contributes its log density to the log joint
    of a machine; and :func:`check_machine`.

    :param build: returns a new prior.
    :raises AssertionError: if a check fails.
    """
    with isolated():
        _check_prior(name_of(new_part(build)), build(), (num_slots, code_size))
        default = GaussianMemory(num_slots, code_size)
        _check_swap(build, "memory", small_machine(num_slots, code_size, memory_prior=build()), default)
        check_assembled(name_of(build()), build, lambda part: small_machine(num_slots, code_size, memory_prior=part))


def check_address_prior(build: Build, *, num_slots: int = 6, code_size: int = 10) -> None:
    """Check an address prior of event shape (K,), as :func:`check_memory_prior` does.

    :raises AssertionError: if a check fails.
    """
    with isolated():
        _check_prior(name_of(new_part(build)), build(), (num_slots,))
        machine = small_machine(num_slots, code_size, address_prior=build())
        _check_swap(build, "address", machine, GaussianAddress(num_slots))
        check_assembled(name_of(build()), build, lambda part: small_machine(num_slots, code_size, address_prior=part))


def _check_swap(build: Build, site: str, machine: KanervaMachine, default: nn.Module) -> None:
    """Check that swapping the prior for ``default`` changes the log joint by the difference of their log densities."""
    other = copy.deepcopy(machine)
    setattr(other, f"{site}_prior", default)
    patterns = torch.zeros(2, 5, 3)
    with torch.no_grad():
        trace: Any = poutine.trace(machine.model).get_trace(patterns)
        swapped: Any = poutine.trace(poutine.replay(other.model, trace=trace)).get_trace(patterns)
        value = trace.nodes[site]["value"]
        priors = as_distribution(getattr(machine, f"{site}_prior")), as_distribution(default)
        expected = priors[0].log_prob(value).sum() - priors[1].log_prob(value).sum()
        joints = trace.log_prob_sum(), swapped.log_prob_sum()
    # relative, because float32 rounds a sum of many terms
    difference = (joints[0] - joints[1] - expected).abs() / (1 + joints[0].abs() + joints[1].abs())
    what = f"the log joint to change by {expected:.4f} nats against the default prior"
    remedy = "Let log_prob() depend on nothing but the value and the parameters."
    check(difference < 1e-4, name_of(build()), what, f"{joints[0] - joints[1]:.4f}", remedy)


def check_likelihood(
    build: Build,
    output_shape: tuple[int, ...] = (3,),
    event_shape: tuple[int, ...] | None = None,
    *,
    num_slots: int = 6,
    code_size: int = 10,
) -> None:
    """Check a likelihood: a module or callable from decoder output to a distribution of entries.

    Patterns are sampled from the likelihood.

    :param output_shape: the shape of the decoder's output for one pattern.
    :param event_shape: the shape of a pattern, by default ``output_shape``.
    :raises AssertionError: if a check fails.
    """
    shape = output_shape if event_shape is None else event_shape
    with isolated():
        likelihood = new_part(build)
        name, entries = name_of(likelihood), likelihood(torch.randn(7, *output_shape))
        with refused(name):
            check_distribution("The likelihood", entries, "a Pyro distribution of the entries")
        found = tuple(entries.batch_shape + entries.event_shape)
        remedy = "Return one distribution for each entry; for other patterns, pass their event_shape."
        check(found == (7, *shape), name, f"batch and event shape together {(7, *shape)}", found, remedy)
        with converted(name):
            entries = in_float64(likelihood)(torch.randn(1, *output_shape, dtype=torch.float64))
        check_density(name, entries)

        def assemble(part: Any) -> KanervaMachine:
            return small_machine(num_slots, code_size, shape, output_shape, likelihood=part)

        check_assembled(name, build, assemble)


def _fresh(prior: Build | Prior | None, num_slots: int) -> Prior:
    """A copy of ``prior``, or what it builds, or the default."""
    if prior is None:
        return GaussianAddress(num_slots)
    if isinstance(prior, nn.Module | torch.distributions.Distribution):
        return copy.deepcopy(prior)
    return prior()


def _check_codes_gradient(name: str, codes: Tensor, log_prob: Tensor) -> None:
    gradient = torch.autograd.grad(log_prob.sum(), codes, allow_unused=True)[0] if log_prob.requires_grad else None
    remedy = "Do not detach the codes: the encoder learns through them."
    check(gradient is not None, name, "a gradient with respect to the codes", "none", remedy)
    good = gradient is not None and bool(gradient.isfinite().all() & gradient.any())
    check(good, name, "a finite gradient of the codes, not all zero", gradient, remedy)


def check_writer(
    build: Build, address_prior: Build | Prior | None = None, *, num_slots: int = 6, code_size: int = 10
) -> None:
    """Check a writer, ``(codes (B, T, C), prior: MatrixNormal, code_scale) -> WriteResult``.

    Checks shapes for a prior of batch () and (B,); that episodes do not influence each other; the gradient of the
    codes; the density of q(M), see :func:`check_density`; and :func:`check_machine`.

    :param address_prior: the prior of the machine, or a callable that builds one; Gaussian by default.
    :raises AssertionError: if a check fails.
    """
    with isolated():
        writer, scale = new_part(build), torch.tensor(0.7)
        name = name_of(writer)
        prior, codes = GaussianMemory(num_slots, code_size)(), torch.randn(3, 5, code_size, requires_grad=True)
        result = writer(codes, prior, scale)
        with refused(name):
            check_write_result(result)
        shapes = {
            "memory batch shape": (tuple(result.memory.batch_shape), (3,)),
            "memory event shape": (tuple(result.memory.event_shape), (num_slots, code_size)),
            "shape of addresses": (tuple(result.addresses.shape), (3, 5, num_slots)),
        }
        for what, (found, wanted) in shapes.items():
            remedy = "Return WriteResult(memory, addresses) with the batch of the codes."
            check(found == wanted, name, f"{what} {wanted} for codes (3, 5, {code_size})", found, remedy)
        pairs = [(result, writer(codes, prior.expand((3,)), scale), "with a prior of batch (B,)")]
        for index in range(3):
            one = slice(index, index + 1)
            part = result._replace(memory=_element(result.memory, one), addresses=result.addresses[one])
            pairs.append((part, writer(codes[one], prior, scale), "alone"))
        for one_way, other_way, what in pairs:
            for first, second in zip(_tensors(one_way), _tensors(other_way), strict=True):
                close = torch.allclose(first, second, rtol=1e-3, atol=1e-4)
                remedy = "Keep the episodes of a batch apart, and start from the prior that is given."
                check(close, name, f"the same result for an episode {what}", "another", remedy)
        _check_codes_gradient(name, codes, result.memory.log_prob(torch.randn(num_slots, code_size)))
        check_density(f"q(M) of {name}", _element(result.memory, slice(0, 1)))

        def assemble(part: Any) -> KanervaMachine:
            return small_machine(num_slots, code_size, writer=part, address_prior=_fresh(address_prior, num_slots))

        check_assembled(name, build, assemble)


def _element(posterior: MatrixNormal, index: slice) -> MatrixNormal:
    factor = posterior.scale_tril_row.expand(*posterior.batch_shape, -1, -1)
    return MatrixNormal(posterior.loc[index], factor[index], posterior.scale_tril_column, validate_args=False)


def _tensors(result: WriteResult) -> list[Tensor]:
    covariance = result.memory.row_covariance.expand(*result.memory.batch_shape, -1, -1)
    return [result.memory.loc, covariance, result.addresses]


def check_reader(
    build: Build, address_prior: Build | Prior | None = None, *, num_slots: int = 6, code_size: int = 10
) -> None:
    """Check a reader, ``(codes (..., T, C), matrix (..., K, C), address_prior, code_scale) -> q(w | x, M)``.

    Checks shapes; that particles and episodes do not influence each other; the gradient of the codes; the density of
    q(w | x, M), see :func:`check_density`; and :func:`check_machine`.

    :param address_prior: the prior of the machine, or a callable that builds one; Gaussian by default.
    :raises AssertionError: if a check fails.
    """
    with isolated():
        reader, scale = new_part(build), torch.tensor(0.7)
        name = name_of(reader)
        prior = as_distribution(_fresh(address_prior, num_slots))
        codes = torch.randn(3, 5, code_size, requires_grad=True)
        matrices = torch.randn(4, 3, num_slots, code_size) / 2  # (particles, episodes, K, C)
        for matrix, batch in ((matrices[0], (3, 5)), (matrices, (4, 3, 5))):
            result = reader(codes, matrix, prior, scale)
            with refused(name):
                check_distribution("The reader", result, "q(w | x, M), a Pyro distribution of addresses")
            found = tuple(result.batch_shape), tuple(result.event_shape)
            what = f"batch and event shape {(batch, (num_slots,))} for codes (3, 5, {code_size})"
            remedy = "Broadcast the leading dimensions of codes and memory: particles come on the left of the memory."
            check(found == (batch, (num_slots,)), name, f"{what}, memory {tuple(matrix.shape)}", found, remedy)
        address = result.sample()
        log_prob = result.log_prob(address)
        for particle in range(4):
            for episode in range(3):
                alone = reader(codes[episode], matrices[particle, episode], prior, scale)
                wanted = alone.log_prob(address[particle, episode])
                close = torch.allclose(log_prob[particle, episode], wanted, rtol=1e-3, atol=1e-3)
                remedy = "Read particle p and episode b from memory[p, b] and codes[b] only."
                check(close, name, "each particle and episode to be read as if alone", "another density", remedy)
        _check_codes_gradient(name, codes, log_prob)
        check_density(f"q(w) of {name}", reader(codes[:1, :1], matrices[0, :1], prior, scale))

        def assemble(part: Any) -> KanervaMachine:
            return small_machine(num_slots, code_size, reader=part, address_prior=_fresh(address_prior, num_slots))

        check_assembled(name, build, assemble)
