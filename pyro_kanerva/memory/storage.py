"""Files of memories: what is stored, and for which machine."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva import _files
from pyro_kanerva._files import PathLike
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.likelihoods import mean_and_mode
from pyro_kanerva.memory.records import Record, StreamRecord, WriteRecord, move
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution, moment_matched_memory


class StoredMemory(NamedTuple):
    """What a file of a memory holds: q(M), the shape E of a pattern, and the records of its writes."""

    posterior: MatrixNormal
    event_shape: tuple[int, ...]
    records: tuple[Record, ...]


_SAMPLE = 64  # numbers of each tensor of a machine's behavior that a file keeps
#: The types of numbers in which a memory can be stored.
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int8)


def save_memory(
    path: PathLike, parts: Parts, memory: StoredMemory, dtype: torch.dtype | None = None, keep_records: bool = True
) -> None:
    """Write a file of a memory, whole or not at all; the arguments are those of :meth:`Memory.save`."""
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"save(): dtype is {dtype!r}; expected one of {', '.join(map(str, DTYPES))}, or None.")
    posterior, event_shape, records = memory
    dtype = posterior.loc.dtype if dtype is None else dtype
    floating = torch.float16 if dtype == torch.int8 else dtype
    kept = [_in_dtype(record, floating) for record in records] if keep_records else []
    factor = _cast(posterior.scale_tril_row, floating)
    if not bool((factor.diagonal(dim1=-2, dim2=-1) > 0).all()):
        raise ValueError(f"save(): the memory has scales that are 0 in {floating}. Pass dtype=torch.bfloat16.")
    state = {
        "scale_tril_row": factor,
        "records": [tuple(record) for record in kept],
        "streams": [isinstance(record, StreamRecord) for record in kept],
        "behavior": behavior(parts, event_shape, _SAMPLE),
    }
    if dtype == torch.int8:
        state["loc"], state["loc_scale"] = quantized(posterior.loc)
    else:
        state["loc"] = _cast(posterior.loc, dtype)
    header = {
        "event_shape": list(event_shape),
        "memory_shape": list(posterior.event_shape),
        "machine": fingerprint(parts),
        "sample": _SAMPLE,
    }
    _files.save(path, "memory", header, state)


def quantized(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """``matrix`` (..., K, C) as int8, and the scale of each row, float32 (..., K, 1).

    ::

        scale = max_c |R_c| / 127,      R_c ~ scale round(R_c / scale)

    for each row R. The error is at most half of the scale.
    """
    scale = matrix.abs().amax(-1, keepdim=True).float() / 127
    return (matrix / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8), scale


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A contiguous copy in ``dtype``, or a ``ValueError`` if a number is too large for it."""
    cast = tensor.to(dtype).contiguous()
    if bool((cast.isinf() & tensor.isfinite()).any()):
        raise ValueError(f"save(): the memory has numbers that are too large for {dtype}. Pass dtype=torch.bfloat16.")
    return cast


def _in_dtype(record: Record, dtype: torch.dtype) -> Record:
    """The record with codes and addresses in ``dtype``; the sums of a stream stay in float64."""
    if isinstance(record, StreamRecord):
        return record
    factor = record.address_scale_tril
    return record._replace(
        codes=_cast(record.codes, dtype),
        addresses=_cast(record.addresses, dtype),
        address_scale_tril=None if factor is None else _cast(factor, dtype),
    )


