"""The writers of slot memories: one pattern per slot, or a Gaussian around each slot."""

import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least
from pyro_kanerva._precision import full_precision
from pyro_kanerva.conjugate import NaturalParameters, block_update, code_information, mixture_address_posterior
from pyro_kanerva.distributions import GaussianMixture, MatrixNormal
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
        addresses, loc, precision = _assign_in_turn(codes, start, variance, logits)
        for _ in range(self.sweeps):
            # -E |z - M[k]|^2 / 2 = -(|z - R[k]|^2 + C U[k, k]) / 2, without |z|^2, which all slots share
            log_likelihood = codes @ loc.mT - 0.5 * (loc.square().sum(-1) + size / precision).unsqueeze(-2)
            addresses = (log_likelihood / variance + logits).softmax(-1)
            loc, precision = _clusters(codes, start, variance, addresses)
        factor = precision.rsqrt().diag_embed()
        # E[w w^T] = diag(r) for a one-hot address
        part = NaturalParameters((addresses.sum(-2) / variance).diag_embed(), addresses.mT @ codes / variance)
        return WriteResult(MatrixNormal(loc, factor, validate_args=False), addresses, statistics=part)


class MixtureWriter(nn.Module):
    """The writer for a Gaussian around each slot: cluster the codes, then infer addresses and memory by turns.

    ::

        r[t] <- the weights of SlotWriter, with sigma^2 enlarged by the mean variance of codes within a slot
        MN(R, U) <- q(M) of these clusters
        then sweeps times:  q(w_t) <- p(w_t) exp E[log Normal(z_t; M^T w_t, sigma^2 I)],  a mixture in closed form
                            MN(R, U) <- q(M) from E[w_t] and E[w_t w_t^T] of all patterns

    No sweep lowers the surrogate's bound. The first weights are a choice of slots, through which no gradient flows.

    :param address_prior: the address prior of the machine, a ``GaussianMixture`` with one component per slot.
    :param sweeps: coordinate-ascent sweeps over the whole episode.
    :raises ValueError: if ``sweeps < 1``, or the prior is another one.
    """

    needs_distinct_slots = True

    def __init__(self, address_prior: Prior, sweeps: int = 2) -> None:
        super().__init__()
        check_at_least("MixtureWriter", 1, sweeps=sweeps)
        distribution = as_distribution(address_prior)
        if not isinstance(distribution, GaussianMixture) or len(distribution.logits) != distribution.event_shape[0]:
            raise ValueError(
                f"MixtureWriter: the address prior is {type(distribution).__name__}; expected a GaussianMixture with a "
                "component for each slot, as MixtureAddress(num_slots) returns."
            )
        self.address_prior, self.sweeps = address_prior, sweeps

    @full_precision
    def forward(self, codes: Tensor, prior: MatrixNormal, code_scale: Tensor) -> WriteResult:
        """Write ``codes`` (B, T, C) into ``prior``; its batch shape is () or (B,)."""
        address_prior, variance = as_distribution(self.address_prior), code_scale**2
        assert isinstance(address_prior, GaussianMixture)
        start = prior.expand(codes.shape[:-2])
        with torch.no_grad():
            second_moment = code_information(start.loc, codes.new_ones(()), start.row_covariance)  # E[M M^T]
            within = (address_prior.covariance_of_components * second_moment).sum((-2, -1)) / codes.shape[-1]
            weights, _, _ = _assign_in_turn(codes, start, variance + within.unsqueeze(-1), address_prior.logits)
        loc, precision = _clusters(codes, start, variance, weights)
        posterior = MatrixNormal(loc, precision.rsqrt().diag_embed(), validate_args=False)
        for _ in range(self.sweeps):
            q = mixture_address_posterior(
                codes, posterior.loc, code_scale, address_prior, row_covariance=posterior.row_covariance
            )
            addresses, factor = q.mean, q.mean_covariance_scale_tril()
            posterior = block_update(start, addresses, codes, code_scale, factor)
        return WriteResult(posterior, addresses, factor)


def _assign_in_turn(
    codes: Tensor, start: MatrixNormal, variance: Tensor, logits: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """Weights r (B, T, K), means R (B, K, C) and precisions 1 / U[k, k] (B, K) after writing one code after the other.

    ``variance`` is sigma^2, () or (B, 1).
    """
    size, loc, precision = codes.shape[-1], start.loc, start.variance[..., 0].reciprocal()
    weights = []
    for code in codes.unbind(-2):
        difference = code.unsqueeze(-2) - loc  # (B, K, C)
        predictive = precision.reciprocal() + variance  # U[k, k] + sigma^2
        log_likelihood = -0.5 * (difference.square().sum(-1) / predictive + size * predictive.log())
        weight = (log_likelihood + logits).softmax(-1)
        precision = precision + weight / variance  # Bayes' rule for a code of weight r
        loc = loc + (weight / (variance * precision)).unsqueeze(-1) * difference
        weights.append(weight)
    return torch.stack(weights, -2), loc, precision


def _clusters(codes: Tensor, start: MatrixNormal, variance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means R (B, K, C) and precisions 1 / U[k, k] (B, K) of q(M) given the weights r (B, T, K) of all codes."""
    start_precision = start.variance[..., 0].reciprocal()
    precision = start_precision + weights.sum(-2) / variance
    information = start_precision.unsqueeze(-1) * start.loc + weights.mT @ codes / variance
    return information / precision.unsqueeze(-1), precision
