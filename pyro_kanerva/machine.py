"""The Kanerva machine: a Pyro model with a memory and addresses, and the guide that writes and reads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva import _checks, programs
from pyro_kanerva._precision import full_precision
from pyro_kanerva.bound import Bound
from pyro_kanerva.likelihoods import BernoulliLikelihood
from pyro_kanerva.matrix_normal import MatrixNormal
from pyro_kanerva.priors import GaussianAddress, Prior, as_distribution, divergence, gaussian_memory
from pyro_kanerva.programs import Program
from pyro_kanerva.readers import reader_for
from pyro_kanerva.writers import WriteResult, writer_for

if TYPE_CHECKING:
    from pyro_kanerva.memory import Memory

_instances = itertools.count()


class KanervaMachine(nn.Module):
    r"""The Dynamic Kanerva Machine as a Pyro model and guide.

    ::

        M   ~ memory_prior                          (K, C), one per episode
        w_t ~ address_prior                         (K,), one per pattern
        x_t ~ likelihood(decoder(M^T w_t))          the patterns of an episode are exchangeable

    and, in the guide, with the codes ``z_t = encoder(x_t)`` and ``sigma = code_scale``::

        M   ~ writer(z_1 ... z_T)                   an amortized variational posterior of the memory
        w_t ~ reader(z_t, M)

    :param encoder: patterns (N,) + E -> codes (N, C); a module or callable. Its attribute ``event_shape``,
        if it has one, is E; without it, patterns need all their dimensions (B, T) + E.
    :param decoder: codes (N, C) -> the parameters that ``likelihood`` expects; a module or callable.
    :param memory_prior: a Pyro distribution of event shape (K, C), or a callable that returns one.
    :param address_prior: likewise of event shape (K,); by default :class:`GaussianAddress`.
    :param likelihood: callable from decoder output to a Pyro distribution of the pattern's entries; by
        default :class:`BernoulliLikelihood`.
    :param writer: by default one that fits the address prior: ``OnlineWriter(block_size=8, sweeps=1)``, or
        :class:`SlotWriter`, or :class:`ReadingWriter`.
    :param reader: likewise: :class:`ExactReader`, :class:`SlotReader`, or :class:`LaplaceReader`.
    :param code_posterior: makes the codes latent, as in the 2018 Kanerva Machine: ``z_t ~ Normal(M^T w_t,
        sigma^2 I)`` is decoded, and this callable returns q(z | x), of event shape (C,), from the code of x;
        see :class:`GaussianCode`. By default the code that is decoded is ``M^T w_t``.
    :param code_scale: where the learned ``sigma`` starts, the standard deviation of the code noise in
        the linear-Gaussian surrogate of writer and reader. It is part of the generative model only with
        ``code_posterior``.
    :raises ValueError: if ``code_scale`` is not positive, or the priors have other event shapes, different
        numbers of slots, or a batch shape.

    Source: Wu, Wayne, Gregor, Lillicrap 2018 (arXiv 1811.09556).
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        decoder: Callable[[Tensor], Tensor],
        *,
        memory_prior: Prior,
        address_prior: Prior | None = None,
        likelihood: Callable[[Tensor], dist.TorchDistribution] | None = None,
        writer: Callable[[Tensor, MatrixNormal, Tensor], WriteResult] | None = None,
        reader: Callable[[Tensor, Tensor, dist.TorchDistribution, Tensor], dist.TorchDistribution] | None = None,
        code_posterior: Callable[[Tensor], dist.TorchDistribution] | None = None,
        code_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < code_scale < math.inf:
            raise ValueError(f"KanervaMachine: code_scale is {code_scale}; expected a positive standard deviation.")
        self.num_slots, self.code_size = _checks.event_shape_of("memory_prior", memory_prior, rank=2)
        address_prior = GaussianAddress(self.num_slots) if address_prior is None else address_prior
        address_shape = _checks.event_shape_of("address_prior", address_prior, rank=1)
        if address_shape != (self.num_slots,):
            raise ValueError(
                f"KanervaMachine: address_prior has event shape {address_shape}; expected "
                f"({self.num_slots},), the number of slots of memory_prior."
            )
        _checks.check_address_prior(as_distribution(address_prior))
        self.encoder, self.decoder = encoder, decoder
        self.memory_prior, self.address_prior = memory_prior, address_prior
        self.likelihood = BernoulliLikelihood() if likelihood is None else likelihood
        self.writer = writer_for(address_prior) if writer is None else writer
        self.reader = reader_for(as_distribution(address_prior)) if reader is None else reader
        self.code_posterior = code_posterior
        _checks.warn_of_equal_slots(self)
        self.log_code_scale = nn.Parameter(torch.tensor(float(code_scale)).log())
        self._compiled: dict[str, tuple[Any, Callable[..., Any]]] = {}
        self._name_in_param_store()

    def _name_in_param_store(self) -> None:
        # Two modules of equal name would share, or silently freeze, their parameters.
        self._key = f"kanerva_machine_{next(_instances)}"

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro's store leaves weak references there, which cannot be pickled
            vars(parameter).pop("unconstrained", None)
        return {**super().__getstate__(), "_compiled": {}}  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:  # copies and unpickled machines are new instances
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._name_in_param_store()

    @property
    def code_scale(self) -> Tensor:
        """``sigma``, a standard deviation, shape ()."""
        return self.log_code_scale.exp()

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """E as the encoder states it, or None."""
        shape = getattr(self.encoder, "event_shape", None)
        return None if shape is None else tuple(shape)

    @property
    def model(self) -> Program:
        """The generative model: ``model(patterns)`` with patterns (B, T) + E.

        Sites "memory" (batch (B, 1), event (K, C)), "address" (batch (B, T), event (K,)) and "pattern"
        (observed); plates "episode" (dim -2) and "pattern_plate" (dim -1).
        """
        return Program(self, programs.model)

    @property
    def guide(self) -> Program:
        """The guide: writes all patterns into q(M), then reads q(w_t | x_t, M)."""
        return Program(self, programs.guide)

    def training_pair(
        self,
        autoencoder_weight: float = 1.0,
        memory_kl_weight: float = 1.0,
        cue_channel: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Program, Program]:
        """The (model, guide) to train: the bound and what helps to learn it.

        :param autoencoder_weight: adds this times ``log p(x | decoder(encoder(x)))``, which keeps the
            decoder an inverse of the encoder. It is a factor of the guide, where the codes are at hand.
        :param memory_kl_weight: multiplies KL(q(M) || p(M)); below 1 the memory keeps more information,
            at the price of a lower bound.
        :param cue_channel: addresses are inferred from damaged copies ``cue_channel(patterns)``; still a
            valid guide.
        :raises ValueError: if a weight is negative.

        With ``(0, 1, None)`` these are :attr:`model` and :attr:`guide`.
        """
        for name, weight in (("autoencoder_weight", autoencoder_weight), ("memory_kl_weight", memory_kl_weight)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"training_pair(): {name} is {weight}; expected a number of at least 0.")
        return (
            Program(self, programs.model, memory_kl_weight=memory_kl_weight),
            Program(
                self,
                programs.guide,
                autoencoder_weight=autoencoder_weight,
                memory_kl_weight=memory_kl_weight,
                cue_channel=cue_channel,
            ),
        )

    def compile(self, *parts: str, **options: Any) -> None:
        """Run ``parts`` through ``torch.compile(..., **options)`` from now on.

        Names in ``state_dict()`` stay as they are; copies and pickled machines are not compiled. It takes a minute, and
        again for each new shape of patterns: measure before use. A matrix that cannot be factorized raises torch's own
        error.

        :param parts: of ``"encoder"``, ``"decoder"``, ``"writer"`` and ``"reader"``; by default all.
        :raises ValueError: if there is no such part.
        """
        names = ("encoder", "decoder", "writer", "reader")
        if not set(parts) <= set(names):
            raise ValueError(f"compile(): parts are {parts}; expected some of {names}.")
        for name in parts or names:
            part = getattr(self, name)
            self._compiled[name] = part, torch.compile(part, **options)

    def _part(self, name: str) -> Callable[..., Any]:
        part = getattr(self, name)
        before, compiled = self._compiled.get(name, (part, part))
        return compiled if before is part else part

    def release(self) -> None:
        """Remove this machine's parameters from Pyro's global parameter store, which keeps them alive."""
        store = pyro.get_param_store()
        for name in [name for name in store if name.startswith(f"{self._key}$$$")]:
            del store[name]

    def check_patterns(
        self, patterns: Tensor, caller: str, name: str = "patterns", event_shape: tuple[int, ...] | None = None
    ) -> Tensor:
        """``patterns`` as (B, T) + E, or a ``ValueError`` that says what is wrong with them.

        A single episode (T,) + E becomes B = 1 where E is known, from ``event_shape`` or the encoder.
        """
        return _checks.check_patterns(self, patterns, caller, name, event_shape)

    def encode(self, patterns: Tensor) -> Tensor:
        """Codes (B, T, C) of patterns (B, T) + E.

        :raises ValueError: if the encoder returns another shape, or NaN or infinite codes.
        """
        codes = _checks.apply(
            "encoder", self._part("encoder"), patterns.flatten(0, 1), "Build the encoder for patterns of this shape."
        )
        expected = (patterns.shape[0] * patterns.shape[1], self.code_size)
        if tuple(codes.shape) != expected:
            raise ValueError(
                f"The encoder returned codes of shape {tuple(codes.shape)}; expected {expected}, with the code "
                "size of memory_prior. Build both for the same code_size."
            )
        if _checks.checks_values() and not bool(codes.isfinite().all()):
            raise ValueError(
                "The encoder returned NaN or infinite codes. If training diverged, lower the learning rate and "
                "resume from an earlier checkpoint."
            )
        return codes.reshape(*patterns.shape[:2], self.code_size)

    def predict(self, codes: Tensor, event_shape: tuple[int, ...]) -> dist.TorchDistribution:
        """The likelihood of patterns at ``codes`` (..., C): a distribution of the entries, (...) + E.

        :raises ValueError: if the decoder cannot take codes of this size, or the likelihood of its output
            is not one of patterns of ``event_shape``.
        """
        return self.likelihood_of(self.decoder_output(codes), (*codes.shape[:-1], *event_shape))

    def decoder_output(self, codes: Tensor) -> Tensor:
        """What the decoder makes of ``codes`` (..., C): the parameters that the likelihood expects, (...) + theirs."""
        remedy = f"Build the decoder for code_size {self.code_size}, that of memory_prior."
        output = _checks.apply("decoder", self._part("decoder"), codes.reshape(-1, codes.shape[-1]), remedy)
        return output.reshape(*codes.shape[:-1], *output.shape[1:])

    def likelihood_of(self, output: Tensor, expected: tuple[int, ...]) -> dist.TorchDistribution:
        """The likelihood of the decoder's ``output``, checked to be one of entries of shape ``expected``."""
        entries = self.likelihood(output)
        shape = tuple(entries.batch_shape + entries.event_shape)
        if shape != expected:
            raise ValueError(f"Decoder and likelihood give shape {shape}; expected {expected}, that of the patterns.")
        return entries

    def decode(self, codes: Tensor, event_shape: tuple[int, ...]) -> dist.TorchDistribution:
        """:meth:`predict` with the dimensions of a pattern declared as event: batch (...), event E.

        :raises ValueError: as :meth:`predict`, and if the decoder's output is NaN or infinite.
        """
        output = self.decoder_output(codes)
        if _checks.checks_values() and not bool(output.isfinite().all()):
            raise ValueError(
                "The decoder returned NaN or infinite values. If training diverged, lower the learning rate and resume "
                "from an earlier checkpoint."
            )
        entries = self.likelihood_of(output, (*codes.shape[:-1], *event_shape))
        return entries.to_event(len(entries.batch_shape) - (codes.dim() - 1))

    @full_precision
    def write_codes(self, codes: Tensor, prior: dist.TorchDistribution | None = None) -> WriteResult:
        """q(M) after writing ``codes`` (B, T, C) into ``prior``, by default the memory prior.

        :raises ValueError: if the prior is of another dtype or device, or the writer's result of another shape.
        """
        gaussian = gaussian_memory(self.memory_prior if prior is None else prior)
        if (gaussian.loc.dtype, gaussian.loc.device) != (codes.dtype, codes.device):
            raise ValueError(
                f"The memory is {gaussian.loc.dtype} on {gaussian.loc.device}, the machine {codes.dtype} on "
                f"{codes.device}; expected the same. A prior that is a plain distribution is not moved with the "
                "machine: build it anew. A stored memory is moved by saving and loading it."
            )
        result = self._part("writer")(codes, gaussian, self.code_scale)
        shapes = tuple(result.memory.batch_shape), tuple(result.memory.event_shape), tuple(result.addresses.shape)
        batch, expected = tuple(codes.shape[:-2]), (self.num_slots, self.code_size)
        if shapes != (batch, expected, (*codes.shape[:-1], self.num_slots)):
            raise ValueError(
                f"The writer returned a memory of batch and event shape {shapes[0]}, {shapes[1]} and addresses "
                f"{shapes[2]}; expected {batch}, {expected} and {(*codes.shape[:-1], self.num_slots)}."
            )
        return result

    @full_precision
    def write_patterns(
        self, patterns: Tensor, codes: Tensor, memory: MatrixNormal | None = None, *, continued: bool = False
    ) -> WriteResult:
        """:meth:`write_codes`, and the refinement of a writer that also wants the patterns (B, T) + E.

        A refinement counts the KL from ``memory`` if that is ``continued``, else from the memory prior.
        """
        result = self.write_codes(codes, memory)
        refine = getattr(self.writer, "refine", None)
        if refine is None:
            return result
        return refine(self, patterns, codes, result, memory if continued else None)

    def read_code_posterior(self, codes: Tensor) -> dist.TorchDistribution:
        """q(z | x), batch (..., T) and event (C,), for codes (..., T, C), where codes are latent.

        :raises ValueError: if ``code_posterior`` returns another shape.
        """
        assert self.code_posterior is not None
        result = self.code_posterior(codes)
        if (result.batch_shape, result.event_shape) != (codes.shape[:-1], codes.shape[-1:]):
            raise ValueError(
                f"code_posterior returned batch and event shape {tuple(result.batch_shape)}, "
                f"{tuple(result.event_shape)}; expected {tuple(codes.shape[:-1])}, {tuple(codes.shape[-1:])}. Declare "
                "event dimensions with .to_event(1)."
            )
        return result

    def draw_code(self, loc: Tensor) -> Tensor:
        """The codes to decode at ``loc`` = M^T w (..., C): a draw where codes are latent, else ``loc`` itself."""
        return loc if self.code_posterior is None else self.code_prior(loc).sample()

    def code_prior(self, loc: Tensor) -> dist.TorchDistribution:
        """``p(z | w, M) = Normal(M^T w, sigma^2 I)`` at means ``loc`` (..., C), where codes are latent."""
        return dist.Normal(loc, self.code_scale, validate_args=False).to_event(1)

    @full_precision
    def read_codes(self, codes: Tensor, memory: Tensor) -> dist.TorchDistribution:
        """q(w | x, M), batch (..., T), for codes (..., T, C) and a known memory (..., K, C).

        :raises ValueError: if the reader's result is of another shape or support than the address prior.
        """
        prior = as_distribution(self.address_prior)
        result = self._part("reader")(codes, memory, prior, self.code_scale)
        _checks.check_support(result, prior)
        batch = torch.broadcast_shapes(codes.shape[:-2], memory.shape[:-2]) + codes.shape[-2:-1]
        if (result.batch_shape, result.event_shape) != (batch, (self.num_slots,)):
            raise ValueError(
                f"The reader returned batch and event shape {tuple(result.batch_shape)}, {tuple(result.event_shape)}; "
                f"expected {tuple(batch)}, ({self.num_slots},)."
            )
        return result

    @full_precision
    def write(self, patterns: Tensor | Iterable[Tensor], memory: Memory | None = None, **stream: Any) -> Memory:
        """The posterior memory after writing ``patterns``, (B, T) + E or (T,) + E, or a stream of such chunks.

        :param memory: an earlier result to continue from; by default the memory prior.
        :param stream: options for streams, see :meth:`Memory.write`.
        :raises ValueError: if the patterns do not fit the machine or the memory.
        """
        if memory is not None:
            if memory.machine is not self:
                raise ValueError("write(): memory belongs to another machine, whose codes mean something else.")
            return memory.write(patterns, **stream)
        held: list[object] = [patterns]
        if not isinstance(patterns, Tensor):
            chunks = iter(patterns)
            held = [next(chunks, None)]

            def stream_of_chunks() -> Iterator[Any]:
                yield held.pop()  # which is not kept
                yield from chunks

            patterns = stream_of_chunks()
        if not isinstance(held[0], Tensor):
            raise ValueError(f"write(): the stream begins with a {type(held[0]).__name__}; expected a tensor.")
        shape = self.check_patterns(held[0], "write()").shape
        return self._prior_memory(shape[0], tuple(shape[2:])).write(patterns, **stream)

    def prior_memory(self, num_episodes: int = 1) -> Memory:
        """B memories in which nothing is stored, q(M) = p(M) or the Gaussian that stands for it.

        :raises ValueError: if ``num_episodes < 1``, or the encoder does not state its ``event_shape``.
        """
        if num_episodes < 1:
            raise ValueError(f"prior_memory(): num_episodes is {num_episodes}; expected at least 1.")
        if self.event_shape is None:
            raise ValueError(
                "prior_memory(): the encoder has no attribute event_shape, the shape of a pattern; set it."
            )
        return self._prior_memory(num_episodes, self.event_shape)

    @torch.no_grad()
    def _prior_memory(self, num_episodes: int, event_shape: tuple[int, ...]) -> Memory:
        from pyro_kanerva.memory import Memory

        prior = gaussian_memory(self.memory_prior).expand((num_episodes,))
        return Memory(self, prior, event_shape)

    @full_precision
    def bound(self, patterns: Tensor, num_particles: int = 1) -> Bound:
        """The evidence lower bound, term by term, with M and w sampled from the guide.

        The Kullback-Leibler terms are in closed form where Pyro knows it, else Monte Carlo estimates.

        :param patterns: (B, T) + E, or (T,) + E.
        :param num_particles: samples of M, and of w for each, over which the terms are averaged.
        :return: :class:`Bound`, each term (B,), in nats per pattern; differentiable.
        :raises ValueError: if the patterns do not fit the machine, or ``num_particles < 1``.
        """
        if num_particles < 1:
            raise ValueError(f"bound(): num_particles is {num_particles}; expected at least 1.")
        patterns = self.check_patterns(patterns, "bound()")
        codes = self.encode(patterns)
        posterior = self.write_patterns(patterns, codes).memory
        return self.bound_of(patterns, codes, posterior, as_distribution(self.memory_prior), num_particles)

    @full_precision
    def bound_of(
        self,
        patterns: Tensor,
        codes: Tensor,
        posterior: MatrixNormal,
        memory_prior: dist.TorchDistribution,
        num_particles: int = 1,
    ) -> Bound:
        """:meth:`bound` of patterns (B, T) + E and their codes (B, T, C), for any q(M), of batch (B,), and p(M)."""
        prior = as_distribution(self.address_prior)
        memory = posterior.rsample((num_particles,))  # (P, B, K, C)
        reader = self.read_codes(codes, memory)
        discrete = reader.has_enumerate_support
        if discrete:  # every slot, weighted by its probability
            address = reader.enumerate_support(expand=False)  # (K, 1, 1, 1, K)
        else:
            address = (reader.rsample() if reader.has_rsample else reader.sample()).unsqueeze(0)  # (1, P, B, T, K)
        code = address @ memory
        code_kl = code.new_zeros(())
        if self.code_posterior is not None:
            q, p = self.read_code_posterior(codes), self.code_prior(code)
            code = q.rsample((num_particles,)).unsqueeze(0)  # (1, P, B, T, C)
            code_kl = divergence(q, p, code)
        log_prob = self.decode(code, tuple(patterns.shape[2:])).log_prob(patterns)
        weights = reader.log_prob(address).exp() if discrete else torch.ones_like(log_prob[:1])  # (., P, B, T)
        reconstruction = (weights * log_prob).sum(0)  # (P, B, T)
        return Bound(
            reconstruction.mean((0, -1)),
            divergence(reader, prior, address.squeeze(0)).expand(reconstruction.shape).mean((0, -1)),
            divergence(posterior, memory_prior, memory).expand(reconstruction.shape[:-1]).mean(0) / patterns.shape[1],
            (weights * code_kl).sum(0).mean((0, -1)),
        )
