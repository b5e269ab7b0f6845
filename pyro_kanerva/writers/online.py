"""The paper's writer: infer the address of a pattern from the current memory, then write the pattern there."""

import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least
from pyro_kanerva.conjugate import (
    add_statistics,
    address_mean,
    block_update,
    coordinate_ascent_sweep,
    statistics,
    write_sequence,
)
from pyro_kanerva.conjugate.closed_form import closed_form
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.writers.base import WriteResult


@closed_form("write_in_blocks()", prior="KC", codes="nC")
def write_in_blocks(
    prior: MatrixNormal, codes: Tensor, noise_scale: Tensor | float, block_size: int, sweeps: int = 0
) -> tuple[MatrixNormal, Tensor, Tensor | None]:
    """The rule of :class:`OnlineWriter` in plain form, with the arguments and results of ``write_sequence``."""
    posterior, written, factor = prior, [], None
    for block in codes.split(block_size, dim=-2):
        addresses = address_mean(block, posterior.loc, noise_scale)  # E[w | z, R]
        posterior = block_update(posterior, addresses, block, noise_scale)  # Bayes' rule
        written.append(addresses)
    addresses = torch.cat(written, dim=-2)
    for _ in range(sweeps):
        posterior, (addresses, factor) = coordinate_ascent_sweep(prior, posterior, codes, noise_scale)
    return posterior, addresses, factor


class OnlineWriter(nn.Module):
    """Dynamic addressing: infer the addresses of a block of patterns from the current memory, then write the block.

    ::

        for each block Z of block_size patterns:
            W <- E[w | Z, R]                            exact address posterior given the mean
            MN(R, U) <- block update with (W, Z)        Bayes' rule
        then sweeps times: all q(w_t) given q(M), and q(M) given all q(w_t)     coordinate ascent

    ``block_size=1, sweeps=0`` is the paper's rule. Larger blocks are faster, because their addresses are computed
    together; sweeps raise the bound. Addresses have the surrogate prior Normal(0, I). Source: Wu et al. 2018
    (arXiv 1811.09556), section 3.3.

    :param block_size: patterns written at once.
    :param sweeps: coordinate-ascent sweeps over the episode after the last block.
    :raises ValueError: if ``block_size < 1`` or ``sweeps < 0``.
    """

    needs_distinct_slots = True

    def __init__(self, block_size: int = 1, sweeps: int = 0) -> None:
        super().__init__()
        check_at_least("OnlineWriter", 1, block_size=block_size)
        check_at_least("OnlineWriter", 0, sweeps=sweeps)
        self.block_size, self.sweeps = block_size, sweeps

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, sweeps={self.sweeps}"

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        length, slots = codes.shape[-2], prior.event_shape[0]
        # One long block: block_update would compute the same statistics; here the result keeps them.
        if 4 * slots <= length <= self.block_size and not self.sweeps:
            addresses = address_mean(codes, prior.loc, code_scale)
            part = statistics(addresses, codes, code_scale)
            return WriteResult(add_statistics(prior, part).expand(codes.shape[:-2]), addresses, statistics=part)
        write = write_in_blocks if length <= self.block_size else write_sequence  # the fast twin, for several blocks
        posterior, addresses, factor = write(prior, codes, code_scale, self.block_size, self.sweeps)
        return WriteResult(posterior.expand(codes.shape[:-2]), addresses, factor)
