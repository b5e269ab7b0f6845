"""The stored memory: what was written, and what can be asked of it."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva import _files
from pyro_kanerva._precision import full_precision
from pyro_kanerva.channels import Channel, fit
from pyro_kanerva.conjugate import NaturalParameters, evidence
from pyro_kanerva.energies import Energy, PointEnergy
from pyro_kanerva.likelihoods import mean_and_mode
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.priors import as_distribution, coordinates, point_address
from pyro_kanerva.records import Record, StreamRecord, WriteRecord, check_evidence, of_records

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine
    from pyro_kanerva.retrieval import Retrieval
    from pyro_kanerva.sampling import Draws
    from pyro_kanerva.writers import WriteResult


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
        records: Sequence[Record] = (),
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
        stored = sum(record.num_patterns for record in self.records)
        return f"Memory({batch} episodes of {stored} patterns {self.event_shape}, {slots} slots of code size {size})"

    @full_precision
    @torch.no_grad()
    def write(
        self,
        patterns: Tensor | Iterable[Tensor],
        *,
        path: str | os.PathLike[str] | None = None,
        save_every: int = 10,
        resume: bool = False,
        progress: bool = False,
    ) -> Memory:
        """The memory after also writing ``patterns``, (B, T) + E or (T,) + E, or a stream of such chunks.

        Of an iterable, chunk after chunk is written and forgotten, so that a stream may be of any length; its single
        :class:`StreamRecord` holds what it added up to. The larger the chunks and the writer's blocks, the faster.

        :param path: of a stream, where the memory is saved now and then and at the end, whole or not at all.
        :param save_every: chunks between two saves.
        :param resume: go on from ``path`` as if there had been no stop: called on the same memory, with the same
            chunks, of which those already written are skipped.
        :param progress: show a progress bar.
        :raises ValueError: if the patterns do not fit the machine or this memory, the machine's writer cannot
            continue a memory, a stream is empty, or ``path`` exists and is not to be resumed, or is not this memory.
        :raises FileNotFoundError: if there is no file to resume from.
        """
        if not isinstance(patterns, Tensor):
            from pyro_kanerva.streaming import write_stream

            return write_stream(self, patterns, path, save_every, resume, progress)
        if path is not None or resume or progress:
            raise ValueError("write(): path, resume and progress are of streams; pass an iterable of chunks.")
        codes, result = self.encode_and_write(patterns)
        record = WriteRecord(codes, result.addresses, result.address_scale_tril)
        return self.with_posterior(result.memory, (*self.records, record))

    @full_precision
    def encode_and_write(self, patterns: Tensor) -> tuple[Tensor, WriteResult]:
        """The codes (B, T, C) of patterns, and what the machine's writer makes of them; checked as :meth:`write`."""
        patterns = self.check(patterns, "write()", "patterns")
        if self.records and getattr(self.machine.writer, "forgets", False):
            raise ValueError(
                f"write(): {type(self.machine.writer).__name__} starts anew with every episode and would lose what "
                "this memory holds. Write all patterns at once, or build the machine with OnlineWriter(8, 1)."
            )
        codes = self.machine.encode(patterns)
        return codes, self.machine.write_patterns(patterns, codes, self.posterior, continued=bool(self.records))

    @full_precision
    def evidence_of(self, codes: Tensor, result: WriteResult) -> NaturalParameters:
        """What a write adds to the natural parameters, as the writer says or from the addresses."""
        if result.evidence is not None:
            return result.evidence
        return evidence(result.addresses, codes, self.machine.code_scale, result.address_scale_tril)

    def with_posterior(self, posterior: MatrixNormal, records: Sequence[Record]) -> Memory:
        """A memory of the same machine with another q(M) and other records."""
        return Memory(self.machine, posterior, self.event_shape, records)

    @full_precision
    @torch.no_grad()
    def erase(self, record: Record) -> Memory:
        """The memory without one of its ``records``: the exact inverse of that write's update.

        ::

            U^-1 -= sum_t E[w_t w_t^T] / sigma^2,      U^-1 R -= sum_t E[w_t] z_t^T / sigma^2

        computed as the sum of what stays, in float64, which loses no digits. What was written after it keeps the
        addresses that it was given at the time.

        :raises ValueError: if the record is not one of this memory, or the memory is not the evidence of its records.
        """
        if not any(record is other for other in self.records):
            raise ValueError("erase(): the record is not one of this memory; pass one of memory.records.")
        return self._of_records([other for other in self.records if other is not record], "erase()")

    @staticmethod
    @torch.no_grad()
    def merge(memories: Sequence[Memory]) -> Memory:
        """One memory with what all of ``memories`` hold, each written from the memory prior of one machine.

        Their natural parameters add up: the exact posterior given the addresses under which each was written. That
        is writing together where addresses do not depend on the memory, as those of :class:`FrameWriter` and
        :class:`AmortizedWriter`. Else later patterns would have been addressed knowing the earlier ones, and patterns
        of different memories may be in each other's way.

        :raises ValueError: if there are no memories, they are of different machines or numbers of episodes, or one
            is not the evidence of its records.
        """
        if not memories:
            raise ValueError("merge(): there are no memories; expected at least one.")
        first = memories[0]
        for other in memories[1:]:
            if other.machine is not first.machine or other.event_shape != first.event_shape:
                raise ValueError("merge(): the memories belong to different machines, whose codes mean something else.")
            if other.posterior.batch_shape != first.posterior.batch_shape:
                raise ValueError(
                    f"merge(): the memories have {first.posterior.batch_shape[0]} and {other.posterior.batch_shape[0]} "
                    "episodes; expected equal numbers."
                )
        for memory in memories[1:]:
            memory._of_records(memory.records, "merge()")
        return first._of_records([record for memory in memories for record in memory.records], "merge()")

    @full_precision
    def _of_records(self, records: Sequence[Record], caller: str) -> Memory:
        """The memory prior with the evidence of ``records``; that of its own ones must account for this memory."""
        posterior = of_records(self.machine, self.posterior, self.records)
        check_evidence(posterior, self.posterior, self.machine, caller)
        return self.with_posterior(of_records(self.machine, self.posterior, records), records)

    @full_precision
    @torch.no_grad()
    def read(self, cues: Tensor) -> Tensor:
        """One-step reconstructions (B, Q) + E of ``cues`` (B, Q) + E: the mean of p(x | w, M), of classes the mode.

        M is the posterior mean, w the mean of the reader's q(w | cue, M).

        :raises ValueError: if the cues do not fit the machine or this memory.
        """
        cues = self.check(cues, "read()", "cues")
        address = point_address(self.machine.read_codes(self.machine.encode(cues), self.posterior.loc))
        return mean_and_mode(self.predict(address))[0]

    @full_precision
    def query(
        self,
        cues: Tensor,
        *,
        num_steps: int = 10,
        channel: Channel | None = None,
        observed: Tensor | None = None,
        tolerance: float = 0.0,
        energy: Energy | None = None,
        matrix: Tensor | None = None,
    ) -> Retrieval:
        """Recall the stored patterns that ``cues`` come from, by alternating posterior queries.

        :param cues: patterns (B, Q) + E, or (Q,) + E for a single memory.
        :param num_steps: S, how often x-step and w-step alternate; a query that has converged stops early.
        :param channel: how the cues came from the patterns, see :mod:`pyro_kanerva.channels`; ``None``
            where a cue is only the start of the paper's attractor dynamics.
        :param observed: bool, broadcastable to the cues; entries marked False carry no evidence. Without a
            channel, True entries are clamped to the cue and never change; with one, they are noisy evidence.
        :param tolerance: a fall of the energy in nats, up to which a query counts as converged.
        :param energy: by default :class:`PointEnergy`; :class:`VariationalEnergy` averages over addresses.
        :param matrix: M (B, K, C) to be queried, for example ``memory.posterior.sample()``; by default the
            posterior mean.
        :return: :class:`Retrieval`, with patterns (S + 1, B, Q) + E, the cue first; the energy never rises.
        :raises ValueError: if the cues do not fit the machine, this memory or the likelihood, the channel does
            not fit the likelihood, or an argument is out of range.

        The equations are in :mod:`pyro_kanerva.retrieval`.
        """
        from pyro_kanerva.retrieval import query

        cues = self.check(cues, "query()", "cues")
        energy = PointEnergy() if energy is None else energy
        return query(self.machine, self._matrix(matrix), cues, num_steps, channel, observed, tolerance, energy)

    @full_precision
    def sample(
        self,
        cues: Tensor,
        num_samples: int,
        *,
        burn_in: int = 10,
        channel: Channel | None = None,
        observed: Tensor | None = None,
        sample_memory: bool = False,
    ) -> Draws:
        """A Gibbs-style chain over pattern and address of every cue: how certain is a recalled pattern?

        Each sweep draws ``x ~ p(x | c, w, M)`` and ``w ~ q(w | x, M)`` from the reader. The draws are exact
        where q is, as in a linear-Gaussian machine; ``draws.patterns.std(0)`` is the posterior standard
        deviation of every entry.

        :param cues: (B, Q) + E, or (Q,) + E for a single memory; they also start the chain.
        :param num_samples: S, sweeps that are kept.
        :param burn_in: sweeps before them.
        :param channel: as in :meth:`query`.
        :param observed: as in :meth:`query`.
        :param sample_memory: draw ``M ~ q(M)`` before every sweep; else M is the posterior mean. What a cue
            says about M is left out.
        :raises ValueError: as :meth:`query`, and if ``num_samples < 1`` or ``burn_in < 0``.
        """
        from pyro_kanerva.sampling import gibbs

        if num_samples < 1 or burn_in < 0:
            raise ValueError(
                f"sample(): num_samples is {num_samples}, burn_in {burn_in}; expected at least 1, and 0 or more."
            )
        cues = self.check(cues, "sample()", "cues")
        return gibbs(self, cues, num_samples, burn_in, channel, observed, sample_memory)

    @full_precision
    @torch.no_grad()
    def log_evidence(self, patterns: Tensor, *, num_samples: int = 64) -> Tensor:
        r"""``log p(x | memory)`` of each of ``patterns`` (B, Q) + E, in nats, (B, Q): is it stored?

        ::

            log 1/S sum_s p(x | w_s, M_s) p(w_s) / q(w_s | x, M_s),    M_s ~ q(M), w_s ~ q(w | x, M_s)

        On average a lower bound, which tightens as ``num_samples`` grows. How much of it is owed to the
        episode tells the difference to ``machine.prior_memory(B).log_evidence(patterns)``, see
        :func:`pyro_kanerva.evaluation.familiarity`.

        :raises ValueError: if the patterns do not fit the machine or this memory, or ``num_samples < 1``.
        """
        from pyro_kanerva.sampling import log_weights

        if num_samples < 1:
            raise ValueError(f"log_evidence(): num_samples is {num_samples}; expected at least 1.")
        patterns = self.check(patterns, "log_evidence()", "patterns")
        weights = torch.stack([log_weights(self, patterns) for _ in range(num_samples)])
        return weights.logsumexp(0) - math.log(num_samples)

    @full_precision
    @torch.no_grad()
    def generate(self, num_samples: int, *, num_steps: int = 0, matrix: Tensor | None = None) -> Tensor:
        """New patterns (B, num_samples) + E: addresses from their prior, read from the memory.

        With ``num_steps=0`` these are the means of p(x | w, M); with more, the patterns at which a query
        without a channel arrives from their modes.

        :param matrix: M (B, K, C) to be read, by default the posterior mean. Of a memory that holds nothing,
            ``machine.prior_memory()``, take a draw: ``memory.posterior.sample()``.
        :raises ValueError: if ``num_samples < 1`` or ``num_steps < 0``, or the matrix has another shape.
        """
        if num_samples < 1 or num_steps < 0:
            raise ValueError(
                f"generate(): num_samples is {num_samples}, num_steps is {num_steps}; expected 1 or more, 0 or more."
            )
        prior = as_distribution(self.machine.address_prior)
        address = prior.sample((*self.posterior.batch_shape, num_samples))
        code = self.machine.draw_code(address @ self._matrix(matrix))
        mean, mode = mean_and_mode(self.machine.decode(code, self.event_shape).base_dist)
        if num_steps == 0:
            return mean
        return self.query(mode, num_steps=num_steps, matrix=matrix).patterns[-1]

    @full_precision
    def predict(self, address: Tensor, *, matrix: Tensor | None = None) -> dist.TorchDistribution:
        """p(x | w, M) of every entry, (B, Q) + E, at addresses w (B, Q, K), for instance those of a query.

        Where codes are latent, it is that at their mean M^T w; queries and energies take it for p(x | w, M) as well.

        :param matrix: M (B, K, C), by default the posterior mean.
        :raises ValueError: if an argument has another shape.
        """
        slots = self.machine.num_slots
        if address.dim() != 3 or address.shape[0] != self.posterior.batch_shape[0] or address.shape[2] != slots:
            raise ValueError(
                f"predict(): address has shape {tuple(address.shape)}; expected ({self.posterior.batch_shape[0]}, Q, "
                f"{slots}), episodes, addresses and slots."
            )
        return self.machine.decode(address @ self._matrix(matrix), self.event_shape).base_dist

    @full_precision
    def energy(
        self, address: Tensor, cues: Tensor, *, channel: Channel | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """The energy (B, Q) of addresses w (B, Q, K), in nats; differentiable in w.

        ``-log p(c | w, R) - log p(w)`` under a channel, else ``-log p(x | w, R) - log p(w)`` at x = ``cues``
        (B, Q) + E; for addresses of another support than R^K, p(w) is the density of their real coordinates, see
        :func:`pyro_kanerva.priors.coordinates`. At the addresses of a query this is its energy; a single pattern of
        each memory is compared with all addresses. ``observed`` matters with a channel only, as in the energy of a
        query.

        :raises ValueError: if the arguments do not fit.
        """
        from pyro_kanerva.retrieval import check_channel, check_observed

        cues = self.check(cues, "energy()", "cues")
        check_channel(channel, "energy()")
        prediction = self.predict(address)
        dims = tuple(range(2, cues.dim()))
        cues = cues.expand(prediction.batch_shape)
        seen = torch.ones_like(cues, dtype=torch.bool) if observed is None else check_observed(observed, cues)
        if channel is None:
            evidence, seen = prediction.log_prob(cues), torch.ones_like(seen)
        else:
            evidence = fit(channel, cues, prediction, seen, dims).log_evidence(cues, prediction)
        evidence = torch.where(seen, evidence, 0.0).sum(dims)
        prior = as_distribution(self.machine.address_prior)
        if prior.has_enumerate_support:
            return -evidence - prior.log_prob(address)
        where = coordinates(prior)
        return -evidence - where.log_density(where.inverse(address))

    def _matrix(self, matrix: Tensor | None) -> Tensor:
        loc = self.posterior.loc
        if matrix is None:
            return loc
        if (matrix.shape, matrix.dtype, matrix.device) != (loc.shape, loc.dtype, loc.device):
            raise ValueError(
                f"matrix is {matrix.dtype} on {matrix.device} of shape {tuple(matrix.shape)}; expected {loc.dtype} on "
                f"{loc.device} of shape {tuple(loc.shape)}, as memory.posterior.sample() is."
            )
        return matrix

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this memory to a file, whole or not at all; the machine is not part of it."""
        state = {
            "loc": self.posterior.loc.contiguous(),
            "scale_tril_row": self.posterior.scale_tril_row.contiguous(),
            "records": [tuple(record) for record in self.records],
            "streams": [isinstance(record, StreamRecord) for record in self.records],
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
        records: list[Record] = []
        for record, stream in zip(state["records"], state.get("streams", [False] * len(state["records"])), strict=True):
            if stream:
                records.append(StreamRecord(*record))
            else:
                codes, addresses, factor = record
                factor = None if factor is None else factor.to(dtype)
                records.append(WriteRecord(codes.to(dtype), addresses.to(dtype), factor))
        return Memory(machine, posterior, tuple(header["event_shape"]), records)

    def digest(self) -> int:
        """A number that is equal for equal memories of equal machines."""
        digest = hashlib.sha256(_fingerprint(self.machine).encode())
        for tensor in (self.posterior.loc, self.posterior.scale_tril_row):
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return int.from_bytes(digest.digest()[:7])

    def check(self, patterns: Tensor, caller: str, name: str) -> Tensor:
        """``patterns`` as (B, Q) + E, or a ``ValueError`` that says why they do not fit this memory."""
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
    """Equal for machines of equal parameters, buffers and kinds of priors, whatever their device and precision."""
    priors = [type(as_distribution(prior)).__name__ for prior in (machine.memory_prior, machine.address_prior)]
    digest = hashlib.sha256(f"{priors} {machine.code_posterior is None}".encode())
    for name, tensor in sorted([*machine.named_parameters(), *machine.named_buffers()]):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()