def load_memory(path: PathLike, parts: Parts) -> StoredMemory:
    """Read a file that :func:`save_memory` wrote for these parts.

    :raises FileNotFoundError: if there is no such file.
    :raises ValueError: if the file is broken, of another kind or version, unsafe, or of other parts.
    """
    reference = parts.log_code_scale
    header, state = _files.load(path, "memory", reference.device)
    event_shape, size = tuple(header["event_shape"]), [parts.num_slots, parts.code_size]
    of_this_machine = (
        header["machine"] == fingerprint(parts)
        and header["memory_shape"] == size
        and parts.event_shape in (None, event_shape)
        and _close(state["behavior"], behavior(parts, event_shape, header.get("sample")))  # older files: all numbers
    )
    if not of_this_machine:
        raise ValueError(
            f"{path} was written by a machine with other parameters or parts, whose codes and addresses mean something "
            "else. Load the checkpoint of that machine, or write the patterns again with this one."
        )
    streams = state.get("streams", [False] * len(state["records"]))  # older files have neither streams nor names
    kinds = [StreamRecord if stream else WriteRecord for stream in streams]
    records = [kind(*record) for kind, record in zip(kinds, state["records"], strict=True)]
    loc, scale = state["loc"], state.get("loc_scale")
    if scale is not None:
        is_quantized = loc.dtype == torch.int8 and scale.is_floating_point() and scale.shape == (*loc.shape[:-1], 1)
        loc = loc * (scale if is_quantized else torch.nan)  # NaN is refused below
    if not _is_valid(loc, state["scale_tril_row"], records, parts):
        raise ValueError(f"{path} holds numbers of a memory that are NaN or of a wrong shape. Write the memory anew.")
    posterior = MatrixNormal(loc.to(reference), state["scale_tril_row"].to(reference))
    moved = tuple(move(record, reference) for record in records)
    return StoredMemory(posterior, event_shape, moved)


def _is_valid(loc: Tensor, factor: Tensor, records: Sequence[Record], parts: Parts) -> bool:
    batch, slots, size = len(loc), parts.num_slots, parts.code_size
    expected = [(loc, (batch, slots, size)), (factor.expand(*loc.shape[:-1], -1), (batch, slots, slots))]
    for record in records:
        if isinstance(record, StreamRecord):
            expected += [(record.precision, (batch, slots, slots)), (record.precision_loc, (batch, slots, size))]
            continue
        length = record.num_patterns
        expected += [(record.codes, (batch, length, size)), (record.addresses, (batch, length, slots))]
        if record.address_scale_tril is not None:
            expected.append((record.address_scale_tril, (batch, slots, slots)))
    return all(
        tensor.is_floating_point() and tensor.shape == shape and bool(tensor.isfinite().all())
        for tensor, shape in expected
    )


def fingerprint(parts: Parts) -> str:
    """Equal for parts of equal kinds, parameters and buffers, whatever their device and precision."""
    priors = [_kinds(as_distribution(prior)) for prior in (parts.memory_prior, parts.address_prior)]
    kinds = [*priors, type(parts.likelihood).__qualname__, parts.code_posterior is None]
    digest = hashlib.sha256(str(kinds).encode())
    for name, tensor in sorted([*parts.named_parameters(), *parts.named_buffers()]):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def behavior(parts: Parts, event_shape: tuple[int, ...], sample: int | None) -> Tensor:
    """Numbers that tell machines apart which have equal parameters: of their priors, and of a code that is decoded and
    encoded again. At most ``sample`` of each tensor, evenly spaced; None for all.
    """
    reference = parts.log_code_scale
    code = torch.linspace(-1, 1, parts.code_size).to(reference)
    prior = moment_matched_memory(parts.memory_prior)
    numbers = [prior.loc, prior.row_covariance, *_parameters(as_distribution(parts.address_prior))]
    training = [module for module in parts.modules() if module.training]
    parts.eval()  # networks with dropout are random in training
    try:
        entries = parts.decode(code.view(1, 1, -1), event_shape).base_dist
        mean, mode = mean_and_mode(entries)
        numbers += [mean, parts.encode(mode.to(reference))]
    finally:
        for module in training:
            module.training = True
    flat = [number.double().flatten() for number in numbers]
    return torch.cat([tensor[:: 1 if sample is None else max(1, -(-len(tensor) // sample))] for tensor in flat])


def _kinds(distribution: dist.TorchDistribution) -> str:
    base = getattr(distribution, "base_dist", None)
    return type(distribution).__name__ + ("" if base is None else f" of {_kinds(base)}")


def _parameters(distribution: dist.TorchDistribution) -> list[Tensor]:
    own = [getattr(distribution, name, None) for name in distribution.arg_constraints]
    base = getattr(distribution, "base_dist", None)
    return [value for value in own if isinstance(value, Tensor)] + ([] if base is None else _parameters(base))


def _close(one: Tensor, other: Tensor) -> bool:
    """Equal up to the rounding of another precision or device."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-2, atol=1e-3, equal_nan=True)
