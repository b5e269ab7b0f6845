"""Draws from the posterior of a cue: Gibbs-style chains, and importance weights."""

from typing import NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._precision import autocast_off
from pyro_kanerva._repr import field_rows, is_image, picture, short_repr, table
from pyro_kanerva.channels import Channel, check_channel, posterior_of, resolve
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution
from pyro_kanerva.retrieval.query import check_observed


@short_repr
class Draws(NamedTuple):
    """A chain of S draws: ``patterns`` (S, B, Q) + E and ``address`` (S, B, Q, K)."""

    patterns: Tensor
    address: Tensor

    def _repr_html_(self) -> str:
        """For notebooks: the first cues of the first memory, mean and two draws."""
        rows = field_rows(self)
        if is_image(self.patterns.shape[3:]):
            drawn = self.patterns[:, 0]
            shown = {"mean": drawn.double().mean(0), "first draw": drawn[0], "last draw": drawn[-1]}
            rows = [(name, picture(patterns)) for name, patterns in shown.items()] + rows
        return table("Draws", rows)


@torch.no_grad()
def gibbs(
    parts: Parts,
    posterior: MatrixNormal,
    cues: Tensor,
    num_samples: int,
    burn_in: int,
    channel: Channel | None,
    observed: Tensor | None,
    sample_memory: bool,
) -> Draws:
    """The chain behind :meth:`pyro_kanerva.Memory.sample`, for cues (B, Q) + E and q(M) of batch (B,)."""
    check_channel(channel, "sample()")
    clamped = observed is not None
    observed = torch.ones_like(cues, dtype=torch.bool) if observed is None else check_observed(observed, cues)
    matrix, patterns, event_shape = posterior.loc, cues, tuple(cues.shape[2:])
    kept: list[tuple[Tensor, Tensor]] = []
    for sweep in range(burn_in + num_samples):
        if sample_memory:
            matrix = posterior.sample()
        codes = parts.encode(patterns)
        with autocast_off(codes):
            address = parts.read_codes(codes, matrix).sample()
        prediction = parts.predict(address, matrix, event_shape, sample_code=True)
        if channel is None:
            patterns = prediction.sample()
            if clamped:
                patterns = torch.where(observed, cues, patterns)
        else:
            resolved = resolve(channel, cues, prediction, observed, tuple(range(2, cues.dim())))
            patterns = torch.where(observed, posterior_of(resolved, cues, prediction).sample(), prediction.sample())
        patterns = patterns.to(cues.dtype)
        if sweep >= burn_in:
            kept.append((patterns, address))
    return Draws(*(torch.stack(values) for values in zip(*kept, strict=True)))


def log_weights(parts: Parts, posterior: MatrixNormal, patterns: Tensor) -> Tensor:
    """``log p(x | w, M) p(w) / q(w | x, M)`` at one draw of M ~ q(M) and w ~ q(w | x, M), (B, Q), in nats."""
    matrix, codes = posterior.sample(), parts.encode(patterns)
    with autocast_off(codes):
        reader = parts.read_codes(codes, matrix)
        address = reader.sample()
        weight = as_distribution(parts.address_prior).log_prob(address) - reader.log_prob(address)
        code = parts.code(address, matrix)
        if parts.code_posterior is not None:
            p, q = parts.code_prior(code), parts.read_code_posterior(codes)
            code = q.sample()
            weight = weight + p.log_prob(code) - q.log_prob(code)
    return weight + parts.decode(code, tuple(patterns.shape[2:])).log_prob(patterns)
