"""The Kanerva Machine of 2018, from which the dynamic one descends, as a composition of parts."""

import math
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least, check_positive
from pyro_kanerva.likelihoods import Likelihood
from pyro_kanerva.machine.machine import KanervaMachine
from pyro_kanerva.model.checks import event_shape_of
from pyro_kanerva.networks import MLPEncoder
from pyro_kanerva.priors import Prior
from pyro_kanerva.readers import AmortizedReader
from pyro_kanerva.writers import AmortizedWriter


class GaussianCode(nn.Module):
    """``q(z | x) = Normal(e(x), diag(scale^2))``, the posterior of a latent code, with learned scales.

    :param code_size: C.
    :param scale: where the standard deviations start.
    :raises ValueError: if an argument is not positive.
    """

    def __init__(self, code_size: int, scale: float = 0.5) -> None:
        super().__init__()
        check_at_least("GaussianCode", 1, code_size=code_size)
        check_positive("GaussianCode", scale=scale)
        self.log_scale = nn.Parameter(torch.full((code_size,), math.log(scale)))

    def forward(self, codes: Tensor) -> dist.TorchDistribution:
        """Independent ``Normal`` of batch shape (...) and event shape (C,), for codes e(x) (..., C)."""
        return dist.Normal(codes, self.log_scale.exp(), validate_args=False).to_event(1)


def kanerva_2018(
    encoder: Callable[[Tensor], Tensor],
    decoder: Callable[[Tensor], Tensor],
    *,
    memory_prior: Prior,
    likelihood: Likelihood | None = None,
    code_scale: float = 1.0,
    name: str | None = None,
) -> KanervaMachine:
    r"""The Kanerva Machine: addresses from a network on the code, and latent codes.

    ::

        M ~ memory_prior,   w_t ~ Normal(0, I),   z_t ~ Normal(M^T w_t, sigma^2 I),   x_t ~ likelihood(decoder(z_t))

    with the guide ``q(w | x)`` by a network on the code e(x), ``q(z | x) = Normal(e(x), s^2)``, and q(M) the exact
    posterior given the codes and the means of the addresses. Compare it with the Dynamic Kanerva Machine by putting
    ``kanerva_2018`` in place of ``KanervaMachine``.

    :param encoder: as of :class:`KanervaMachine`, and likewise the other arguments.
    :raises ValueError: as :class:`KanervaMachine`.

    Source: Wu, Wayne, Graves, Lillicrap 2018, "The Kanerva Machine: A Generative Distributed Memory"
    (arXiv 1804.01756).
    """
    num_slots, code_size = event_shape_of("memory_prior", memory_prior, rank=2)
    network = MLPEncoder((code_size,), 2 * num_slots, width=2 * max(code_size, num_slots))
    return KanervaMachine(
        encoder,
        decoder,
        memory_prior=memory_prior,
        likelihood=likelihood,
        writer=AmortizedWriter(network),
        reader=AmortizedReader(network),
        code_posterior=GaussianCode(code_size),
        code_scale=code_scale,
        name=name,
    )
