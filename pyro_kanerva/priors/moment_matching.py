"""The Gaussian that replaces a prior in the guide: the prior itself, or a Gaussian of equal moments."""

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva._checks import kind_of
from pyro_kanerva.distributions import MatrixNormal
from pyro_kanerva.priors.base import HasSurrogate, Prior, as_distribution


def finite_moment(distribution: dist.TorchDistribution | None, moment: str) -> Tensor | None:
    """The ``moment``, "mean" or "variance", if it is implemented and finite, else None."""
    try:
        value: Tensor = getattr(distribution, moment)
    except (AttributeError, NotImplementedError):
        return None
    return value if bool(value.isfinite().all()) else None


def _moments(name: str, prior: dist.TorchDistribution, remedy: str) -> tuple[Tensor, Tensor]:
    mean, variance = finite_moment(prior, "mean"), finite_moment(prior, "variance")
    if mean is None or variance is None:
        raise ValueError(
            f"The {name} prior {kind_of(prior)} has no finite mean and variance, so no Gaussian can be "
            f"matched to it for writing and reading. {remedy}"
        )
    return mean, variance


def moment_matched_memory(prior: Prior) -> MatrixNormal:
    """The Gaussian from which writers start: the prior itself, its ``surrogate()``, or a Gaussian of equal moments.

    The last has the mean of the prior, and independent slots with the prior's variances, averaged over columns.

    :raises ValueError: if the prior has no finite mean and variance, or its surrogate has a column factor.
    """
    if isinstance(prior, HasSurrogate):
        gaussian = prior.surrogate()
        if not isinstance(gaussian, MatrixNormal) or gaussian.scale_tril_column is not None:
            raise ValueError(
                f"The surrogate of {type(prior).__name__} is {type(gaussian).__name__}; expected a MatrixNormal with "
                "scale_tril_column=None."
            )
        return gaussian
    distribution = as_distribution(prior)
    if isinstance(distribution, MatrixNormal) and distribution.scale_tril_column is None:
        return distribution
    remedy = "Choose parameters that give it a finite variance, or pass Surrogate(prior, GaussianMemory(...))."
    mean, variance = _moments("memory", distribution, remedy)
    # MN(R, U, I) has one variance per slot, so the columns must share it.
    return MatrixNormal(mean, variance.mean(-1).sqrt().diag_embed(), validate_args=False)


def exact_gaussian_or_none(prior: dist.TorchDistribution) -> dist.MultivariateNormal | None:
    """A ``MultivariateNormal`` equal to the address prior if that is Gaussian, else None."""
    if isinstance(prior, dist.MultivariateNormal):
        return prior
    if isinstance(prior, torch.distributions.Independent) and isinstance(prior.base_dist, torch.distributions.Normal):
        scale_tril = prior.base_dist.scale.diag_embed()
        return dist.MultivariateNormal(prior.base_dist.loc, scale_tril=scale_tril, validate_args=False)
    return None


def moment_matched_address(prior: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
    """Mean (K,) and precision (K, K) of the prior if it is Gaussian, else of a Gaussian of equal mean and variances.

    :raises ValueError: if the prior has no finite mean and variance.
    """
    gaussian = exact_gaussian_or_none(prior)
    if gaussian is not None:
        return gaussian.loc, gaussian.precision_matrix
    mean, variance = _moments("address", prior, "Use LaplaceReader(), which needs none.")
    return mean, variance.reciprocal().diag_embed()
