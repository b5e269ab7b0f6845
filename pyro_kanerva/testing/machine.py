"""The checks of a whole machine."""

import copy
import inspect
import math
from collections.abc import Callable
from typing import Any, cast

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.optim import PyroOptim
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.networks import MLPDecoder, MLPEncoder
from pyro_kanerva.priors import GaussianMemory, as_distribution
from pyro_kanerva.testing.common import (
    CONSTANTS,
    check,
    check_equal_means,
    converted,
    effective,
    has_float_tensors,
    isolated,
    name_of,
    new_part,
    refused,
)

Build = Callable[..., Any]
Assemble = Callable[[Any], KanervaMachine]  # puts a part into a machine


def check_machine(build: Callable[[], KanervaMachine]) -> None:
    """Check a whole machine, whose encoder must have an ``event_shape``.

    - The sites "memory" and "address" of model and guide have the documented shapes and plates.
    - ``Trace_ELBO``, or ``TraceEnum_ELBO`` for one-hot addresses, gives equal losses with vectorized particles, with
      single particles, and by ``bound``, within 6 standard errors.
    - The loss is finite. Every parameter has a finite gradient, and not all gradients are zero.
    - *The guide's importance weights are proper.* Let ``p(X, h)`` be the model's density with the latent variables h,
      q(h) that of the guide, and c a constant near p(X). For two patterns the bridge identity

      ::

          E_q[r / (1 + r)] = E_p(h)[p(X | h) / c / (1 + r)],      r = p(X, h) / (c q(h))

      must hold within 6 standard errors. The right side needs only samples of the model and its likelihood, so a wrong
      density of a prior, writer or reader violates the identity. By Jensen's inequality a guide with proper weights
      gives a lower bound on log p(X).
    - *The bound is a lower bound*: its mean minus 6 standard errors is at most the log of an estimate of p(X) plus 6
      standard errors. The estimate is the mean of p(X | h) over the prior. Both checks are skipped if the estimate has
      fewer than 200 effective samples, because its standard error is then unreliable. A guide far from the posterior
      makes them weak, but not wrong.
    - Two machines and a deep copy train independently in one process.
    - float64, ``load_state_dict``, ``machine.to`` and ``torch.manual_seed`` work. The check of float64 is skipped for
      priors without parameters and buffers, which a machine cannot convert, unless ``build`` has an argument ``dtype``.

    :raises AssertionError: if a check fails.
    """
    with isolated():
        name = name_of(new_part(build))
        check_assembled(name, build, lambda machine: machine)


def small_machine(
    num_slots: int,
    code_size: int,
    event_shape: tuple[int, ...] = (3,),
    output_shape: tuple[int, ...] | None = None,
    **parts: Any,
) -> KanervaMachine:
    encoder = MLPEncoder(event_shape, code_size, 16).append(nn.Tanh())  # codes of order 1 for all patterns
    decoder = MLPDecoder(code_size, event_shape if output_shape is None else output_shape, 16)
    parts.setdefault("memory_prior", GaussianMemory(num_slots, code_size))
    return KanervaMachine(encoder, decoder, **parts)


def check_assembled(name: str, build: Build, assemble: Assemble) -> None:
    """The checks of :func:`check_machine`, for the part ``name`` in a machine."""
    machine = assemble(build())
    shape = machine.event_shape
    check(shape is not None, name, "an encoder with an event_shape", "none", "Set that attribute.")
    codes = torch.randn(2 * 5, machine.code_size)
    with torch.no_grad(), refused(name):
        patterns = machine.decode(codes, shape or ()).sample().to(codes.dtype)
        machine.bound(patterns.unsqueeze(0))
    patterns = patterns.reshape(2, 5, *patterns.shape[1:])
    _check_sites(name, machine, patterns)
    _check_training(name, build, assemble, patterns)
    _check_state(name, build, assemble, patterns)
    _check_float64(name, build, assemble, patterns)
    _check_evidence(name, machine, patterns[:1, :2])  # few latent variables: p(X) can be estimated from the prior
    _check_particles(name, machine, patterns)


def _elbo(machine: KanervaMachine, **options: Any) -> Any:
    discrete = as_distribution(machine.address_prior).has_enumerate_support
    return (TraceEnum_ELBO if discrete else Trace_ELBO)(max_plate_nesting=2, **options)


