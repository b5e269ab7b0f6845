"""The stored memory: what was written, and what can be asked of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import check_at_least, check_dense, check_type, checks_values
from pyro_kanerva._files import PathLike
from pyro_kanerva._precision import autocast_off
from pyro_kanerva._repr import table
from pyro_kanerva.channels import Channel, check_channel, has_real_cues
from pyro_kanerva.conjugate import NaturalParameters, statistics
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.likelihoods import mean_and_mode
from pyro_kanerva.memory import recognition, sampling, storage
from pyro_kanerva.memory.records import (
    Index,
    Record,
    WriteRecord,
    account_for,
    as_labels,
    move,
    posterior_from_records,
    without,
)
from pyro_kanerva.memory.stream import write_stream
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution, moment_matched_memory, point_address
from pyro_kanerva.retrieval import Energy, PointEnergy, Retrieval
from pyro_kanerva.retrieval.query import query, query_energy
from pyro_kanerva.writers import WriteResult, check_continues, continues


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

    def __len__(self) -> int:
        """The number of patterns stored in each episode, by the records."""
        return sum(record.num_patterns for record in self.records)

    def __repr__(self) -> str:
        (batch,), (slots, size) = self.posterior.batch_shape, self.posterior.event_shape
        return f"Memory({batch} episodes of {len(self)} patterns {self.event_shape}, {slots} slots of code size {size})"

    def _repr_html_(self) -> str:
        """For notebooks: sizes, and what each record holds."""
        (batch,), (slots, size) = self.posterior.batch_shape, self.posterior.event_shape
        rows = [("episodes", str(batch)), ("pattern", str(self.event_shape)), ("slots, code size", f"{slots}, {size}")]
        for place, record in enumerate(self.records[:8]):
            rows.append((f"record {place}" if record.name is None else record.name, f"{record.num_patterns} patterns"))
        if len(self.records) > 8:
            rows.append(("more records", str(len(self.records) - 8)))
        return table("Memory", [*rows, ("stored", f"{len(self)} patterns in {slots} slots, in each episode")])

    @torch.no_grad()
    def write(
        self,
        patterns: Tensor | Iterable[Tensor],
        *,
        name: str | None = None,
        labels: Tensor | None = None,
        path: PathLike | None = None,
        save_every: int | None = None,
        resume: bool = False,
        progress: bool = False,
    ) -> Memory:
        """The memory after also writing ``patterns``, (B, T) + E or (T,) + E, or a stream of such chunks.

        An iterable is written chunk by chunk in constant memory. All its chunks share one :class:`StreamRecord`. Larger
        chunks and larger blocks of the writer are faster. ``path``, ``save_every``, ``resume`` and ``progress`` are for
        streams only.

        :param name: of the write, for :meth:`record`.
        :param labels: (B, T) or (T,), of any meaning, kept as ``record.labels`` (B, T); not for streams, whose patterns
            are not kept.
        :param path: where the memory is saved during a stream and at its end, whole or not at all.
        :param save_every: chunks between two saves; by default 10.
        :param resume: go on from ``path`` as if there had been no stop. Call it on the same memory and with the same
            chunks; those already written are skipped.
        :param progress: show a progress bar.
        :raises ValueError: if the patterns do not fit the machine or this memory, the machine's writer cannot
            continue a memory, a stream is empty, ``path`` exists and is not to be resumed, or is not of this memory,
            an option is given with a tensor, or labels with a stream or of another shape.
        :raises FileNotFoundError: if there is no file to resume from.
        """
        if not isinstance(name, str | None):
            raise ValueError(f"write(): name is a {type(name).__name__}; expected a string.")
        if not isinstance(patterns, Tensor):
            check_type("write(): patterns", patterns, Iterable, "a tensor, or an iterable of tensors")
            if labels is not None:
                raise ValueError(
                    "write(): labels with a stream, whose patterns are not kept; pass a tensor of patterns."
                )
            save_every = 10 if save_every is None else save_every
            stored = write_stream(
                self.machine, self._stored(), patterns, self.write_chunk, path, save_every, resume, progress, name
            )
            return Memory(self.machine, *stored)
        if path is not None or save_every is not None or resume or progress:
            raise ValueError(
                "write(): path, save_every, resume and progress are options for streams; pass an iterable of chunks."
            )
        codes, result = self._encode_and_write(patterns, self.posterior)
        if labels is not None:
            labels = as_labels(labels, codes)
        record = WriteRecord(codes, result.addresses, result.address_scale_tril, name, labels)
        return Memory(self.machine, result.memory, self.event_shape, (*self.records, record))

    def _encode_and_write(self, patterns: Tensor, posterior: MatrixNormal) -> tuple[Tensor, WriteResult]:
        patterns = self.check(patterns, "write()", "patterns")
        # A memory that was loaded without records may hold patterns too.
        if self.records or not (continues(self.machine.writer) or self._is_made_of(())):
            check_continues(self.machine.writer)
        codes = self.machine.encode(patterns)
        return codes, self.machine.write_codes(codes, posterior)

    @torch.no_grad()
    def write_chunk(self, posterior: MatrixNormal, chunk: Tensor) -> tuple[MatrixNormal, NaturalParameters, int]:
        """q(M) after writing a chunk into ``posterior``, the statistics that it added, and its number of patterns."""
        codes, result = self._encode_and_write(chunk, posterior)
        part = result.statistics
        if part is None:
            part = statistics(result.addresses, codes, self.machine.code_scale, result.address_scale_tril)
        return result.memory, part, codes.shape[-2]

    def _stored(self) -> storage.StoredMemory:
        return storage.StoredMemory(self.posterior, self.event_shape, self.records)

    def record(self, name: str) -> Record:
        """The record that was written with this ``name``.

        :raises ValueError: if no record has this name, or several have.
        """
        found = [record for record in self.records if record.name == name]
        if len(found) != 1:
            names = [record.name for record in self.records]
            raise ValueError(
                f"record(): {len(found)} records have the name {name!r}; expected one. The names are {names}; "
                "memory.records has all records in order."
            )
        return found[0]

    @torch.no_grad()
    def erase(self, record: Record, index: Index | None = None) -> Memory:
        """The memory without one of its ``records``, or without some patterns of it: the exact inverse of their update.

        ::

            U^-1 -= sum_t E[w_t w_t^T] / sigma^2,      U^-1 R -= sum_t E[w_t] z_t^T / sigma^2

        over the erased patterns t, computed in float64 by adding the statistics of all others, so that no digits
        cancel. The other patterns of the record, and those that were written later, keep their addresses. In the new
        memory, a record without the erased patterns takes the place of the old record, with its name.

        :param index: which patterns of the record: an integer, a list or vector of integers, or a bool mask, True for
            patterns to erase, (T,) or (B, T) with as many patterns in each episode. By default all.
        :raises ValueError: if the record is not one of this memory, the records do not account for the memory, the
            index does not fit, or there is an index for a :class:`StreamRecord`, which keeps no single patterns.
        """
        if not any(record is other for other in self.records):
            raise ValueError(
                "erase(): the record is not one of this memory; pass one of memory.records. A memory without some "
                "patterns of a record has a new record of the others."
            )
        rest = None if index is None else without(record, index)
        self._check_records("erase()")
        place = [other is record for other in self.records].index(True)
        kept = () if rest is None else (rest,)
        return self._with_records((*self.records[:place], *kept, *self.records[place + 1 :]))

    @staticmethod
    @torch.no_grad()
    def merge(memories: Sequence[Memory]) -> Memory:
        """One memory with what all of ``memories`` hold, each written from the memory prior of one machine.

        Their natural parameters add up: the exact posterior given the addresses of each. For writers whose addresses
        do not depend on the memory, :class:`FrameWriter` and :class:`AmortizedWriter`, it is the memory of writing
        everything together. For other writers, the addresses in one memory were inferred without the others, so that
        patterns of different memories may interfere.

        :raises ValueError: if there are no memories, they are of different machines or numbers of episodes, two hold
            the same write, or the records of one do not account for it.
        """
        check_type("merge(): memories", memories, Sequence, "a list of memories")
        for memory in memories:
            check_type("merge(): one of memories", memory, Memory, "a Memory")
        if not memories:
            raise ValueError("merge(): there are no memories; expected at least one.")
        first = memories[0]
        for other in memories:
            if other.machine is not first.machine or other.event_shape != first.event_shape:
                raise ValueError("merge(): the memories belong to different machines, whose codes mean something else.")
            if other.posterior.batch_shape != first.posterior.batch_shape:
                raise ValueError(
                    f"merge(): the memories have {first.posterior.batch_shape[0]} and {other.posterior.batch_shape[0]} "
                    "episodes; expected equal numbers."
                )
            other._check_records("merge()")
        records = [record for memory in memories for record in memory.records]
        if len({id(record) for record in records}) < len(records):
            raise ValueError(
                "merge(): a record occurs twice, and its patterns would count twice. Pass each memory once, and erase "
                "a record that two memories share from one of them."
            )
        return first._with_records(records)

    def _check_records(self, caller: str) -> None:
        """:raises ValueError: if the records do not account for the memory."""
        if not self._is_made_of(self.records):
            raise ValueError(
                f"{caller}: the memory is not the memory prior plus the statistics of its records, so its writes "
                f"cannot be told apart. Either {type(self.machine.writer).__name__} does not add statistics "
                "(OnlineWriter does), or the machine was trained since, or the memory did not start from its prior, "
                "or it was saved in a smaller dtype or without records. Write the patterns that are to stay."
            )

    def _is_made_of(self, records: Sequence[Record]) -> bool:
        return account_for(self._with_records(records).posterior, self.posterior)

    def _with_records(self, records: Sequence[Record]) -> Memory:
        """The memory prior plus the statistics of ``records``."""
        prior = moment_matched_memory(self.machine.memory_prior).expand(self.posterior.batch_shape)
        posterior = posterior_from_records(prior, self.machine.code_scale, records)
        return Memory(self.machine, posterior, self.event_shape, records)

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
        check_channel(channel, "query()")
        cues = self.check(cues, "query()", "cues", has_real_cues(channel))
        energy, matrix = PointEnergy() if energy is None else energy, self._matrix(matrix)
        with torch.no_grad():
            function = query_energy(self.machine, matrix, cues, channel, observed, energy)
        return query(function, num_steps, tolerance)

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

        Each sweep draws ``x ~ p(x | c, w, M)`` and ``w ~ q(w | x, M)`` from the reader. The draws are exact where q is,
        as in a linear-Gaussian machine; ``draws.patterns.std(0)`` is the posterior standard deviation of every entry.

        :param cues: (B, Q) + E, or (Q,) + E for a single memory; they also start the chain.
        :param num_samples: S, sweeps that are kept.
        :param burn_in: sweeps before them.
        :param channel: as in :meth:`query`.
        :param observed: as in :meth:`query`.
        :param sample_memory: draw ``M ~ q(M)`` before every sweep; else M is its mean. The cue does not update q(M).
        :raises ValueError: as :meth:`query`, and if ``num_samples < 1`` or ``burn_in < 0``.
        """
        check_at_least("sample()", 1, num_samples=num_samples)
        check_at_least("sample()", 0, burn_in=burn_in)
        cues = self.check(cues, "sample()", "cues", has_real_cues(channel))
        return sampling.gibbs(
            self.machine, self.posterior, cues, num_samples, burn_in, channel, observed, sample_memory
        )

    @torch.no_grad()
    def log_evidence(self, patterns: Tensor, *, num_samples: int = 64) -> Tensor:
        r"""``log p(x | memory)`` of each of ``patterns`` (B, Q) + E, in nats, (B, Q).

        ::

            log 1/S sum_s p(x | w_s, M_s) p(w_s) / q(w_s | x, M_s),    M_s ~ q(M), w_s ~ q(w | x, M_s)

        On average a lower bound, which tightens as ``num_samples`` grows. The difference to
        ``machine.prior_memory(B).log_evidence(patterns)`` is what the episode contributes. :meth:`recognize` says which
        patterns are stored.

        :raises ValueError: if the patterns do not fit the machine or this memory, or ``num_samples < 1``.
        """
        check_at_least("log_evidence()", 1, num_samples=num_samples)
        patterns = self.check(patterns, "log_evidence()", "patterns")
        weights = [sampling.log_weights(self.machine, self.posterior, patterns) for _ in range(num_samples)]
        return torch.stack(weights).logsumexp(0) - math.log(num_samples)

    @torch.no_grad()
    def recognize(self, patterns: Tensor, held_out: Tensor, false_alarms: float = 0.01) -> recognition.Recognition:
        """Which of ``patterns`` are stored, rather than other patterns like these?

        The score is :func:`pyro_kanerva.evaluation.familiarity`, in nats. A pattern is called stored if its score is
        above all but the share ``false_alarms`` of those of ``held_out``. If one more pattern like these is not stored,
        it is called stored with a probability of at most ``false_alarms``. See
        :func:`pyro_kanerva.memory.recognize_scores` for the threshold, and for damaged cues.

        :param patterns: (B, Q) + E, or (Q,) + E for a single memory.
        :param held_out: patterns like these that are not stored, (B, N) + E, or (N,) + E for all memories. Where
            ``patterns`` are damaged or recalled, these must be so too.
        :raises ValueError: if the patterns do not fit the machine or this memory, ``false_alarms`` is not between 0 and
            1, or N is less than ``1 / false_alarms - 1``: 99 for the default.
        """
        patterns = self.check(patterns, "recognize()", "patterns")
        (batch,) = self.posterior.batch_shape
        held_out = self.machine.check_patterns(held_out, "recognize()", "held_out", self.event_shape)
        if len(held_out) == 1:
            held_out = held_out.expand(batch, *held_out.shape[1:])
        held_out = self.check(held_out, "recognize()", "held_out")
        recognition.check_false_alarms(false_alarms, held_out.shape[1])
        scores = [
            recognition.code_log_bayes_factor(self.machine, self.posterior, self.machine.encode(x))
            for x in (patterns, held_out)
        ]
        return recognition.recognize_scores(scores[0], scores[1], false_alarms)

    @torch.no_grad()
    def identify(self, patterns: Tensor) -> recognition.Identification:
        """Which stored pattern is nearest to each of ``patterns`` (B, Q) + E?

        ::

            argmin_t |z - z_t|,    z the code of the pattern, z_t the codes in the records

        Distances of codes identify more patterns than distances or densities of addresses do, see the page of recall.
        Every pattern has a nearest one: :meth:`recognize` says whether it is stored at all. Streams keep no codes, so
        their patterns are not found.

        :raises ValueError: if the patterns do not fit the machine or this memory, or no record keeps codes.
        """
        codes = self.machine.encode(self.check(patterns, "identify()", "patterns"))
        with autocast_off(codes):
            return recognition.nearest_code(self.records, codes, self.machine.code_scale)

    @torch.no_grad()
    def generate(self, num_samples: int, *, num_steps: int = 0, matrix: Tensor | None = None) -> Tensor:
        """New patterns (B, num_samples) + E: addresses from their prior, read from the memory.

        With ``num_steps=0`` these are the means of p(x | w, M); with more, the results of a
        query without a channel that starts at their modes.

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
        self._check_address(address, "predict()")
        return self.machine.predict(address, self._matrix(matrix), self.event_shape)

    def energy(
        self, address: Tensor, cues: Tensor, *, channel: Channel | None = None, observed: Tensor | None = None
    ) -> Tensor:
        """The energy (B, Q) of addresses w (B, Q, K), in nats; differentiable in w.

        ``-log p(c | w, R) - log p(w)`` under a channel, else ``-log p(x | w, R) - log p(w)`` at x = ``cues``
        (B, Q) + E, see :mod:`pyro_kanerva.retrieval.energy`. At the addresses of a query with :class:`PointEnergy` it
        equals the energy of the query. A single cue of each memory is compared with all addresses. Without a channel,
        ``observed`` is ignored.

        :raises ValueError: if the arguments do not fit.
        """
        cues = self.check(cues, "energy()", "cues", has_real_cues(channel))
        self._check_address(address, "energy()")
        check_channel(channel, "energy()")
        cues = cues.expand(*address.shape[:2], *self.event_shape)
        return query_energy(self.machine, self.posterior.loc, cues, channel, observed, PointEnergy()).at(address)

    def _check_address(self, address: Tensor, caller: str) -> None:
        slots = self.machine.num_slots
        check_dense(f"{caller}: address", address, self.posterior.loc.dtype)
        if address.dim() != 3 or address.shape[0] != self.posterior.batch_shape[0] or address.shape[2] != slots:
            raise ValueError(
                f"{caller}: address has shape {tuple(address.shape)}; expected ({self.posterior.batch_shape[0]}, Q, "
                f"{slots}), episodes, addresses and slots."
            )
        if checks_values() and not bool(address.isfinite().all()):  # a mean may be outside the support of the prior
            raise ValueError(f"{caller}: address has NaN or infinite entries; expected finite numbers.")

    def _matrix(self, matrix: Tensor | None) -> Tensor:
        loc = self.posterior.loc
        if matrix is None:
            return loc
        check_dense("matrix", matrix)
        if (matrix.shape, matrix.dtype, matrix.device) != (loc.shape, loc.dtype, loc.device):
            raise ValueError(
                f"matrix is {matrix.dtype} on {matrix.device} of shape {tuple(matrix.shape)}; expected {loc.dtype} on "
                f"{loc.device} of shape {tuple(loc.shape)}, as memory.posterior.sample() is."
            )
        if checks_values() and not bool(matrix.isfinite().all()):
            raise ValueError("matrix has NaN or infinite entries; expected finite numbers.")
        return matrix

    @torch.no_grad()
    def to(self, *args: Any, **kwargs: Any) -> Memory:
        """The memory on another device or in another dtype; the arguments are those of :meth:`torch.Tensor.to`.

        Move the machine as well, to the same device and dtype: ``machine.cuda()`` and ``memory.to("cuda")``.

        :raises ValueError: if the dtype is not floating point.
        """
        stored = self.posterior.loc
        reference = stored.new_empty(0).to(*args, **kwargs)
        if (reference.dtype, reference.device) == (stored.dtype, stored.device):
            return self
        if not reference.is_floating_point():
            raise ValueError(f"to(): dtype is {reference.dtype}; expected a floating point type, that of the machine.")
        factor = self.posterior.scale_tril_row.to(reference)
        posterior = MatrixNormal(stored.to(reference), factor, validate_args=False)
        return Memory(self.machine, posterior, self.event_shape, [move(record, reference) for record in self.records])

    def save(self, path: PathLike, *, dtype: torch.dtype | None = None, records: bool = True) -> None:
        """Write this memory to a file, whole or not at all; the machine is not part of it.

        A smaller ``dtype`` makes the file smaller. :meth:`load` returns the memory in the dtype of the machine again.
        Each number x of the mean R (K, C), of the Cholesky factor of U, and of the records is rounded:

        - ``torch.float16``: ``|error| <= 2^-11 |x|``; numbers below 6e-5 become multiples of 6e-8.
        - ``torch.bfloat16``: ``|error| <= 2^-8 |x|``.
        - ``torch.int8``: ``|error| <= max_c |R[k, c]| / 254`` in row k of R, which has a scale of its own; the factor
          of U and the records are in float16.

        :param dtype: ``torch.float64``, ``float32``, ``float16``, ``bfloat16`` or ``int8``; by default that of the
            memory.
        :param records: store the records, T (K + C) numbers of an episode, and the sums of a stream in float64. Without
            them the size of the file does not depend on T, and the loaded memory has no names, no labels, and
            nothing to :meth:`erase`, :meth:`merge` or :meth:`identify`. With records and a smaller dtype,
            :meth:`identify` works as before. :meth:`erase` and :meth:`merge` need records that account for the memory
            to 1e-3, and may refuse it after the rounding.
        :raises ValueError: if ``dtype`` is another one, or a number does not fit into its range.
        """
        storage.save_memory(path, self.machine, self._stored(), dtype, records)

    @staticmethod
    def load(path: PathLike, machine: Parts) -> Memory:
        """Read a memory that :meth:`save` wrote, for the machine that wrote it.

        :raises FileNotFoundError: if there is no such file.
        :raises ValueError: if the file is broken, of another kind or version, unsafe, or of a machine with
            other parameters.
        """
        return Memory(machine, *storage.load_memory(path, machine))

    def check(self, patterns: Tensor, caller: str, name: str, any_real: bool = False) -> Tensor:
        """``patterns`` as (B, Q) + E, or a ``ValueError`` that says why they do not fit this memory.

        :param any_real: as for :meth:`Parts.check_patterns`.
        """
        patterns = self.machine.check_patterns(patterns, caller, name, self.event_shape, any_real=any_real)
        (batch,) = self.posterior.batch_shape
        stored, reference = self.posterior.loc, self.machine.log_code_scale
        if (stored.dtype, stored.device) != (reference.dtype, reference.device):
            raise ValueError(
                f"{caller}: the memory is {stored.dtype} on {stored.device}, its machine is now {reference.dtype} on "
                f"{reference.device}. Move the memory: memory.to({str(reference.device)!r}, {reference.dtype})."
            )
        if patterns.shape[0] != batch:
            raise ValueError(
                f"{caller}: {name} have {patterns.shape[0]} episodes (shape {tuple(patterns.shape)}); expected "
                f"{batch}, one for each memory."
            )
        return patterns
