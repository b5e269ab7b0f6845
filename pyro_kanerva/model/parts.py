"""The parts of a Kanerva machine, called and checked: what a memory, a query or an evaluation needs of a machine."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_distribution, check_scale, checks_values
from pyro_kanerva._precision import full_precision
from pyro_kanerva.likelihoods import BernoulliLikelihood, Likelihood
from pyro_kanerva.model import checks
from pyro_kanerva.model.defaults import reader_for, writer_for
from pyro_kanerva.networks import event_shape_of_encoder
from pyro_kanerva.priors import GaussianAddress, Prior, as_distribution, moment_matched_memory
from pyro_kanerva.readers import Reader
from pyro_kanerva.writers import Writer, WriteResult, needs_distinct_slots

_DIVERGED = "If training diverged, lower the learning rate and resume from an earlier checkpoint."


class Parts(nn.Module):
    """Encoder, decoder, priors, likelihood, writer, reader and code noise; the arguments are those of
    :class:`~pyro_kanerva.KanervaMachine`, without ``name``, which goes to the next base class.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor], Tensor],
        decoder: Callable[[Tensor], Tensor],
        *,
        memory_prior: Prior,
        address_prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        writer: Writer | None = None,
        reader: Reader | None = None,
        code_posterior: Callable[[Tensor], dist.TorchDistribution] | None = None,
        code_scale: float = 1.0,
        **base: Any,
    ) -> None:
        check_scale("KanervaMachine", code_scale=code_scale)
        num_slots, code_size = checks.check_memory_prior(memory_prior)
        address_prior = GaussianAddress(num_slots) if address_prior is None else address_prior
        checks.check_address_prior(checks.prior_distribution("address_prior", address_prior), num_slots)
        likelihood = BernoulliLikelihood() if likelihood is None else likelihood
        reader = reader_for(as_distribution(address_prior)) if reader is None else reader
        writer = writer_for(address_prior) if writer is None else writer
        for name, part in (
            ("encoder", encoder),
            ("decoder", decoder),
            ("likelihood", likelihood),
            ("writer", writer),
            ("reader", reader),
        ):
            checks.check_callable(name, part)
        if code_posterior is not None:
            checks.check_callable("code_posterior", code_posterior)
        if num_slots > 1 and needs_distinct_slots(writer):
            checks.warn_of_equal_slots(memory_prior)
        super().__init__(**base)  # after the checks: a machine that is refused does not take its name
        self.num_slots, self.code_size = num_slots, code_size
        self.encoder, self.decoder = encoder, decoder
        self.memory_prior, self.address_prior = memory_prior, address_prior
        self.likelihood, self.code_posterior = likelihood, code_posterior
        self.writer, self.reader = writer, reader
        self.log_code_scale = nn.Parameter(torch.tensor(float(code_scale)).log())

    @property
    def code_scale(self) -> Tensor:
        """``sigma``, a standard deviation, shape ()."""
        return self.log_code_scale.exp()

    @property
    def event_shape(self) -> tuple[int, ...] | None:
        """E as the encoder states it, or None."""
        return event_shape_of_encoder(self.encoder)

    def check_patterns(
        self,
        patterns: Tensor,
        caller: str,
        name: str = "patterns",
        event_shape: tuple[int, ...] | None = None,
        *,
        any_real: bool = False,
    ) -> Tensor:
        """``patterns`` as (B, T) + E; a single episode (T,) + E becomes B = 1 if E is known, from the encoder or given.

        :param any_real: True if any finite number is legal, for cues with additive noise; else the likelihood decides.
        :raises ValueError: if their shape, dtype, device or values are wrong.
        """
        shape = self.event_shape if event_shape is None else event_shape
        likelihood = None if any_real else self.likelihood
        return checks.check_patterns(patterns, f"{caller}: {name}", shape, self.log_code_scale, likelihood)

    def with_episodes(self, patterns: Tensor, caller: str) -> Tensor:
        """``patterns`` as (B, T) + E; like :meth:`check_patterns`, but checks only their shape."""
        return checks.with_episodes(patterns, f"{caller}: patterns", self.event_shape)

    @full_precision
    def code(self, address: Tensor, matrix: Tensor) -> Tensor:
        """``M^T w``, the code that is read at ``address`` w (..., T, K) from ``matrix`` M (..., K, C): (..., T, C)."""
        return address @ matrix

    def decoder_output(self, codes: Tensor) -> Tensor:
        """The decoder's output at ``codes`` (..., C): the parameters that the likelihood expects, (...) + theirs."""
        remedy = f"Build the decoder for code_size {self.code_size}, that of memory_prior."
        output = checks.call_network("decoder", self.decoder, codes.reshape(-1, codes.shape[-1]), remedy)
        return output.reshape(*codes.shape[:-1], *output.shape[1:])

    @full_precision
    def likelihood_of(self, output: Tensor, expected: tuple[int, ...]) -> dist.TorchDistribution:
        """The distribution of entries for the decoder's ``output``; raises unless its shape is ``expected``."""
        entries = self.likelihood(output)
        check_distribution("The likelihood", entries, "a Pyro distribution of the entries of the patterns")
        while isinstance(entries, dist.Independent):  # a user may have declared event dimensions
            entries = entries.base_dist
        shape = tuple(entries.batch_shape + entries.event_shape)
        if shape != expected:
            raise ValueError(f"Decoder and likelihood give shape {shape}; expected {expected}, that of the patterns.")
        return entries

    def decode(self, codes: Tensor, event_shape: tuple[int, ...]) -> dist.Independent:
        """p(x | z) of patterns at ``codes`` z (..., C): batch (...), event E.

        :raises ValueError: if the decoder cannot take codes of this size or returns NaN or infinite values, or if the
            likelihood of its output is not one of patterns of ``event_shape``.
        """
        entries = self._entries(codes, event_shape)
        return entries.to_event(len(entries.batch_shape) - (codes.dim() - 1))

    def _entries(self, codes: Tensor, event_shape: tuple[int, ...]) -> dist.TorchDistribution:
        output = self.decoder_output(codes)
        if checks_values() and not bool(output.isfinite().all()):
            raise ValueError(f"The decoder returned NaN or infinite values. {_DIVERGED}")
        return self.likelihood_of(output, (*codes.shape[:-1], *event_shape))

    def predict(
        self, address: Tensor, matrix: Tensor, event_shape: tuple[int, ...] | None = None, *, sample_code: bool = False
    ) -> dist.TorchDistribution:
        """The generative step: p(x | w, M) of every entry, (..., T) + E.

        ::

            x ~ likelihood(decoder(M^T w))

        :param address: w, shape (..., T, K).
        :param matrix: M, shape (..., K, C).
        :param event_shape: E; by default as the encoder states it.
        :param sample_code: where codes are latent, decode a draw of the code; else its mean ``M^T w``.
        :raises ValueError: as :meth:`decode`, or if E is not known.
        """
        shape = self.event_shape if event_shape is None else event_shape
        if shape is None:
            raise ValueError("predict(): the encoder has no attribute event_shape, the shape of a pattern; pass it.")
        code = self.code(address, matrix)
        if sample_code and self.code_posterior is not None:
            code = self.code_prior(code).sample()
        return self._entries(code, shape)

    def code_prior(self, loc: Tensor) -> dist.TorchDistribution:
        """``p(z | w, M) = Normal(M^T w, sigma^2 I)`` at means ``loc`` (..., C), where codes are latent."""
        return dist.Normal(loc, self.code_scale, validate_args=False).to_event(1)

    def encode(self, patterns: Tensor) -> Tensor:
        """Codes (B, T, C) of patterns (B, T) + E.

        :raises ValueError: if the encoder returns another shape, or NaN or infinite codes.
        """
        remedy = "Build the encoder for patterns of this shape."
        codes = checks.call_network("encoder", self.encoder, patterns.flatten(0, 1), remedy)
        expected = (patterns.shape[0] * patterns.shape[1], self.code_size)
        if tuple(codes.shape) != expected:
            raise ValueError(
                f"The encoder returned codes of shape {tuple(codes.shape)}; expected {expected}, with the code "
                "size of memory_prior. Build both for the same code_size."
            )
        if checks_values() and not bool(codes.isfinite().all()):
            raise ValueError(f"The encoder returned NaN or infinite codes. {_DIVERGED}")
        return codes.reshape(*patterns.shape[:2], self.code_size)

    @full_precision
    def write_codes(self, codes: Tensor, prior: Prior | None = None) -> WriteResult:
        """q(M) after writing ``codes`` (B, T, C) into ``prior``, by default the memory prior.

        :raises ValueError: if the prior is of another dtype or device, or the writer's result of another shape.
        """
        gaussian = moment_matched_memory(self.memory_prior if prior is None else prior)
        if (gaussian.loc.dtype, gaussian.loc.device) != (codes.dtype, codes.device):
            raise ValueError(
                f"The memory is {gaussian.loc.dtype} on {gaussian.loc.device}, the machine {codes.dtype} on "
                f"{codes.device}; expected the same. A prior that is a plain distribution is not moved with the "
                "machine: build it anew. A stored memory is moved by memory.to()."
            )
        result = self.writer(codes, gaussian, self.code_scale)
        checks.check_write_result(result)
        shapes = tuple(result.memory.batch_shape), tuple(result.memory.event_shape), tuple(result.addresses.shape)
        batch, expected = tuple(codes.shape[:-2]), (self.num_slots, self.code_size)
        if shapes != (batch, expected, (*codes.shape[:-1], self.num_slots)):
            raise ValueError(
                f"The writer returned a memory of batch and event shape {shapes[0]}, {shapes[1]} and addresses "
                f"{shapes[2]}; expected {batch}, {expected} and {(*codes.shape[:-1], self.num_slots)}."
            )
        return result

    @full_precision
    def read_codes(self, codes: Tensor, matrix: Tensor) -> dist.TorchDistribution:
        """q(w | x, M), batch (..., T), for codes (..., T, C) and a known memory ``matrix`` (..., K, C).

        :raises ValueError: if the reader's result is of another shape or support than the address prior.
        """
        prior = as_distribution(self.address_prior)
        result = self.reader(codes, matrix, prior, self.code_scale)
        check_distribution("The reader", result, "q(w | x, M), a Pyro distribution of addresses")
        checks.check_support(result, prior)
        batch = torch.broadcast_shapes(codes.shape[:-2], matrix.shape[:-2]) + codes.shape[-2:-1]
        if (result.batch_shape, result.event_shape) != (batch, (self.num_slots,)):
            raise ValueError(
                f"The reader returned batch and event shape {tuple(result.batch_shape)}, {tuple(result.event_shape)}; "
                f"expected {tuple(batch)}, ({self.num_slots},)."
            )
        return result

    @full_precision
    def read_code_posterior(self, codes: Tensor) -> dist.TorchDistribution:
        """q(z | x), batch (..., T) and event (C,), for codes (..., T, C), where codes are latent.

        :raises ValueError: if ``code_posterior`` returns another shape.
        """
        assert self.code_posterior is not None
        result = self.code_posterior(codes)
        check_distribution("code_posterior", result, "q(z | x), a Pyro distribution of codes")
        if (result.batch_shape, result.event_shape) != (codes.shape[:-1], codes.shape[-1:]):
            raise ValueError(
                f"code_posterior returned batch and event shape {tuple(result.batch_shape)}, "
                f"{tuple(result.event_shape)}; expected {tuple(codes.shape[:-1])}, {tuple(codes.shape[-1:])}. Declare "
                "event dimensions with .to_event(1)."
            )
        return result
