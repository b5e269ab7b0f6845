"""A writer whose addresses do not depend on the memory."""

from torch import Tensor, nn

from pyro_kanerva.conjugate import add_statistics, address_posterior, statistics
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.priors import Prior, moment_matched_memory
from pyro_kanerva.writers.base import WriteResult


class FrameWriter(nn.Module):
    """Addresses with respect to one fixed frame: writes commute, and memories merge exactly.

    ::

        W = Z R0^T (R0 R0^T + sigma^2 I)^-1         addresses in a memory with the mean R0 of the frame
        q(M) = the exact posterior given W

    The result is the same for patterns written in any order, in any number of parts or by any number of processes.
    Unlike those of :class:`OnlineWriter`, addresses do not depend on the patterns that are already stored.

    :param frame: a prior with mean R0, usually the memory prior of the machine, the same object.
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
