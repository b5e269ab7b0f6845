"""Is a density that of its samples, and normalized?"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import biject_to, identity_transform

from pyro_kanerva.testing.common import check, check_equal_means, effective


def check_density(name: str, distribution: dist.TorchDistribution, num_samples: int = 10000) -> None:
    r"""``log_prob`` is the normalized log density, or log probability, of what ``sample`` and ``rsample`` draw.

    *Discrete*, where fewer than half of the samples are distinct: in every batch element the frequency of each value
    drawn is ``exp(log_prob)`` within 6 binomial standard errors and ``12 / num_samples``; where the values can be
    enumerated, their probabilities add up to 1 within 1e-4.

    *Continuous*, all batch elements jointly: with ``p = exp(log_prob)``, ``s`` the law of the samples, ``r`` any
    normalized density, and any bounded function ``g``, equality of ``p`` and ``s`` implies the bridge identity

    ::

        E_r[g p / (p + r)] = E_s[g r / (p + r)]                 both are the integral of g p r / (p + r)

    Both sides are means of bounded variables, so that their standard errors hold for heavy tails as well. ``r`` is an
    equal mixture of a Gaussian and a product of Student-t, fitted to other samples; ``g`` runs over 1, and over
    bounded functions of each coordinate and of neighboring pairs. ``g = 1`` sees a wrong constant: for ``c p`` the
    difference grows with ``log c``. Its slope gives the standard error of the log constant, which has to be small
    enough to see a factor of 2, else the check fails for want of power. Densities that agree on these functions to
    within that error are not told apart. Other supports are checked in the unconstrained space of
    ``biject_to(support)``, with the Jacobian.

    :raises AssertionError: if the identity fails, or cannot be checked.

    Source: Meng and Wong 1996, "Simulating ratios of normalizing constants via a simple identity", Statistica
    Sinica 6.
    """
    with torch.no_grad():
        samples = distribution.sample((num_samples,))
        first = samples.reshape(num_samples, -1)[:, 0] if not distribution.event_shape else samples
        if len(first.reshape(num_samples, -1).unique(dim=0)) < num_samples / 2:
            _check_probabilities(name, distribution, samples)
        else:
            _check_bridge(name, distribution, samples)


def _check_probabilities(name: str, distribution: dist.TorchDistribution, samples: Tensor) -> None:
    number = len(samples)
    log_prob = distribution.log_prob(samples).reshape(number, -1)
    rows = samples.reshape(number, log_prob.shape[1], -1)
    for element in range(log_prob.shape[1]):
        values, index, counts = rows[:, element].unique(dim=0, return_inverse=True, return_counts=True)
        probability = torch.zeros_like(log_prob[: len(values), 0]).scatter(0, index, log_prob[:, element].exp())
        frequency = counts / number
        allowed = 6 * (probability * (1 - probability).clamp_min(0) / number).sqrt() + 12 / number
        score = ((frequency - probability).abs() / allowed).nan_to_num(torch.inf)
        worst = int(score.argmax())
        check(
            score.max() <= 1,
            name,
            f"samples of {values[worst].tolist()} with the probability exp(log_prob) = {probability[worst]:.4g}",
            f"the frequency {frequency[worst]:.4g} among {number}",
            "Make sample() and log_prob() describe one normalized distribution.",
        )
    if distribution.has_enumerate_support:
        total = distribution.log_prob(distribution.enumerate_support()).exp().sum(0).flatten()[0]
        remedy = "Normalize log_prob()."
        check((total - 1).abs() < 1e-4, name, "probabilities that add up to 1", f"{total:.6g}", remedy)


def _check_bridge(name: str, distribution: dist.TorchDistribution, fitted: Tensor) -> None:
    number = len(fitted)
    try:
        transform = biject_to(distribution.support)
    except NotImplementedError:
        transform = identity_transform  # then log_prob has to know where the density vanishes
    shape = transform.inv(fitted).shape[1:]

    def log_density(points: Tensor) -> Tensor:
        points = points.reshape(-1, *shape)
        values = transform(points)
        jacobian = transform.log_abs_det_jacobian(points, values).reshape(len(points), -1).sum(1)
        return distribution.log_prob(values).reshape(len(points), -1).sum(1) + jacobian

    def real(samples: Tensor) -> Tensor:
        samples = transform.inv(samples).reshape(number, -1)
        remedy = "Check the parameters' constraints."
        check(samples.isfinite().all(), name, "finite samples", "NaN or infinite ones", remedy)
        return samples

    fitted = real(fitted)  # (N, D)
    low, loc, high = fitted.quantile(fitted.new_tensor([0.16, 0.5, 0.84]), dim=0)
    scale = (high - low) / 2
    remedy = "Add noise to it: a density needs all of its dimensions."
    check((scale > 0).all(), name, "samples that vary in every coordinate", "a constant coordinate", remedy)
    size = len(scale)
    clipped = ((fitted - loc) / scale).clamp(-6, 6)  # a covariance for heavy tails as well
    covariance = clipped.T.cov().reshape(size, size) + 1e-5 * torch.eye(size, dtype=scale.dtype)
    factor = scale.unsqueeze(-1) * torch.linalg.cholesky(covariance)
    zero, one = torch.zeros_like(loc), torch.ones_like(loc)
    parts = [dist.Normal(zero, one).to_event(1), dist.StudentT(3 * one, zero, one).to_event(1)]

    def log_ratio(points: Tensor) -> Tensor:  # log p / r
        white = torch.linalg.solve_triangular(factor, (points - loc).T, upper=False).T
        mixture = torch.stack([part.log_prob(white) for part in parts]).logsumexp(0) - math.log(2)
        result = log_density(points) - mixture + factor.diagonal().log().sum()
        remedy = "Return a log density everywhere on the support, -inf where it vanishes."
        check(not result.isnan().any(), name, "a log_prob without NaN", "NaN", remedy)
        return result.unsqueeze(-1)

    def functions(points: Tensor) -> Tensor:
        bounded = ((points - loc) / scale).tanh()
        return torch.cat([torch.ones_like(points[:, :1]), bounded, bounded**2, bounded * bounded.roll(1, -1)], -1)

    reference = loc + torch.cat([part.sample((number // 2,)) for part in parts]) @ factor.T
    left = log_ratio(reference).sigmoid()
    for draw in [distribution.sample] + [distribution.rsample] * distribution.has_rsample:
        samples = real(draw((number,)))
        right = (-log_ratio(samples)).sigmoid()
        remedy = (
            f"Either {draw.__name__}() and log_prob() describe different densities, or this one is too far from a "
            "Gaussian to be checked in so many dimensions: check a smaller instance, as num_slots=2, code_size=2."
        )
        least = min(effective(left), effective(right))
        what = "at least 100 effective samples where the density and its Gaussian and Student-t reference overlap"
        check(least >= 100, name, what, f"{least:.1f} in {size} dimensions", remedy)
        slope = (left * (1 - left)).mean() + (right * (1 - right)).mean()
        constant = (left.mean() - right.mean()) / slope
        remedy = (
            f"Make {draw.__name__}() and log_prob() describe one density, normalized over the whole event. As it is, "
            f"log_prob seems to integrate to about exp({constant:.2f})."
        )
        what = "log_prob to be the normalized log density of the samples"
        check_equal_means(name, what, left * functions(reference), right * functions(samples), remedy)
        error = 6 * ((left.var() + right.var()) / number).sqrt() / slope
        what = "a check of the constant of log_prob to 0.69 nats at 6 standard errors"
        remedy = "Check a smaller instance, for example num_slots=2, code_size=2."
        check(error < math.log(2), name, what, f"{error:.2f} nats in {size} dimensions", remedy)
