"""The writer of the Generative Pseudo-Inverse Memory."""

import math

import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_positive
from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate import cholesky
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.writers.base import WriteResult


class PseudoInverseWriter(nn.Module):
    r"""Two least-squares problems instead of Bayes' rule: the Generative Pseudo-Inverse Memory.

    ::

        W = Z R0^+,      R = W^+ Z,      q(M) = MatrixNormal(R, diag(scale^2), I)

    with the prior's mean R0, pseudo-inverses with a small ridge, and learned scales of the slots. The result does not
    hold what a memory held before: a written memory cannot be continued, and :meth:`Memory.write` refuses to.

    :param num_slots: K.
    :param scale: where the standard deviations of the slots start.
    :param ridge: relative to the mean eigenvalue of the matrix that is inverted.
    :raises ValueError: if an argument is not positive.

    Source: Pham, Le, Ngo, Tran, Venkatesh 2022, "Generative Pseudo-Inverse Memory" (ICLR), section 3; there
    the memory is a point.
    """

    continues = False
    needs_distinct_slots = True

    def __init__(self, num_slots: int, scale: float = 0.1, ridge: float = 1e-3) -> None:
        super().__init__()
        check_positive("PseudoInverseWriter", num_slots=num_slots, scale=scale, ridge=ridge)
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
        """Write ``codes`` (B, T, C); only the mean of ``prior`` is used.

        :raises ValueError: if the memory has another number of slots.
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
