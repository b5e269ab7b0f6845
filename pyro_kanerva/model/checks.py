"""Checks of what a machine is given and of what its parts return; each error says what to do."""

import warnings
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import checks_values
from pyro_kanerva.likelihoods import Likelihood
from pyro_kanerva.likelihoods.base import ChecksPatterns
from pyro_kanerva.priors import Prior, as_distribution, has_real_support, moment_matched_memory, support_of


def event_shape_of(name: str, prior: Prior, rank: int) -> tuple[int, ...]:
    """The event shape of a prior.

    :raises ValueError: if the prior has a batch, or its event shape has another number of dimensions than ``rank``.
    """
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


def check_address_prior(prior: dist.TorchDistribution, num_slots: int) -> None:
    """:raises ValueError: if the prior has another event shape than (K,), or is discrete and not one-hot."""
    shape = event_shape_of("address_prior", prior, rank=1)
    if shape != (num_slots,):
        raise ValueError(
            f"KanervaMachine: address_prior has event shape {shape}; expected ({num_slots},), the number of slots of "
            "memory_prior."
        )
    if support_of(prior).is_discrete and not isinstance(prior, dist.OneHotCategorical):
        raise ValueError(
            f"KanervaMachine: address_prior is {type(prior).__name__}, a discrete distribution that is not one-hot. "
            "Use CategoricalAddress(num_slots) or a OneHotCategorical."
        )


def warn_of_equal_slots(memory_prior: Prior) -> None:
    """Warn if all slots have the same prior mean: a writer that infers addresses from it stores nothing."""
    loc = moment_matched_memory(memory_prior).loc
    if bool((loc == loc[:1]).all()):
        warnings.warn(
            "KanervaMachine: all slots of memory_prior have the same mean. This writer infers addresses from the "
            "memory, cannot tell such slots apart, and will store nothing. Give them different means, for example "
            "LaplaceMemory(num_slots, code_size), or pass Surrogate(prior, GaussianMemory(num_slots, code_size)).",
            stacklevel=3,
        )


def check_support(q: dist.TorchDistribution, prior: dist.TorchDistribution) -> None:
    """:raises ValueError: if the reader's q(w) has mass where the address prior has none."""
    known = not isinstance(q, torch.distributions.TransformedDistribution)  # else torch may not know the support
    outside = known and has_real_support(q) and not has_real_support(prior)
    if q.has_enumerate_support != prior.has_enumerate_support or outside:
        raise ValueError(
            f"The reader returned {type(q).__name__}, whose support is not that of the address prior "
            f"{type(prior).__name__}. Use LaplaceReader() for continuous priors, SlotReader() for one-hot ones, or "
            "leave the reader out."
        )


def call_network(name: str, network: Callable[[Tensor], Tensor], inputs: Tensor, remedy: str) -> Tensor:
    """The output of a network in the dtype of its inputs, also under autocast; its failure is a ``ValueError``."""
    try:
        return network(inputs).to(inputs.dtype)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The {name} failed on a tensor of shape {tuple(inputs.shape)} and dtype {inputs.dtype}: {error}. {remedy}"
        ) from error


def check_patterns(
    patterns: Tensor, label: str, event_shape: tuple[int, ...] | None, like: Tensor, likelihood: Likelihood | None
) -> Tensor:
    """``patterns`` as (B, T) + E; a single episode (T,) + E becomes B = 1 where E is known.

    :param label: begins each message: who was called, and with what.
    :param event_shape: E, or None if it is not known.
    :param like: a tensor of the expected dtype and device.
    :param likelihood: checks the values, or None if any finite number is legal.
    :raises ValueError: if the shape, dtype, device or values are wrong.
    """
    patterns = with_episodes(patterns, label, event_shape)
    if patterns.dim() == 2:
        raise ValueError(f"{label} have event shape (), single numbers; give them the event shape (1,).")
    if 0 in patterns.shape[:2]:
        raise ValueError(
            f"{label} have shape {tuple(patterns.shape)}, an empty batch or episode; expected at least one episode of "
            "at least one pattern."
        )
    if (patterns.dtype, patterns.device) != (like.dtype, like.device):
        raise ValueError(
            f"{label} have dtype {patterns.dtype} on {patterns.device}; expected {like.dtype} on {like.device}, as the "
            "machine. Convert one of them with .to(dtype) or .to(device)."
        )
    if checks_values():
        if not bool(patterns.isfinite().all()):
            raise ValueError(f"{label} have NaN or infinite entries; expected finite numbers.")
        if isinstance(likelihood, ChecksPatterns):
            likelihood.check_patterns(patterns, label)
    return patterns


def with_episodes(patterns: Tensor, label: str, event_shape: tuple[int, ...] | None) -> Tensor:
    """``patterns`` as (B, T) + E, with their shape checked and nothing else."""
    shape = tuple(patterns.shape)
    if event_shape is None:
        if len(shape) < 3:
            raise ValueError(f"{label} have shape {shape}; expected (episodes, patterns) + event shape.")
        return patterns
    rank = len(event_shape)
    found = shape[len(shape) - rank :] if len(shape) > rank else shape
    if found != event_shape:
        remedy = "Resize them, or build the machine for their shape."
        place = _missing_dimension(shape, event_shape)
        if place is not None:
            remedy = f"Add the missing dimension with {label.split()[-1]}.unsqueeze({place})."
        raise ValueError(f"{label} have event shape {found} (shape {shape}); expected {event_shape}. {remedy}")
    if len(shape) == rank + 1:
        return patterns.unsqueeze(0)
    if len(shape) != rank + 2:
        raise ValueError(
            f"{label} have shape {shape}; expected (episodes, patterns) + {event_shape}, or (patterns,) + "
            f"{event_shape} for a single episode."
        )
    return patterns


def _missing_dimension(shape: tuple[int, ...], event_shape: tuple[int, ...]) -> int | None:
    """Where ``shape`` lacks a dimension of size 1 of the event shape, such as that of the channels."""
    start = len(shape) + 1 - len(event_shape)  # of the event shape, once the dimension is added
    for place, size in enumerate(event_shape):
        if size == 1 and start in (1, 2) and shape[start:] == event_shape[:place] + event_shape[place + 1 :]:
            return start + place
    return None
