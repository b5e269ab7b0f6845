"""The writer of the 2018 Kanerva Machine."""

from collections.abc import Callable

from torch import Tensor, nn

from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate import block_update
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.readers import apply_network
from pyro_kanerva.writers.base import WriteResult


class AmortizedWriter(nn.Module):
    """A network maps codes to addresses; the memory is the exact posterior given them, as in the 2018 Kanerva Machine.

    Source: Wu, Wayne, Graves, Lillicrap 2018, "The Kanerva Machine" (arXiv 1804.01756), section 3.3.

    :param network: codes (N, C) -> addresses (N, K). To share the network of :class:`AmortizedReader`, the writer
        accepts (N, 2 K) and uses the first half.
    """

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = network

    @full_precision
    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,).

        :raises ValueError: if the network returns another shape.
        """
        slots = prior.event_shape[0]
        addresses = apply_network("AmortizedWriter", self.network, codes, (slots, 2 * slots))[..., :slots]
        memory = block_update(prior.expand(codes.shape[:-2]), addresses, codes, code_scale)
        return WriteResult(memory, addresses)
