"""The writer of the Generative Pseudo-Inverse Memory."""

import math

import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least, check_positive
from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate import cholesky
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.writers.base import WriteResult


class PseudoInverseWriter(nn.Module):
    """Two least-squares problems instead of Bayes' rule: the Generative Pseudo-Inverse Memory.

    ::

        W = Z R0^+,      R = W^+ Z,      q(M) = MatrixNormal(R, diag(scale^2), I)

    with the prior's mean R0, pseudo-inverses with a small ridge, and learned scales of the K slots. A write replaces
    what a memory held before, so :meth:`Memory.write` raises an error for this writer. Source: Pham, Le, Ngo, Tran,
    Venkatesh 2022, "Generative Pseudo-Inverse Memory" (ICLR), section 3, where M is a point.

    :param scale: initial standard deviation of the slots.
    :param ridge: relative to the mean eigenvalue of the inverted matrix.
    :raises ValueError: if an argument is not positive.
    """

    continues = False
    needs_distinct_slots = True

    def __init__(self, num_slots: int, scale: float = 0.1, ridge: float = 1e-3) -> None:
        super().__init__()
        check_at_least("PseudoInverseWriter", 1, num_slots=num_slots)
        check_positive("PseudoInverseWriter", scale=scale, ridge=ridge)
        self.ridge = ridge
        self.log_scale = nn.Parameter(torch.full((num_slots,), math.log(scale)))

    def _solve(self, design: Tensor, targets: Tensor) -> Tensor:
        """``(D^T D + ridge)^-1 D^T targets`` for a design D (..., n, m)."""
        gram = design.mT @ design
        ridge = self.ridge * gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        return torch.cholesky_solve(design.mT @ targets, cholesky(gram + ridge * identity, "the normal matrix"))

    @full_precision
    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C). Of ``prior`` it uses only the mean.

        :raises ValueError: if ``prior`` has another number of slots.
        """
        if prior.event_shape[0] != len(self.log_scale):
            raise ValueError(
                f"PseudoInverseWriter: the memory has {prior.event_shape[0]} slots; expected {len(self.log_scale)}, "
                "num_slots of the writer."
            )
        start = prior.expand(codes.shape[:-2]).loc
        addresses = self._solve(start.mT, codes.mT).mT  # (B, T, K)
        factor = self.log_scale.exp().diag_embed()
        return WriteResult(MatrixNormal(self._solve(addresses, codes), factor, validate_args=False), addresses)
