"""The stored memory: what was written, and what can be asked of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_kanerva import _files
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.priors import as_distribution

if TYPE_CHECKING:
    from pyro_kanerva.channels import Channel
    from pyro_kanerva.machine import KanervaMachine
    from pyro_kanerva.retrieval import Retrieval


class WriteRecord(NamedTuple):
    """One write: ``codes`` (B, T, C) and the means ``addresses`` (B, T, K) under which they were stored.

    ``address_scale_tril`` (B, K, K) is the Cholesky factor of their covariance where it entered the update.
    """

    codes: Tensor
    addresses: Tensor
    address_scale_tril: Tensor | None


class Memory:
    """The posterior q(M) of B memories after writing; made by :meth:`KanervaMachine.write`.

    A memory is not changed by any of its methods; :meth:`write` returns a new one. It works without
    gradients.
    """

    def __init__(
        self,
        machine: KanervaMachine,
        posterior: MatrixNormal,
        event_shape: tuple[int, ...],
        records: Sequence[WriteRecord] = (),
    ) -> None:
        self.machine = machine
        #: q(M), a :class:`MatrixNormal` of batch shape (B,) and event shape (K, C).
        self.posterior = posterior
        #: E, the shape of a pattern.
        self.event_shape = event_shape
        #: What was written, in order.
        self.records = tuple(records)

    def __repr__(self) -> str:
        (batch,), (slots, size) = self.posterior.batch_shape, self.posterior.event_shape
        stored = sum(record.codes.shape[-2] for record in self.records)
        return f"Memory({batch} episodes of {stored} patterns {self.event_shape}, {slots} slots of code size {size})"

    @torch.no_grad()
    def write(self, patterns: Tensor) -> Memory:
        """The memory after also writing ``patterns``, (B, T) + E or (T,) + E.

        :raises ValueError: if the patterns do not fit the machine or this memory.
        """
        patterns = self._check(patterns, "write()", "patterns")
        codes = self.machine.encode(patterns)
        result = self.machine.write_codes(codes, self.posterior)
        record = WriteRecord(codes, result.addresses, result.address_scale_tril)
        return Memory(self.machine, result.memory, self.event_shape, (*self.records, record))

    @torch.no_grad()
    def read(self, cues: Tensor) -> Tensor:
        """One-step reconstructions (B, Q) + E of ``cues`` (B, Q) + E: the mean of p(x | w, M).

        M is the posterior mean, w the mean of the reader's q(w | cue, M).

        :raises ValueError: if the cues do not fit the machine or this memory.
        """
        cues = self._check(cues, "read()", "cues")
        address = self.machine.read_codes(self.machine.encode(cues), self.posterior.loc).mean
        return self.machine.decode(address @ self.posterior.loc, self.event_shape).mean

    def query(
        self,
        cues: Tensor,
        *,
        num_steps: int = 10,
        channel: Channel | None = None,
        observed: Tensor | None = None,
        tolerance: float = 0.0,
    ) -> Retrieval:
        """Recall the stored patterns that ``cues`` come from, by alternating posterior queries.

        :param cues: binary patterns (B, Q) + E, or (Q,) + E for a single memory.
        :param num_steps: S, how often x-step and w-step alternate.
        :param channel: how the cues came from the patterns, :class:`Flip` or :class:`SaltAndPepper`;
            ``None`` where a cue is only the start of the paper's attractor dynamics.
        :param observed: bool, broadcastable to the cues; entries marked False carry no evidence. Without a
            channel, True entries are clamped to the cue and never change; with one, they are noisy evidence.
        :param tolerance: a fall of the energy in nats, up to which a query counts as converged.
        :return: :class:`Retrieval`, with patterns (S + 1, B, Q) + E, the cue first; the energy never rises.
        :raises ValueError: if the cues do not fit, the likelihood is not Bernoulli, or an argument is out
            of range.

        The equations are in :mod:`pyro_kanerva.retrieval`. M is held at its posterior mean.
        """
        from pyro_kanerva.retrieval import query

        cues = self._check(cues, "query()", "cues")
        return query(self.machine, self.posterior.loc, cues, num_steps, channel, observed, tolerance)

    @torch.no_grad()
    def generate(self, num_samples: int, *, num_steps: int = 0) -> Tensor:
        """New patterns (B, num_samples) + E: addresses from their prior, read from M at its posterior mean.

        With ``num_steps=0`` these are the means of p(x | w, M); with more, the patterns at which a query
        without a channel arrives from their modes.

        :raises ValueError: if ``num_samples < 1`` or ``num_steps < 0``.
        """
        if num_samples < 1:
            raise ValueError(f"generate(): num_samples is {num_samples}; expected at least 1.")
        prior = as_distribution(self.machine.address_prior)
        address = prior.sample((*self.posterior.batch_shape, num_samples))
        samples = self.machine.decode(address @ self.posterior.loc, self.event_shape).mean
        if num_steps == 0:
            return samples
        return self.query((samples > 0.5).to(samples.dtype), num_steps=num_steps).patterns[-1]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this memory to a file, whole or not at all; the machine is not part of it."""
        state = {
            "loc": self.posterior.loc.contiguous(),
            "scale_tril_row": self.posterior.scale_tril_row.contiguous(),
            "records": [tuple(record) for record in self.records],
        }
        header = {
            "event_shape": list(self.event_shape),
            "memory_shape": list(self.posterior.event_shape),
            "machine": _fingerprint(self.machine),
        }
        _files.save(path, "memory", header, state)

    @staticmethod
    def load(path: str | os.PathLike[str], machine: KanervaMachine) -> Memory:
        """Read a memory that :meth:`save` wrote, for the machine that wrote it.

        :raises FileNotFoundError: if there is no such file.
        :raises ValueError: if the file is broken, of another kind or version, unsafe, or of a machine with
            other parameters.
        """
        dtype = machine.log_code_scale.dtype
        header, state = _files.load(path, "memory", machine.log_code_scale.device)
        size = [machine.num_slots, machine.code_size]
        if header.get("machine") != _fingerprint(machine) or header.get("memory_shape") != size:
            raise ValueError(
                f"{path} was written by a machine with other parameters, whose codes and addresses mean something "
                "else. Load the checkpoint of that machine, or write the patterns again with this one."
            )
        posterior = MatrixNormal(state["loc"].to(dtype), state["scale_tril_row"].to(dtype))
        records = [
            WriteRecord(codes.to(dtype), addresses.to(dtype), None if factor is None else factor.to(dtype))
            for codes, addresses, factor in state["records"]
        ]
        return Memory(machine, posterior, tuple(header["event_shape"]), records)

    def _check(self, patterns: Tensor, caller: str, name: str) -> Tensor:
        patterns = self.machine.check_patterns(patterns, caller, name, self.event_shape)
        (batch,) = self.posterior.batch_shape
        stored, reference = self.posterior.loc, self.machine.log_code_scale
        if (stored.dtype, stored.device) != (reference.dtype, reference.device):
            raise ValueError(
                f"{caller}: the memory is {stored.dtype} on {stored.device}, its machine is now {reference.dtype} on "
                f"{reference.device}. Save the memory and load it again, or write it anew."
            )
        if patterns.shape[0] != batch:
            raise ValueError(
                f"{caller}: {name} have {patterns.shape[0]} episodes (shape {tuple(patterns.shape)}); expected "
                f"{batch}, one for each memory."
            )
        return patterns


def _fingerprint(machine: KanervaMachine) -> str:
    """Equal for machines of equal parameters, whatever their device and precision."""
    digest = hashlib.sha256()
    for name, tensor in sorted(machine.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
