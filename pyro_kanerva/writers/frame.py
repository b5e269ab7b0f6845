"""The writer whose addresses do not depend on what a memory holds."""

from torch import Tensor, nn

from pyro_kanerva.conjugate import add_statistics, address_posterior, statistics
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.priors import Prior, moment_matched_memory
from pyro_kanerva.writers.base import WriteResult


class FrameWriter(nn.Module):
    r"""All addresses in one frame, independent of what a memory holds: writes commute and memories merge exactly.

    ::

        W = Z R0^T (R0 R0^T + sigma^2 I)^-1         the addresses that the frame's mean R0 would give
        q(M) = the exact posterior given W

    Patterns written in any order, in any number of parts or by any number of processes give the same memory. Unlike
    :class:`OnlineWriter`, an address does not use what is stored already.

    :param frame: usually the memory prior of the machine, the same object; its mean is R0.
    """

    needs_distinct_slots = True

    def __init__(self, frame: Prior) -> None:
        super().__init__()
        self.frame = frame

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        addresses = address_posterior(codes, moment_matched_memory(self.frame).loc, code_scale).loc
        part = statistics(addresses, codes, code_scale)
        return WriteResult(add_statistics(prior, part).expand(codes.shape[:-2]), addresses, statistics=part)