def _check_sites(name: str, machine: KanervaMachine, patterns: Tensor) -> None:
    guide: Any = poutine.trace(machine.guide).get_trace(patterns)
    model: Any = poutine.trace(poutine.replay(machine.model, trace=guide)).get_trace(patterns)
    batch, slots = tuple(patterns.shape[:2]), machine.num_slots
    wanted = {"memory": ((batch[0], 1), (slots, machine.code_size)), "address": (batch, (slots,))}
    for program, trace in (("model", model), ("guide", guide)):
        trace.compute_log_prob()
        for site, (batch_shape, event_shape) in wanted.items():
            node = trace.nodes[site]
            shapes = node["fn"].batch_shape, node["fn"].event_shape, node["value"].shape, node["log_prob"].shape
            found = tuple(map(tuple, shapes))
            what = f'site "{site}" of the {program} with batch, event, value and log_prob shape'
            expected = batch_shape, event_shape, batch_shape + event_shape, batch_shape
            remedy = "Let the part's distribution have the documented batch and event shape."
            check(found == expected, name, f"{what} {expected}", found, remedy)


def _check_particles(name: str, machine: KanervaMachine, patterns: Tensor) -> None:
    one_by_one, vectorized = _elbo(machine), _elbo(machine, num_particles=20, vectorize_particles=True)
    single = torch.tensor([one_by_one.loss(machine.model, machine.guide, patterns) for _ in range(40)])
    grouped = torch.tensor([vectorized.loss(machine.model, machine.guide, patterns) for _ in range(12)])
    with torch.no_grad():
        bounds = torch.stack([-patterns.shape[1] * machine.bound(patterns, 20).bound.sum() for _ in range(12)])
    for way, losses in (("particles vectorized", grouped), ("bound(patterns, num_particles)", bounds)):
        found = f"{single.mean():.4g} and {losses.mean():.4g}"
        finite = bool(single.isfinite().all() & losses.isfinite().all())
        remedy = "Check the loss for NaN, with torch.autograd.set_detect_anomaly(True)."
        check(finite, name, f"a finite loss one by one and from {way}", found, remedy)
        # The variance of 12 losses may be too small by chance; its expected value is single.var() / 20.
        variance = torch.maximum(losses.var(), single.var() / 20) / len(losses) + single.var() / len(single)
        score = (single.mean() - losses.mean()).abs() / (variance.sqrt() + 1e-5 * single.abs().mean())
        remedy = "Let leading dimensions broadcast: particles come as further dimensions on the left."
        found = f"{found}, {score:.1f} standard errors apart"
        check(score < 6, name, f"one loss from {way} and from particles one by one", found, remedy)


def _check_evidence(name: str, machine: KanervaMachine, patterns: Tensor, num_draws: int = 4000) -> None:
    """The checks of importance weights and of the bound, see :func:`check_machine`."""

    def log_prob(trace: Any) -> Tensor:
        """The log density (N,) of the latent variables."""
        trace.compute_log_prob()
        sites = [site for site in map(trace.nodes.get, trace.stochastic_nodes) if not site_is_subsample(site)]
        return sum((site["log_prob"].reshape(num_draws, -1).sum(1) for site in sites), torch.zeros(()))

    def log_likelihood_of(trace: Any) -> Tensor:
        return trace.nodes["pattern"]["log_prob"].reshape(num_draws, -1).sum(1)

    def run(program: Callable[[Tensor], Any], seed: int) -> Any:
        torch.manual_seed(seed)  # a guide may draw random numbers outside of its sites: repeat them
        return poutine.trace(program).get_trace(patterns)

    with torch.no_grad(), pyro.plate("draws", num_draws, dim=-3):
        prior, guide = run(machine.model, 1), run(machine.guide, 2)
        model_at_guide = run(poutine.replay(machine.model, trace=guide), 3)
        guide_at_prior = run(poutine.replay(machine.guide, trace=prior), 2)
        weight = log_prob(model_at_guide) + log_likelihood_of(model_at_guide) - log_prob(guide)
        weight_at_prior = log_prob(prior) + log_likelihood_of(prior) - log_prob(guide_at_prior)
        log_likelihood = log_likelihood_of(prior)
    log_evidence = log_likelihood.logsumexp(0) - math.log(num_draws)  # log c of the bridge identity
    remedy = "Check for parameters or samples that overflow."
    finite = bool(weight.isfinite().all() & log_likelihood.isfinite().all() & ~weight_at_prior.isnan().any())
    check(finite, name, "finite log densities of the model and the guide", "NaN or infinite ones", remedy)
    relative_likelihood = (log_likelihood - log_evidence).exp()  # p(X | h) / c
    if effective(relative_likelihood) < 200:
        return
    left, right = (weight - log_evidence).sigmoid(), relative_likelihood * (log_evidence - weight_at_prior).sigmoid()
    remedy = "Make sample() and log_prob() of priors, writer and reader describe the same normalized distributions."
    if min(effective(left), effective(right)) >= 100:
        what = "the same evidence from guide and prior"
        check_equal_means(name, what, left.unsqueeze(-1), right.unsqueeze(-1), remedy)
    bound, error = weight.mean(), weight.std() / math.sqrt(num_draws)
    ceiling = log_evidence + (6 * relative_likelihood.std() / math.sqrt(num_draws)).log1p()
    found = f"{bound:.3f} +- {error:.3f} above {ceiling:.3f} nats"
    check(bound - 6 * error <= ceiling, name, "a bound below the log evidence", found, remedy)


