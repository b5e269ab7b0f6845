"""Addresses from a network on the codes."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn


class AmortizedReader(nn.Module):
    """A network reads the address off the code and does not look at the memory: the 2018 Kanerva Machine's q(w | x).

    :param network: codes (N, C) -> (N, 2 K), the means and the logarithms of the standard deviations; for
        example ``MLPEncoder((C,), 2 * K)``.

    Source: Wu, Wayne, Graves, Lillicrap 2018, "The Kanerva Machine" (arXiv 1804.01756), section 3.2.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """Independent ``Normal`` of batch shape (..., T) and event shape (K,).

        :raises ValueError: if the network returns another shape.
        """
        loc, log_scale = apply_network("AmortizedReader", self.network, codes, (2 * matrix.shape[-2],)).chunk(2, -1)
        shape = torch.broadcast_shapes(codes.shape[:-2], matrix.shape[:-2]) + loc.shape[-2:]
        return dist.Normal(loc.expand(shape), log_scale.exp().expand(shape), validate_args=False).to_event(1)


def apply_network(name: str, network: Callable[[Tensor], Tensor], codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """``network`` on codes (..., C), (..., n) with n one of ``sizes``.

    :raises ValueError: if it returns another shape.
    """
    output = network(codes.reshape(-1, codes.shape[-1])).to(codes.dtype)
    number = codes.shape[:-1].numel()
    if tuple(output.shape) not in [(number, size) for size in sizes]:
        wanted = " or ".join(str((number, size)) for size in sizes)
        raise ValueError(f"{name}: the network returned shape {tuple(output.shape)}; expected {wanted}.")
    return output.reshape(*codes.shape[:-1], -1)
