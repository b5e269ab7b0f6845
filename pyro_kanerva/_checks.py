"""What a machine is given and what its parts return, checked; each error says what to do."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pyro_kanerva._precision import run_network
from pyro_kanerva.likelihoods import BernoulliLikelihood, CategoricalLikelihood, DiscretizedLogisticLikelihood
from pyro_kanerva.priors import Prior, as_distribution, gaussian_memory, is_real, support_of
from pyro_kanerva.writers import WRITERS_THAT_ADDRESS

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine


def checks_values() -> bool:
    """Whether tensors are looked into: Pyro's validation is on, and no trace is made, into which it would be burnt."""
    return is_validation_enabled() and not torch.jit.is_tracing()


def event_shape_of(name: str, prior: Prior, rank: int) -> tuple[int, ...]:
    """The event shape of a prior without a batch, of ``rank`` dimensions, or a ``ValueError``."""
    distribution = as_distribution(prior)
    if distribution.batch_shape:
        raise ValueError(
            f"KanervaMachine: {name} has batch shape {tuple(distribution.batch_shape)} and event shape "
            f"{tuple(distribution.event_shape)}; expected no batch. Declare event dimensions with .to_event()."
        )
    shape = tuple(distribution.event_shape)
    if len(shape) != rank:
        wanted = "(num_slots, code_size)" if rank == 2 else "(num_slots,)"
        raise ValueError(
            f"KanervaMachine: {name} has event shape {shape}; expected {wanted}. Declare event dimensions with "
            f".to_event({rank})."
        )
    return shape


def apply(name: str, network: Callable[[Tensor], Tensor], inputs: Tensor, remedy: str) -> Tensor:
    try:
        return run_network(network, inputs)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The {name} failed on a tensor of shape {tuple(inputs.shape)} and dtype {inputs.dtype}: {error}. {remedy}"
        ) from error


def check_address_prior(prior: dist.TorchDistribution) -> None:
    """:raises ValueError: if a discrete address is not one-hot."""
    if support_of(prior).is_discrete and not isinstance(prior, dist.OneHotCategorical):
        raise ValueError(
            f"KanervaMachine: address_prior is {type(prior).__name__}, a discrete distribution that is not one-hot. "
            "Use CategoricalAddress(num_slots) or a OneHotCategorical."
        )


def warn_of_equal_slots(machine: KanervaMachine) -> None:
    """Slots of equal prior mean cannot be told apart by writers that infer addresses from the memory."""
    if machine.num_slots == 1 or not isinstance(machine.writer, WRITERS_THAT_ADDRESS):
        return
    loc = gaussian_memory(machine.memory_prior).loc
    if bool((loc == loc[:1]).all()):
        warnings.warn(
            "KanervaMachine: all slots of memory_prior have the same mean. This writer infers addresses from the "
            "memory, cannot tell such slots apart, and will store nothing. Give them different means, for example "
            "LaplaceMemory(num_slots, code_size), or pass Surrogate(prior, GaussianMemory(num_slots, code_size)).",
            stacklevel=3,
        )


def check_support(q: dist.TorchDistribution, prior: dist.TorchDistribution) -> None:
    """:raises ValueError: if the reader's q(w) has mass where the address prior has none."""
    moved = isinstance(q, torch.distributions.TransformedDistribution)  # whose support torch does not always know
    if q.has_enumerate_support != prior.has_enumerate_support or (not is_real(prior) and is_real(q) and not moved):
        raise ValueError(
            f"The reader returned {type(q).__name__}, whose support is not that of the address prior "
            f"{type(prior).__name__}. Use LaplaceReader() for continuous priors, SlotReader() for one-hot ones, or "
            "leave the reader out."
        )


def check_patterns(
    machine: KanervaMachine, patterns: Tensor, caller: str, name: str, event_shape: tuple[int, ...] | None
) -> Tensor:
    """:meth:`KanervaMachine.check_patterns`."""
    shape = tuple(patterns.shape)
    expected = machine.event_shape if event_shape is None else event_shape
    if expected is None:
        if len(shape) < 3:
            raise ValueError(f"{caller}: {name} have shape {shape}; expected (episodes, patterns) + event shape.")
    else:
        found = shape[len(shape) - len(expected) :] if len(shape) > len(expected) else shape
        if found != expected:
            raise ValueError(
                f"{caller}: {name} have event shape {found} (shape {shape}); expected {expected}. Resize "
                "them, or build the machine for their shape."
            )
        if len(shape) == len(expected) + 1:
            patterns = patterns.unsqueeze(0)
        elif len(shape) != len(expected) + 2:
            raise ValueError(
                f"{caller}: {name} have shape {shape}; expected (episodes, patterns) + {expected}, or "
                f"(patterns,) + {expected} for a single episode."
            )
    if patterns.dim() == 2:
        raise ValueError(f"{caller}: {name} have event shape (), single numbers; give them the event shape (1,).")
    if 0 in patterns.shape[:2]:
        raise ValueError(
            f"{caller}: {name} have shape {tuple(patterns.shape)}, an empty batch or episode; expected at "
            "least one episode of at least one pattern."
        )
    reference = machine.log_code_scale
    if (patterns.dtype, patterns.device) != (reference.dtype, reference.device):
        raise ValueError(
            f"{caller}: {name} have dtype {patterns.dtype} on {patterns.device}; expected {reference.dtype} on "
            f"{reference.device}, as the machine. Convert one of them with .to(dtype) or .to(device)."
        )
    if not checks_values():
        return patterns
    if not bool(patterns.isfinite().all()):
        raise ValueError(f"{caller}: {name} have NaN or infinite entries; expected finite numbers.")
    if isinstance(machine.likelihood, BernoulliLikelihood) and bool(((patterns != 0) & (patterns != 1)).any()):
        raise ValueError(
            f"{caller}: {name} have entries other than 0 and 1; the Bernoulli likelihood expects binary "
            "patterns. Binarize them, for example (patterns > 0.5).float(), or use NormalLikelihood."
        )
    if isinstance(machine.likelihood, DiscretizedLogisticLikelihood):
        top = machine.likelihood.num_levels - 1
        level = patterns * top
        if bool(((patterns < 0) | (patterns > 1) | ((level - level.round()).abs() > 1e-3)).any()):
            raise ValueError(
                f"{caller}: {name} have entries other than the levels 0, 1/{top}, ..., 1 of the likelihood. Divide "
                f"integers from 0 to {top} by {top}."
            )
    if isinstance(machine.likelihood, CategoricalLikelihood):
        number = machine.likelihood.num_classes
        if bool(((patterns < 0) | (patterns >= number) | (patterns != patterns.round())).any()):
            raise ValueError(
                f"{caller}: {name} have entries other than the classes 0 ... {number - 1} of the likelihood."
            )
    return patterns
