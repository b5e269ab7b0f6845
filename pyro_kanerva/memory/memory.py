"""The stored memory: what was written, and what can be asked of it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._precision import autocast_off
from pyro_kanerva.channels import Channel, check_channel, resolve
from pyro_kanerva.conjugate import NaturalParameters, statistics
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.likelihoods import mean_and_mode
from pyro_kanerva.memory import sampling, storage
from pyro_kanerva.memory.records import (
    Record,
    StreamRecord,
    WriteRecord,
    check_records,
    empty_stream_record,
    posterior_from_records,
)
from pyro_kanerva.memory.stream import SAVE_EVERY, is_continued, write_chunks
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution, moment_matched_memory, point_address, real_coordinates
from pyro_kanerva.retrieval import Energy, PointEnergy, Retrieval
from pyro_kanerva.retrieval.energy import cue_log_evidence, entry_dims
from pyro_kanerva.retrieval.query import check_observed, query
from pyro_kanerva.writers import WriteResult, check_continues


class Memory:
    """The posterior q(M) of B memories after writing; made by :meth:`KanervaMachine.write`.

    No method changes a memory: :meth:`write`, :meth:`erase` and :meth:`merge` return a new one. All work without
    gradients, but for :meth:`predict` and :meth:`energy`.
    """

    def __init__(
        self, machine: Parts, posterior: MatrixNormal, event_shape: tuple[int, ...], records: Sequence[Record] = ()
    ) -> None:
        #: The machine, or its parts, that wrote the memory.
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

    # ------------------------------------------------------------------ write, erase, merge

    @torch.no_grad()
    def write(
        self,
        patterns: Tensor | Iterable[Tensor],
        *,
        path: str | os.PathLike[str] | None = None,
        save_every: int | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> Memory:
        """The memory after also writing ``patterns``, (B, T) + E or (T,) + E, or a stream of such chunks.

        An iterable is written chunk by chunk in constant memory. All its chunks share one :class:`StreamRecord`. Larger
        chunks and larger blocks of the writer are faster. The options are for streams only.

        :param path: where the memory is saved during a stream and at its end, whole or not at all.
        :param save_every: chunks between two saves; by default 10.
        :param resume: go on from ``path`` as if there had been no stop. Call it on the same memory and with the same
            chunks; those already written are skipped.
        :param progress: show a progress bar.
        :raises ValueError: if the patterns do not fit the machine or this memory, the machine's writer cannot
            continue a memory, a stream is empty, ``path`` exists and is not to be resumed, or is not of this memory,
            or an option is given with a tensor.
        :raises FileNotFoundError: if there is no file to resume from.
        """
        if not isinstance(patterns, Tensor):
            return self._write_stream(
                patterns, path, SAVE_EVERY if save_every is None else save_every, resume, progress
            )
        if path is not None or save_every is not None or resume or progress:
            raise ValueError(
                "write(): path, save_every, resume and progress are options for streams; pass an iterable of chunks."
            )
        codes, result = self.encode_and_write(patterns, self.posterior)
        record = WriteRecord(codes, result.addresses, result.address_scale_tril)
        return self._with_posterior(result.memory, (*self.records, record))

    def _write_stream(
        self,
        chunks: Iterable[Tensor],
        path: str | os.PathLike[str] | None,
        save_every: int,
        resume: bool,
        progress: bool,
    ) -> Memory:
        check_at_least("write()", 1, save_every=save_every)
        check_continues(self.machine.writer)
        posterior, record = self.posterior, empty_stream_record(self.posterior)
        if resume:
            posterior, record = self._resumed(path)
        elif path is not None and Path(path).exists():
            raise ValueError(f"write(): {path} exists already. Go on from it with resume=True, or take another file.")

        def write_chunk(posterior: MatrixNormal, chunk: Tensor) -> tuple[MatrixNormal, NaturalParameters, int]:
            codes, result = self.encode_and_write(chunk, posterior)
            return result.memory, self.statistics_of(codes, result), codes.shape[-2]

        def save(posterior: MatrixNormal, record: StreamRecord) -> None:
            if path is not None:
                self._with_posterior(posterior, (*self.records, record)).save(path)

        posterior, record = write_chunks(posterior, record, chunks, write_chunk, save, save_every, progress)
        return self._with_posterior(posterior, (*self.records, record))

    def _resumed(self, path: str | os.PathLike[str] | None) -> tuple[MatrixNormal, StreamRecord]:
        """q(M) and the record of the stream in ``path``, which began at this memory."""
        if path is None:
            raise ValueError("write(): resume=True without a path; pass the file that holds the memory.")
        posterior, event_shape, records = storage.load_memory(path, self.machine)
        same = (event_shape, posterior.batch_shape) == (self.event_shape, self.posterior.batch_shape)
        if not same or not is_continued(records, self.records):
            raise ValueError(
                f"write(): {path} does not hold this memory with part of a stream written; resume from the file and "
                "with the memory of the first call, or take another file."
            )
        record = records[-1]
        assert isinstance(record, StreamRecord)
        return posterior, record

    def encode_and_write(self, patterns: Tensor, posterior: MatrixNormal) -> tuple[Tensor, WriteResult]:
        """The codes (B, T, C) of ``patterns``, and the writer's result of writing them into ``posterior``.

        :raises ValueError: as :meth:`write`.
        """
        patterns = self.check(patterns, "write()", "patterns")
        if self.records:
            check_continues(self.machine.writer)
        codes = self.machine.encode(patterns)
        return codes, self.machine.write_codes(codes, posterior)

    def statistics_of(self, codes: Tensor, result: WriteResult) -> NaturalParameters:
        """What a write added to the natural parameters: as the writer computed it, or from the addresses."""
        if result.statistics is not None:
            return result.statistics
        return statistics(result.addresses, codes, self.machine.code_scale, result.address_scale_tril)

    def _with_posterior(self, posterior: MatrixNormal, records: Sequence[Record]) -> Memory:
        return Memory(self.machine, posterior, self.event_shape, records)

    @torch.no_grad()
    def erase(self, record: Record) -> Memory:
        """The memory without one of its ``records``: the exact inverse of that write's update.

        ::

            U^-1 -= sum_t E[w_t w_t^T] / sigma^2,      U^-1 R -= sum_t E[w_t] z_t^T / sigma^2

        computed in float64 as the sum of what stays, which cancels no digits. Patterns that were written later keep
        their addresses.

        :raises ValueError: if the record is not one of this memory, or the records do not account for the memory.
        """
        if not any(record is other for other in self.records):
            raise ValueError("erase(): the record is not one of this memory; pass one of memory.records.")
        return self._from_records([other for other in self.records if other is not record], "erase()")

    @staticmethod
    @torch.no_grad()
    def merge(memories: Sequence[Memory]) -> Memory:
        """One memory with what all of ``memories`` hold, each written from the memory prior of one machine.

        Their natural parameters add up: the exact posterior given the addresses of each. For writers whose addresses
        do not depend on the memory, :class:`FrameWriter` and :class:`AmortizedWriter`, it is the memory of writing
        everything together. For others, addresses of one memory do not know of the other, and patterns of different
        memories may interfere.

        :raises ValueError: if there are no memories, they are of different machines or numbers of episodes, or the
            records of one do not account for it.
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
            memory._check_records("merge()")
        return first._from_records([record for memory in memories for record in memory.records], "merge()")

    def _from_records(self, records: Sequence[Record], caller: str) -> Memory:
        """The memory prior plus the statistics of ``records``; those of this memory must account for it."""
        self._check_records(caller)
        return self._with_posterior(self._rebuilt(records), records)

    def _check_records(self, caller: str) -> None:
        check_records(self._rebuilt(self.records), self.posterior, self.machine.writer, caller)

    def _rebuilt(self, records: Sequence[Record]) -> MatrixNormal:
        prior = moment_matched_memory(self.machine.memory_prior).expand(self.posterior.batch_shape)
        return posterior_from_records(prior, self.machine.code_scale, records)

    # ------------------------------------------------------------------ read, query, sample

    @torch.no_grad()
    def read(self, cues: Tensor) -> Tensor:
        """One-step reconstructions (B, Q) + E of ``cues`` (B, Q) + E: the mean of p(x | w, M); for categorical
        likelihoods the mode.

        M is the posterior mean, w the mean of the reader's q(w | cue, M).

        :raises ValueError: if the cues do not fit the machine or this memory.
        """
        cues = self.check(cues, "read()", "cues")
        address = point_address(self.machine.read_codes(self.machine.encode(cues), self.posterior.loc))
        return mean_and_mode(self.predict(address))[0]

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
        :param channel: how the cues came from the patterns, see :mod:`pyro_kanerva.channels`; with ``None``
            a cue is only the start of the paper's attractor dynamics.
        :param observed: bool, broadcastable to the cues; entries marked False carry no evidence. Without a
            channel, True entries are clamped to the cue and never change; with one, they are noisy evidence.
        :param tolerance: nats; a query counts as converged if its energy falls by no more.
        :param energy: by default :class:`PointEnergy`; :class:`VariationalEnergy` averages over addresses.
        :param matrix: M (B, K, C) to be queried, for example ``memory.posterior.sample()``; by default the
            posterior mean.
        :return: :class:`Retrieval`, with patterns (S + 1, B, Q) + E, the cue first; the energy never rises.
        :raises ValueError: if the cues do not fit the machine, this memory or the likelihood, the channel does
            not fit the likelihood, or an argument is out of range.

        The equations are in :mod:`pyro_kanerva.retrieval.energy`.
        """
        cues = self.check(cues, "query()", "cues")
        energy = PointEnergy() if energy is None else energy
        return query(self.machine, self._matrix(matrix), cues, num_steps, channel, observed, tolerance, energy)

    def sample(
        self,
        cues: Tensor,
        num_samples: int,
        *,
        burn_in: int = 10,
        channel: Channel | None = None,
        observed: Tensor | None = None,
        sample_memory: bool = False,
    ) -> sampling.Draws:
        """A Gibbs-style chain over pattern and address of every cue: how certain is a recalled pattern?

        Each sweep draws ``x ~ p(x | c, w, M)`` and ``w ~ q(w | x, M)`` from the reader. The draws are exact
        where q is, as in a linear-Gaussian machine; ``draws.patterns.std(0)`` is the posterior standard
        deviation of every entry.

        :param cues: (B, Q) + E, or (Q,) + E for a single memory; they also start the chain.
        :param num_samples: S, sweeps that are kept.
        :param burn_in: sweeps before them.
        :param channel: as in :meth:`query`.
        :param observed: as in :meth:`query`.
        :param sample_memory: draw ``M ~ q(M)`` before every sweep; else M is the posterior mean. The evidence of a
            cue about M is left out.
        :raises ValueError: as :meth:`query`, and if ``num_samples < 1`` or ``burn_in < 0``.
        """
        check_at_least("sample()", 1, num_samples=num_samples)
        check_at_least("sample()", 0, burn_in=burn_in)
        cues = self.check(cues, "sample()", "cues")
        return sampling.gibbs(
            self.machine, self.posterior, cues, num_samples, burn_in, channel, observed, sample_memory
        )

    @torch.no_grad()
    def log_evidence(self, patterns: Tensor, *, num_samples: int = 64) -> Tensor:
        r"""``log p(x | memory)`` of each of ``patterns`` (B, Q) + E, in nats, (B, Q): is it stored?

        ::

            log 1/S sum_s p(x | w_s, M_s) p(w_s) / q(w_s | x, M_s),    M_s ~ q(M), w_s ~ q(w | x, M_s)

        On average a lower bound, which tightens as ``num_samples`` grows. The difference to
        ``machine.prior_memory(B).log_evidence(patterns)`` is what the episode contributes, see
        :func:`pyro_kanerva.evaluation.familiarity`.

        :raises ValueError: if the patterns do not fit the machine or this memory, or ``num_samples < 1``.
        """
        check_at_least("log_evidence()", 1, num_samples=num_samples)
        patterns = self.check(patterns, "log_evidence()", "patterns")
        weights = [sampling.log_weights(self.machine, self.posterior, patterns) for _ in range(num_samples)]
        return torch.stack(weights).logsumexp(0) - math.log(num_samples)

    @torch.no_grad()
    def generate(self, num_samples: int, *, num_steps: int = 0, matrix: Tensor | None = None) -> Tensor:
        """New patterns (B, num_samples) + E: addresses from their prior, read from the memory.

        With ``num_steps=0`` these are the means of p(x | w, M); with more, the patterns at which a query
        without a channel arrives from their modes.

        :param matrix: M (B, K, C) to be read, by default the posterior mean. For a memory that holds nothing,
            ``machine.prior_memory()``, take a draw: ``memory.posterior.sample()``.
        :raises ValueError: if ``num_samples < 1`` or ``num_steps < 0``, or the matrix has another shape.
        """
        check_at_least("generate()", 1, num_samples=num_samples)
        check_at_least("generate()", 0, num_steps=num_steps)
        with autocast_off(self.posterior.loc):
            prior = as_distribution(self.machine.address_prior)
            address = prior.sample((*self.posterior.batch_shape, num_samples))
        entries = self.machine.predict(address, self._matrix(matrix), self.event_shape, sample_code=True)
        mean, mode = mean_and_mode(entries)
        if num_steps == 0:
            return mean
        return self.query(mode, num_steps=num_steps, matrix=matrix).patterns[-1]

    def predict(self, address: Tensor, *, matrix: Tensor | None = None) -> dist.TorchDistribution:
        """p(x | w, M) of every entry, (B, Q) + E, at addresses w (B, Q, K), for instance those of a query.

        Where codes are latent, it is that at their mean M^T w, as in queries and energies.

        :param matrix: M (B, K, C), by default the posterior mean.
        :raises ValueError: if an argument has another shape.
        """
        slots = self.machine.num_slots
        if address.dim() != 3 or address.shape[0] != self.posterior.batch_shape[0] or address.shape[2] != slots:
            raise ValueError(
                f"predict(): address has shape {tuple(address.shape)}; expected ({self.posterior.batch_shape[0]}, Q, "
                f"{slots}), episodes, addresses and slots."
            )
        return self.machine.predict(address, self._matrix(matrix), self.event_shape)

    def energy(
        self, address: Tensor, cues: Tensor, *, channel: Channel | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """The energy (B, Q) of addresses w (B, Q, K), in nats; differentiable in w.

        ``-log p(c | w, R) - log p(w)`` under a channel, else ``-log p(x | w, R) - log p(w)`` at x = ``cues``
        (B, Q) + E, see :mod:`pyro_kanerva.retrieval.energy`. At the addresses of a query this is its energy. A single
        pattern of each memory is compared with all addresses. ``observed`` counts with a channel only, as in the
        energy of a query.

        :raises ValueError: if the arguments do not fit.
        """
        cues = self.check(cues, "energy()", "cues")
        check_channel(channel, "energy()")
        entries = self.predict(address)
        prediction = entries.expand(torch.Size((1, *entries.batch_shape)))
        cues = cues.expand(entries.batch_shape)
        seen = torch.ones_like(cues, dtype=torch.bool) if observed is None else check_observed(observed, cues)
        known = None if channel is None else resolve(channel, cues, prediction, seen, entry_dims(cues))
        log_evidence = cue_log_evidence(cues, prediction, known, seen).squeeze(0)
        prior = as_distribution(self.machine.address_prior)
        if prior.has_enumerate_support:
            return -log_evidence - prior.log_prob(address)
        coordinates = real_coordinates(prior)
        return -log_evidence - coordinates.log_density(coordinates.inverse(address))

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

    # ------------------------------------------------------------------ files and checks

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this memory to a file, whole or not at all; the machine is not part of it."""
        storage.save_memory(path, self.machine, self.posterior, self.event_shape, self.records)

    @staticmethod
    def load(path: str | os.PathLike[str], machine: Parts) -> Memory:
        """Read a memory that :meth:`save` wrote, for the machine that wrote it.

        :raises FileNotFoundError: if there is no such file.
        :raises ValueError: if the file is broken, of another kind or version, unsafe, or of a machine with
            other parameters.
        """
        return Memory(machine, *storage.load_memory(path, machine))

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