def _check_training(name: str, build: Build, assemble: Assemble, patterns: Tensor) -> None:
    parts = [build(), build()]
    machines = [assemble(part) for part in parts]
    machine, elbo = machines[0], _elbo(machines[0])
    elbo.differentiable_loss(machine.model, machine.guide, patterns).backward()
    learned = {id(value): key for key, value in machine.named_parameters() if value.requires_grad}
    own = list(parts[0].parameters()) if isinstance(parts[0], nn.Module) else []
    trained = [parameter for parameter in own if id(parameter) in learned]
    nonzero = set()  # names of parameters with a gradient that is not zero
    for parameter in trained:
        key, gradient = learned[id(parameter)], cast(Tensor, parameter.grad)
        remedy = "Do not detach it or take its .data, and use it in what the part returns."
        check(gradient is not None, name, f"a gradient of {key}", "none", remedy)
        remedy = "Check for a square root or a division at zero."
        check(gradient.isfinite().all(), name, f"a finite gradient of {key}", gradient, remedy)
        nonzero |= {key} if bool(gradient.any()) else set()
    remedy = "Let the parameters enter what the part returns."
    check(nonzero or not trained, name, "gradients that are not all zero", "zeros", remedy)
    machines.append(copy.deepcopy(machine))
    for machine in machines:
        before = [copy.deepcopy(dict(other.named_parameters())) for other in machines]
        svi = SVI(*machine.training_pair(), PyroOptim(torch.optim.Adam, {"lr": 1e-2}), elbo)
        for _ in range(2):
            svi.step(patterns)
        for other, old in zip(machines, before, strict=True):
            changed = {key for key, value in other.named_parameters() if not torch.equal(value, old[key])}
            if other is machine:
                remedy = "Hold parameters as nn.Parameter of the part, and make a new one for every instance."
                check(nonzero <= changed, name, "SVI to train the parameters", f"frozen: {nonzero - changed}", remedy)
            else:
                remedy = "Create parameters in __init__, not at module level or as a default argument."
                check(not changed, name, "instances that train alone", f"another's parameters {changed} moved", remedy)
    foreign = [key for key in pyro.get_param_store() if not key.startswith("kanerva_machine_")]
    remedy = "Use nn.Parameter in a module instead of pyro.param, whose names all instances share."
    check(not foreign, name, "only the machine's own parameters in Pyro's store", foreign, remedy)


def _check_state(name: str, build: Build, assemble: Assemble, patterns: Tensor) -> None:
    def bound(machine: KanervaMachine, device: str = "cpu") -> Tensor:
        torch.manual_seed(1)
        return machine.bound(patterns.to(device)).bound

    part = build()
    machine = assemble(part)
    remedy = "Draw random numbers from torch's global generator only."
    check(torch.equal(bound(machine), bound(machine)), name, "one bound from one seed", "two", remedy)
    if not isinstance(part, nn.Module):
        return
    other = assemble(build())
    other.load_state_dict(machine.state_dict())
    remedy = "Register every tensor as a parameter or persistent buffer."
    check(torch.equal(bound(machine), bound(other)), name, "the same bound after load_state_dict", "another", remedy)
    for module in part.modules() if part is not machine else list(part.modules())[1:]:
        for key, value in vars(module).items():
            fixed = isinstance(value, Tensor | torch.distributions.Distribution)
            remedy = "Use register_buffer, and make distributions in forward."
            check(not fixed, name, "tensors that machine.to() moves", f"the plain attribute {key}", remedy)
    if torch.cuda.is_available():
        bound(machine.to("cuda"), "cuda")


def _check_float64(name: str, build: Build, assemble: Assemble, patterns: Tensor) -> None:
    part = build()
    machine = assemble(part)
    is_prior = part is machine.memory_prior or part is machine.address_prior
    if is_prior and not has_float_tensors(part):  # .double() does not reach it
        if "dtype" in inspect.signature(build).parameters:
            machine = assemble(part := build(dtype=torch.float64))
        elif as_distribution(part).sample().dtype != torch.float64:
            return
    machine, remedy = machine.double(), CONSTANTS
    if is_prior:
        dtype = as_distribution(part).sample().dtype
        check(dtype == torch.float64, name, "float64 samples after .double()", dtype, remedy)
    with converted(name):
        bound = machine.bound(patterns.double())
        loss = _elbo(machine).differentiable_loss(machine.model, machine.guide, patterns.double())
    found = {term.dtype for term in (*bound, loss)}
    check(found == {torch.float64}, name, "a float64 bound after .double()", found, remedy)
