"""Checks of what a machine is given and of what its parts return; each error says what to do."""

import warnings
from collections.abc import Callable

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_kanerva._checks import check_distribution, check_tensor, checks_values, describe, kind_of
from pyro_kanerva.distributions import GaussianMixture, MatrixNormal
from pyro_kanerva.likelihoods import CategoricalLikelihood, Likelihood
from pyro_kanerva.likelihoods.base import ChecksPatterns
from pyro_kanerva.priors import Prior, as_distribution, has_real_support, moment_matched_memory, support_of
from pyro_kanerva.writers import WriteResult


def check_callable(name: str, part: object) -> None:
    """:raises ValueError: if a part of a machine cannot be called, or is the class of a module instead of a module."""
    if isinstance(part, type) and issubclass(part, nn.Module):
        raise ValueError(
            f"KanervaMachine: {name} is the class {part.__name__}; expected an object. Make one, {part.__name__}(...)."
        )
    if not callable(part):
        raise ValueError(f"KanervaMachine: {name} is {describe(part)}; expected a module or a function.")


def prior_distribution(name: str, prior: Prior) -> dist.TorchDistribution:
    """The distribution of a prior.

    :raises ValueError: if it is no distribution of Pyro, if the prior calls ``pyro.sample``, or if single values have a
        positive probability.
    """
    if isinstance(prior, torch.distributions.Distribution):
        distribution = prior
    else:
        check_callable(name, prior)
        with poutine.block(), poutine.trace() as tracer:
            distribution = prior()
        sites = [site for site, node in tracer.trace.nodes.items() if node["type"] == "sample"]
        if sites:
            raise ValueError(
                f"KanervaMachine: {name} samples the sites {sites}; expected a callable that returns a distribution "
                "and samples nothing, because the guide has no such sites. Sum the variable out in closed form, as "
                "HierarchicalMemory does with a variance for each slot, or make it an nn.Parameter of the prior."
            )
    check_distribution(f"KanervaMachine: {name}", distribution, "a Pyro distribution")
    return distribution


def check_no_atoms(name: str, distribution: dist.TorchDistribution, remedy: str) -> None:
    """Check that a distribution on the real numbers gives no single value a positive probability.

    It compares 32 draws of each entry. The random state is restored.

    :raises ValueError: if of an entry more than 4 of them repeat another.
    """
    entries = distribution.base_dist if isinstance(distribution, dist.Independent) else distribution
    if type(entries) in (MatrixNormal, GaussianMixture, dist.MultivariateNormal, dist.Normal):
        return  # also if it is so narrow that float32 rounds its draws to few values
    with torch.no_grad(), torch.random.fork_rng(range(torch.cuda.device_count())):
        draws = distribution.sample(torch.Size((32,)))
    repeated = (draws.sort(0).values.diff(dim=0) == 0).sum(0)
    if bool((repeated > 4).any()):
        raise ValueError(
            f"KanervaMachine: {name} {kind_of(distribution)} gives single values a positive probability: of 32 "
            f"draws of an entry, {int(repeated.max())} repeat another. The guide is a density, and gives single values "
            f"none, so the bound would be minus infinity. {remedy}"
        )


def event_shape_of(name: str, prior: Prior, rank: int) -> tuple[int, ...]:
    """The event shape of a prior.

    :raises ValueError: if the prior returns no distribution or one with a batch, or its event shape has another number
        of dimensions than ``rank``.
    """
    distribution = prior_distribution(name, prior)
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


def check_memory_prior(prior: Prior) -> tuple[int, int]:
    """K and C of a memory prior.

    :raises ValueError: if its event shape is not (K, C), its support is not all real matrices, single values have a
        positive probability, or no Gaussian can be matched to it.
    """
    num_slots, code_size = event_shape_of("memory_prior", prior, rank=2)
    distribution = as_distribution(prior)
    if not has_real_support(distribution):
        raise ValueError(
            f"KanervaMachine: memory_prior {kind_of(distribution)} has the support {support_of(distribution)}; "
            "expected all real matrices, because q(M) is Gaussian. Take a distribution on the real numbers, such as "
            "LaplaceMemory."
        )
    remedy = "Put a narrow Normal in place of each value, for example a mixture of two Normals (spike and slab)."
    check_no_atoms("memory_prior", distribution, remedy)
    moment_matched_memory(prior)
    return num_slots, code_size


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
            f"KanervaMachine: address_prior is {kind_of(prior)}, a discrete distribution that is not one-hot. "
            "Use CategoricalAddress(num_slots) or a OneHotCategorical."
        )
    if has_real_support(prior):
        remedy = "Use CategoricalAddress for single slots, or a narrow Normal in place of each value (MixtureAddress)."
        check_no_atoms("address_prior", prior, remedy)


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


def check_write_result(result: object) -> None:
    """:raises ValueError: if a writer returned anything but a WriteResult of a MatrixNormal and a tensor."""
    remedy = "Return WriteResult(memory, addresses) with memory, a MatrixNormal, and addresses, a tensor (B, T, K)."
    if not isinstance(result, WriteResult):
        raise ValueError(f"The writer returned {describe(result)}; expected a WriteResult. {remedy}")
    if not isinstance(result.memory, MatrixNormal) or result.memory.scale_tril_column is not None:
        raise ValueError(
            f"The writer returned as memory {describe(result.memory)}; expected a MatrixNormal with "
            f"scale_tril_column=None. {remedy}"
        )
    if not isinstance(result.addresses, Tensor):
        raise ValueError(f"The writer returned as addresses {describe(result.addresses)}; expected a tensor. {remedy}")


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
        output = network(inputs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"The {name} failed on a tensor of shape {tuple(inputs.shape)} and dtype {inputs.dtype}: {error}. {remedy}"
        ) from error
    check_tensor(f"The {name}", output, f"a tensor whose first dimension is {len(inputs)}")
    if output.shape[:1] != inputs.shape[:1]:
        raise ValueError(
            f"The {name} returned shape {tuple(output.shape)} for a tensor of shape {tuple(inputs.shape)}; expected "
            f"{len(inputs)} rows, one for each input. {remedy}"
        )
    return output.to(inputs.dtype)


def check_patterns(
    patterns: Tensor, label: str, event_shape: tuple[int, ...] | None, like: Tensor, likelihood: Likelihood | None
) -> Tensor:
    """``patterns`` as (B, T) + E; a single episode (T,) + E becomes B = 1 where E is known.

    Classes may be int64; they become ``like``'s dtype.

    :param label: begins each message: who was called, and with what.
    :param event_shape: E, or None if it is not known.
    :param like: a tensor of the expected dtype and device.
    :param likelihood: checks the values; None if any finite number is legal.
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
    if patterns.dtype == torch.int64 and isinstance(likelihood, CategoricalLikelihood):
        patterns = patterns.to(like.dtype)
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
    if not isinstance(patterns, Tensor) or patterns.layout != torch.strided:
        raise ValueError(
            f"{label} are {describe(patterns)}; expected a dense tensor. Convert them with torch.as_tensor() or "
            ".to_dense()."
        )
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
