"""The reader of the 2018 Kanerva Machine."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._precision import full_precision


class AmortizedReader(nn.Module):
    """A network maps codes to addresses and ignores the memory: q(w | x) of the 2018 Kanerva Machine.

    Source: Wu, Wayne, Graves, Lillicrap 2018, "The Kanerva Machine" (arXiv 1804.01756), section 3.2.

    :param network: codes (N, C) -> (N, 2 K), the means and the logarithms of the standard deviations; for example
        ``MLPEncoder((C,), 2 * K)``.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    @full_precision
    def forward(
        self, codes: Tensor, matrix: Tensor, address_prior: dist.TorchDistribution, code_scale: Tensor
    ) -> dist.TorchDistribution:
        """Independent ``Normal`` of batch shape (..., T) and event shape (K,).

        :raises ValueError: if the network returns another shape.
        """
        loc, log_scale = apply_network("AmortizedReader", self.network, codes, (2 * matrix.shape[-2],)).chunk(2, -1)
        # The matrix may have more leading dimensions, for particles.
        shape = torch.broadcast_shapes(codes.shape[:-2], matrix.shape[:-2]) + loc.shape[-2:]
        return dist.Normal(loc.expand(shape), log_scale.exp().expand(shape), validate_args=False).to_event(1)


def apply_network(name: str, network: Callable[[Tensor], Tensor], codes: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The outputs (..., n) of ``network`` for codes (..., C).

    :raises ValueError: if n is not one of ``sizes``.
    """
    output = network(codes.reshape(-1, codes.shape[-1])).to(codes.dtype)
    shapes = [(codes.shape[:-1].numel(), size) for size in sizes]
    if tuple(output.shape) not in shapes:
        wanted = " or ".join(map(str, shapes))
        raise ValueError(f"{name}: the network returned shape {tuple(output.shape)}; expected {wanted}.")
    return output.reshape(*codes.shape[:-1], -1)
