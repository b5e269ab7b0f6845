"""An online writer with any reader."""

import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate import block_update
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.priors import Prior, as_distribution, point_address
from pyro_kanerva.readers import LaplaceReader, Reader
from pyro_kanerva.writers.base import WriteResult


class ReadingWriter(nn.Module):
    """Dynamic addressing with any reader, for address priors on a subset of R^K, such as the simplex.

    ::

        for each block Z of block_size patterns:
            W <- the point address of reader(Z, R, address_prior)
            MN(R, U) <- block update with (W, Z)
        then sweeps times: all W from the whole memory, and q(M) from all W

    :param address_prior: the address prior of the machine; the same object, if it has parameters.
    :param reader: by default :class:`LaplaceReader`.
    :param block_size: patterns written at once.
    :param sweeps: sweeps over the whole episode after the last block.
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

    @full_precision
    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        address_prior = as_distribution(self.address_prior)
        prior = prior.expand(codes.shape[:-2])
        posterior, written = prior, []
        for block in codes.split(self.block_size, dim=-2):
            written.append(point_address(self.reader(block, posterior.loc, address_prior, code_scale)))
            posterior = block_update(posterior, written[-1], block, code_scale)
        addresses = torch.cat(written, dim=-2)
        for _ in range(self.sweeps):
            addresses = point_address(self.reader(codes, posterior.loc, address_prior, code_scale))
            posterior = block_update(prior, addresses, codes, code_scale)
        return WriteResult(posterior, addresses)
