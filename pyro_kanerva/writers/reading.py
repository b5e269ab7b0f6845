"""The online writer with a reader of your choice."""

import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least
from pyro_kanerva.conjugate import block_update
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.priors import Prior, as_distribution, point_address
from pyro_kanerva.readers import LaplaceReader, Reader
from pyro_kanerva.writers.base import WriteResult


class ReadingWriter(nn.Module):
    """Dynamic addressing with a reader of your choice, for address priors on a part of R^K, such as the simplex.

    ::

        for each block Z of block_size patterns:
            W <- the point address of reader(Z, R, address_prior)
            MN(R, U) <- block update with (W, Z)
        then sweeps times: all W from the whole memory, and q(M) from all W

    :param address_prior: that of the machine; the same object, where it is learned.
    :param reader: by default :class:`LaplaceReader`.
    :param block_size: patterns written at once.
    :param sweeps: repetitions over the whole episode after the last block.
    :raises ValueError: if ``block_size < 1`` or ``sweeps < 0``.
    """

    needs_distinct_slots = True

    def __init__(
        self, address_prior: Prior, reader: Reader | None = None, block_size: int = 8, sweeps: int = 1
    ) -> None:
        super().__init__()
        check_at_least("ReadingWriter", 1, block_size=block_size)
        check_at_least("ReadingWriter", 0, sweeps=sweeps)
        self.address_prior = address_prior
        self.reader = LaplaceReader() if reader is None else reader
        self.block_size, self.sweeps = block_size, sweeps

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        address_prior = as_distribution(self.address_prior)
        empty = prior.expand(codes.shape[:-2])
        memory, written = empty, []
        for block in codes.split(self.block_size, dim=-2):
            addresses = point_address(self.reader(block, memory.loc, address_prior, code_scale))
            memory = block_update(memory, addresses, block, code_scale)
            written.append(addresses)
        result = WriteResult(memory, torch.cat(written, dim=-2))
        for _ in range(self.sweeps):
            addresses = point_address(self.reader(codes, result.memory.loc, address_prior, code_scale))
            result = WriteResult(block_update(empty, addresses, codes, code_scale), addresses)
        return result
