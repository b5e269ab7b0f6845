"""Check that a distribution's density is normalized and belongs to its samples."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, identity_transform

from pyro_kanerva.testing.common import check, check_equal_means, effective


def check_density(name: str, distribution: dist.TorchDistribution, num_samples: int = 10000) -> None:
    """Check that ``log_prob`` is the normalized log density, or log probability, of the samples.

    *Discrete*, if fewer than half of the samples are distinct. In every batch element the frequency of each sampled
    value must be ``exp(log_prob)`` within 6 binomial standard errors plus ``12 / num_samples``. If the support can be
    enumerated, the probabilities must add up to 1 within 1e-4.

    *Continuous*, all batch elements jointly. Let ``p = exp(log_prob)``, s the density of the samples, r any normalized
    density and g any bounded function. If p = s, the bridge identity holds::

        E_r[g p / (p + r)] = E_s[g r / (p + r)]                 both are the integral of g p r / (p + r)

    Both sides are means of bounded variables, so their standard errors are valid for heavy tails as well. r is an equal
    mixture of a Gaussian and a product of Student-t, fitted to other samples. g is 1, and bounded functions of each
    coordinate and of neighboring pairs. ``g = 1`` detects a wrong constant: for ``c p`` the difference of the two sides
    grows with ``log c``. Its slope gives the standard error of the log constant; the check fails if that is too large
    to detect a factor of 2. The check does not distinguish densities that agree on these functions within the error.
    Other supports are checked in the unconstrained space of ``biject_to(support)``, with the Jacobian. Source: Meng and
    Wong 1996, "Simulating ratios of normalizing constants via a simple identity", Statistica Sinica 6.

    :raises AssertionError: if the identity fails, or the error is too large.
    """
    with torch.no_grad():
        samples = distribution.sample((num_samples,))
        first = samples.reshape(num_samples, -1)[:, 0] if not distribution.event_shape else samples
        if len(first.reshape(num_samples, -1).unique(dim=0)) < num_samples / 2:
            _check_probabilities(name, distribution, samples)
        else:
            _check_bridge(name, distribution, samples)


def _check_probabilities(name: str, distribution: dist.TorchDistribution, samples: Tensor) -> None:
    num_samples = len(samples)
    log_prob = distribution.log_prob(samples).reshape(num_samples, -1)
    rows = samples.reshape(num_samples, log_prob.shape[1], -1)
    for element in range(log_prob.shape[1]):
        values, index, counts = rows[:, element].unique(dim=0, return_inverse=True, return_counts=True)
        probability = torch.zeros_like(log_prob[: len(values), 0]).scatter(0, index, log_prob[:, element].exp())
        frequency = counts / num_samples
        allowed = 6 * (probability * (1 - probability).clamp_min(0) / num_samples).sqrt() + 12 / num_samples
        score = ((frequency - probability).abs() / allowed).nan_to_num(torch.inf)
        worst = int(score.argmax())
        what = f"samples of {values[worst].tolist()} with the probability exp(log_prob) = {probability[worst]:.4g}"
        found = f"the frequency {frequency[worst]:.4g} among {num_samples}"
        remedy = "Make sample() and log_prob() describe one normalized distribution."
        check(score.max() <= 1, name, what, found, remedy)
    if distribution.has_enumerate_support:
        total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0).flatten()[0]
        remedy = "Normalize log_prob()."
        check((total - 1).abs() < 1e-4, name, "probabilities that add up to 1", f"{total:.6g}", remedy)


def _check_bridge(name: str, distribution: dist.TorchDistribution, fitted: Tensor) -> None:
    num_samples = len(fitted)
    try:
        transform = biject_to(distribution.support)
    except NotImplementedError:
        transform = identity_transform  # log_prob must then be -inf outside the support
    shape = transform.inv(fitted).shape[1:]

    def log_density(points: Tensor) -> Tensor:
        points = points.reshape(-1, *shape)
        values = transform(points)
        jacobian = transform.log_abs_det_jacobian(points, values).reshape(len(points), -1).sum(1)
        return distribution.log_prob(values).reshape(len(points), -1).sum(1) + jacobian

    def unconstrained(samples: Tensor) -> Tensor:
        samples = transform.inv(samples).reshape(num_samples, -1)
        remedy = "Check the parameters' constraints."
        check(samples.isfinite().all(), name, "finite samples", "NaN or infinite ones", remedy)
        return samples

    # Fit r: location and scale from quantiles, and the covariance of clipped samples, which exist for heavy tails.
    fitted = unconstrained(fitted)  # (N, D)
    low, loc, high = fitted.quantile(fitted.new_tensor([0.16, 0.5, 0.84]), dim=0)
    scale = (high - low) / 2
    remedy = "Add noise to it: a density needs all of its dimensions."
    check((scale > 0).all(), name, "samples that vary in every coordinate", "a constant coordinate", remedy)
    size = len(scale)
    clipped = ((fitted - loc) / scale).clamp(-6, 6)
    covariance = clipped.T.cov().reshape(size, size) + 1e-5 * torch.eye(size, dtype=scale.dtype)
    factor = scale.unsqueeze(-1) * torch.linalg.cholesky(covariance)
    zero, one = torch.zeros_like(loc), torch.ones_like(loc)
    parts = [dist.Normal(zero, one).to_event(1), dist.StudentT(3 * one, zero, one).to_event(1)]

    def log_ratio(points: Tensor) -> Tensor:
        """``log p - log r`` (N, 1); p / (p + r) is its sigmoid."""
        white = torch.linalg.solve_triangular(factor, (points - loc).T, upper=False).T
        mixture = torch.stack([part.log_prob(white) for part in parts]).logsumexp(0) - math.log(2)
        result = log_density(points) - mixture + factor.diagonal().log().sum()
        remedy = "Return a log density everywhere on the support, -inf where it vanishes."
        check(not result.isnan().any(), name, "a log_prob without NaN", "NaN", remedy)
        return result.unsqueeze(-1)

    def functions(points: Tensor) -> Tensor:
        """The values of all functions g (N, 3 D + 1)."""
        bounded = ((points - loc) / scale).tanh()
        return torch.cat([torch.ones_like(points[:, :1]), bounded, bounded**2, bounded * bounded.roll(1, -1)], -1)

    reference = loc + torch.cat([part.sample((num_samples // 2,)) for part in parts]) @ factor.T  # from r
    left = log_ratio(reference).sigmoid()
    for draw in [distribution.sample] + [distribution.rsample] * distribution.has_rsample:
        samples = unconstrained(draw((num_samples,)))
        right = (-log_ratio(samples)).sigmoid()
        remedy = (
            f"Either {draw.__name__}() and log_prob() describe different densities, or this one is too far from a "
            "Gaussian to be checked in so many dimensions: check a smaller instance, as num_slots=2, code_size=2."
        )
        least = min(effective(left), effective(right))
        what = "at least 100 effective samples where the density and its Gaussian and Student-t reference overlap"
        check(least >= 100, name, what, f"{least:.1f} in {size} dimensions", remedy)
        # The derivative by log c of the difference of both sides at g = 1, for a density c p.
        slope = (left * (1 - left)).mean() + (right * (1 - right)).mean()
        constant = (left.mean() - right.mean()) / slope
        remedy = (
            f"Make {draw.__name__}() and log_prob() describe one density, normalized over the whole event. As it is, "
            f"log_prob seems to integrate to about exp({constant:.2f})."
        )
        what = "log_prob to be the normalized log density of the samples"
        check_equal_means(name, what, left * functions(reference), right * functions(samples), remedy)
        error = 6 * ((left.var() + right.var()) / num_samples).sqrt() / slope
        what = "a check of the constant of log_prob to 0.69 nats at 6 standard errors"
        remedy = "Check a smaller instance, for example num_slots=2, code_size=2."
        check(error < math.log(2), name, what, f"{error:.2f} nats in {size} dimensions", remedy)
