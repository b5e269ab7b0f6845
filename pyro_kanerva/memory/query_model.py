"""A query as a Pyro model, for use with Pyro's own inference and inside larger models."""

from __future__ import annotations

from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_kanerva._precision import autocast_off
from pyro_kanerva.channels import Channel, Damage, check_channel, has_unknown_level
from pyro_kanerva.likelihoods import mean_and_mode
from pyro_kanerva.memory.memory import Memory
from pyro_kanerva.priors import as_distribution
from pyro_kanerva.retrieval.query import check_observed


class Cue(dist.TorchDistribution):
    """The entries of a cue: a prediction seen through a channel, with the pattern itself summed out.

    :param prediction: distribution of the entries of the pattern.
    :param channel: ``log_prob`` needs its ``log_evidence``; sampling also needs that it can damage patterns.
    :param dtype: of draws.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    support = constraints.real

    def __init__(self, prediction: dist.TorchDistribution, channel: Channel, dtype: torch.dtype) -> None:
        self.prediction, self.channel, self.dtype = prediction, channel, dtype
        super().__init__(prediction.batch_shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Cue:
        """The same distribution with more dimensions on the left."""
        return Cue(self.prediction.expand(batch_shape), self.channel, self.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """A damaged draw of the pattern."""
        damage = cast("Damage", self.channel)
        return damage(self.prediction.sample(sample_shape).to(self.dtype))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(c) of every entry, in nats."""
        return self.channel.log_evidence(value, self.prediction)


def retrieval_model(
    memory: Memory, channel: Channel, cues: Tensor | None = None, *, num_cues: int = 1, observed: Tensor | None = None
) -> Tensor:
    r"""The generative model of a query, for Pyro's handlers and inference.

    ::

        M    ~ q(M)                           "memory",  batch (B, 1), event (K, C)
        w_q  ~ address prior                  "address", batch (B, Q), event (K,)
        c_q  ~ p(c | decoder(M^T w_q))        "cue",     batch (B, Q), event E, the pattern summed out
        x_q  = mean of p(x | c, w, M)         "recalled", deterministic; of classes the mode

    Plates are "episode" (dim -2) and "cue_plate" (dim -1). Conditioned on the posterior mean R, as
    ``poutine.condition(retrieval_model, {"memory": R.unsqueeze(-3)})``, its negative log joint is the energy of
    :meth:`Memory.query`.

    :param channel: how a cue comes from its pattern, of a known level.
    :param cues: (B, Q) + E, or None to draw ``num_cues`` of them, Q.
    :param observed: bool, broadcastable to the cues; False entries carry no evidence.
    :return: the site "recalled", (B, Q) + E; with cues drawn, the cues.
    :raises ValueError: if the cues do not fit the memory, or the channel is None or of unknown level.
    """
    if channel is None or has_unknown_level(channel):
        raise ValueError(f"retrieval_model(): channel is {channel!r}; expected a channel of a known level.")
    check_channel(channel, "retrieval_model()")
    machine, event_shape = memory.machine, memory.event_shape
    if cues is not None:
        cues = memory.check(cues, "retrieval_model()", "cues", channel)
        num_cues = cues.shape[1]
        observed = None if observed is None else check_observed(observed, cues)
    with pyro.plate("episode", memory.posterior.batch_shape[0], dim=-2):
        matrix = pyro.sample("memory", memory.posterior.unsqueeze(-1)).squeeze(-3)
        with pyro.plate("cue_plate", num_cues, dim=-1):
            with autocast_off(matrix):
                address = pyro.sample("address", as_distribution(machine.address_prior))
            prediction = machine.predict(address, matrix, event_shape)
            entries = Cue(prediction, channel, matrix.dtype)
            seen: dist.TorchDistribution = entries if observed is None else dist.MaskedDistribution(entries, observed)
            found = pyro.sample("cue", seen.to_event(len(event_shape)), obs=cues)
            if cues is None:
                return found
            with torch.no_grad():
                recalled = mean_and_mode(channel.posterior(found, prediction))[0]
                if observed is not None:
                    recalled = torch.where(observed, recalled, mean_and_mode(prediction)[0])
            return pyro.deterministic("recalled", recalled, event_dim=len(event_shape))
