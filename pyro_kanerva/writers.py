"""Writers: how an episode becomes q(M), the amortized variational guide of the memory.

A writer is any callable ``(codes (B, T, C), prior: MatrixNormal, code_scale) -> WriteResult``.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_kanerva.conjugate import address_posterior, block_update, coordinate_ascent_sweep
from pyro_kanerva.matrix_normal import MatrixNormal


class WriteResult(NamedTuple):
    """What a writer returns: q(M) and the addresses under which the patterns were stored.

    ``memory`` has batch (B,) and event (K, C); ``addresses`` (B, T, K) are the means E[w_t], and
    ``address_scale_tril`` (B, K, K) the Cholesky factor of their covariance where it entered the update.
    """

    memory: MatrixNormal
    addresses: Tensor
    address_scale_tril: Tensor | None = None


class OnlineWriter(nn.Module):
    """Dynamic addressing: each block's addresses are inferred from the memory as it stands, then written.

    ::

        for each block Z of block_size patterns:
            W <- E[w | Z, R]                            exact address posterior given the mean
            MN(R, U) <- block update with (W, Z)        Bayes' rule
        then sweeps times: all q(w_t) given q(M), and q(M) given all q(w_t)     coordinate ascent

    ``block_size=1, sweeps=0`` is the paper's rule. Larger blocks are faster, since the addresses of a
    block do not wait for each other; sweeps raise the bound.

    :param block_size: patterns written at once.
    :param sweeps: coordinate-ascent sweeps over the episode after the last block.
    :raises ValueError: if ``block_size < 1`` or ``sweeps < 0``.

    The addresses have the surrogate prior Normal(0, I). Source: Wu et al. 2018 (arXiv 1811.09556),
    section 3.3.
    """

    def __init__(self, block_size: int = 1, sweeps: int = 0) -> None:
        super().__init__()
        if block_size < 1:
            raise ValueError(f"OnlineWriter: block_size is {block_size}; expected at least 1.")
        if sweeps < 0:
            raise ValueError(f"OnlineWriter: sweeps is {sweeps}; expected 0 or more.")
        self.block_size, self.sweeps = block_size, sweeps

    def extra_repr(self) -> str:
        return f"block_size={self.block_size}, sweeps={self.sweeps}"

    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        memory = prior.expand(codes.shape[:-2])
        written = []
        for block in codes.split(self.block_size, dim=-2):
            addresses = address_posterior(block, memory.loc, code_scale).loc
            memory = block_update(memory, addresses, block, code_scale)
            written.append(addresses)
        result = WriteResult(memory, torch.cat(written, dim=-2))
        for _ in range(self.sweeps):
            memory, posterior = coordinate_ascent_sweep(prior, result.memory, codes, code_scale)
            result = WriteResult(memory, posterior.loc, posterior.scale_tril)
        return result
