"""The writer of a slot memory."""

import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._precision import full_precision
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.priors import Prior, as_distribution
from pyro_kanerva.writers.base import WriteResult


class SlotWriter(nn.Module):
    """Bayesian clustering of the codes: each pattern belongs to one unknown slot.

    Given the weights ``r[t, k] = q(w_t = e_k)`` the slots are independent, and U is diagonal::

        one after the other:   r[t] is proportional to p(e_k) Normal(z_t; R[k], (U[k, k] + sigma^2) I)
                               1 / U[k, k] += r[t, k] / sigma^2,   R[k] += U[k, k] r[t, k] (z_t - R[k]) / sigma^2
        then sweeps times:     r[t] is proportional to p(e_k) exp E[log Normal(z_t; M[k], sigma^2 I)]
                               and q(M) from all r

    An empty slot has a broad predictive density, so a code unlike all others goes to an empty slot. The addresses of
    the result are the weights r. The writer ignores prior correlations between slots. Source: Bishop 2006, "Pattern
    Recognition and Machine Learning", section 10.2.

    :param sweeps: coordinate-ascent sweeps over the whole episode. No sweep lowers the surrogate's bound.
    :param address_prior: the address prior of the machine, a ``OneHotCategorical``; uniform by default.
    :raises ValueError: if ``sweeps < 0``.
    """

    needs_distinct_slots = True

    def __init__(self, sweeps: int = 2, address_prior: Prior | None = None) -> None:
        super().__init__()
        check_at_least("SlotWriter", 0, sweeps=sweeps)
        self.sweeps, self.address_prior = sweeps, address_prior

    @full_precision
    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        variance, size = code_scale**2, codes.shape[-1]
        logits = 0.0 if self.address_prior is None else as_distribution(self.address_prior).logits
        start = prior.expand(codes.shape[:-2])
        start_precision = start.variance[..., 0].reciprocal()  # (B, K)
        loc, precision, weights = start.loc, start_precision, []
        for code in codes.unbind(-2):
            difference = code.unsqueeze(-2) - loc  # (B, K, C)
            predictive = precision.reciprocal() + variance  # U[k, k] + sigma^2
            log_likelihood = -0.5 * (difference.square().sum(-1) / predictive + size * predictive.log())
            weight = (log_likelihood + logits).softmax(-1)
            precision = precision + weight / variance  # Bayes' rule for a code of weight r
            loc = loc + (weight / (variance * precision)).unsqueeze(-1) * difference
            weights.append(weight)
        addresses = torch.stack(weights, -2)  # (B, T, K)
        for _ in range(self.sweeps):
            # -E |z - M[k]|^2 / 2 = -(|z - R[k]|^2 + C U[k, k]) / 2, without |z|^2, which all slots share
            log_likelihood = codes @ loc.mT - 0.5 * (loc.square().sum(-1) + size / precision).unsqueeze(-2)
            addresses = (log_likelihood / variance + logits).softmax(-1)
            precision = start_precision + addresses.sum(-2) / variance  # q(M) from all r
            information = start_precision.unsqueeze(-1) * start.loc + addresses.mT @ codes / variance
            loc = information / precision.unsqueeze(-1)
        factor = precision.rsqrt().diag_embed()
        return WriteResult(MatrixNormal(loc, factor, validate_args=False), addresses)
