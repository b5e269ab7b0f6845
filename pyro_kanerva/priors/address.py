"""Address priors, modules that return a distribution of event shape (K,)."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least, check_positive
from pyro_kanerva.distributions import AdditiveLogistic, HorseshoeLike


class GaussianAddress(nn.Module):
    """The address prior of the paper, ``w ~ Normal(0, I_K)``.

    :param num_slots: K.
    :raises ValueError: if ``num_slots`` is not positive.
    """

    identity: Tensor

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        check_at_least("GaussianAddress", 1, num_slots=num_slots)
        self.register_buffer("identity", torch.eye(num_slots), persistent=False)

    def forward(self) -> dist.MultivariateNormal:
        """``MultivariateNormal`` of batch shape () and event shape (K,)."""
        return dist.MultivariateNormal(
            self.identity.new_zeros(self.identity.shape[0]), scale_tril=self.identity, validate_args=False
        )


class LaplaceAddress(nn.Module):
    """Sparse addresses, ``w_k ~ Laplace(0, scale)``, independent.

    :param num_slots: K.
    :param scale: of the Laplace distribution; the default has variance 1.
    :raises ValueError: if ``num_slots`` or ``scale`` is not positive.
    """

    scale: Tensor

    def __init__(self, num_slots: int, scale: float = 0.5**0.5) -> None:
        super().__init__()
        check_at_least("LaplaceAddress", 1, num_slots=num_slots)
        check_positive("LaplaceAddress", scale=scale)
        self.register_buffer("scale", torch.full((num_slots,), scale), persistent=False)

    def forward(self) -> dist.Independent:
        """Independent ``Laplace`` of batch shape () and event shape (K,)."""
        return dist.Laplace(torch.zeros_like(self.scale), self.scale, validate_args=False).to_event(1)


class StudentTAddress(nn.Module):
    """Heavy-tailed addresses, ``w_k ~ StudentT(df, 0, scale)``, independent.

    :param num_slots: K.
    :param df: degrees of freedom.
    :param scale: of the Student-t distribution.
    :raises ValueError: if an argument is not positive.
    """

    df: Tensor
    scale: Tensor

    def __init__(self, num_slots: int, df: float = 4.0, scale: float = 1.0) -> None:
        super().__init__()
        check_at_least("StudentTAddress", 1, num_slots=num_slots)
        check_positive("StudentTAddress", df=df, scale=scale)
        self.register_buffer("df", torch.tensor(float(df)), persistent=False)
        self.register_buffer("scale", torch.full((num_slots,), scale), persistent=False)

    def forward(self) -> dist.Independent:
        """Independent ``StudentT`` of batch shape () and event shape (K,)."""
        return dist.StudentT(self.df, torch.zeros_like(self.scale), self.scale, validate_args=False).to_event(1)


class HorseshoeAddress(nn.Module):
    """Very sparse addresses: most slots near zero, some far from it.

    ``w_k ~ HorseshoeLike(scale)``, independent, see :class:`pyro_kanerva.distributions.HorseshoeLike`.

    :param num_slots: K.
    :param scale: of the horseshoe-like distribution.
    :raises ValueError: if ``num_slots`` or ``scale`` is not positive.
    """

    scale: Tensor

    def __init__(self, num_slots: int, scale: float = 0.5) -> None:
        super().__init__()
        check_at_least("HorseshoeAddress", 1, num_slots=num_slots)
        check_positive("HorseshoeAddress", scale=scale)
        self.register_buffer("scale", torch.full((num_slots,), scale), persistent=False)

    def forward(self) -> dist.Independent:
        """Independent ``HorseshoeLike`` of batch shape () and event shape (K,)."""
        return dist.Independent(HorseshoeLike(self.scale, validate_args=False), 1)


class SimplexAddress(nn.Module):
    r"""Addresses that are weights: ``w = softmax(v)``, ``v_k ~ Normal(0, scale^2)`` independent, a logistic-normal.

    What is read is then a convex combination of the slots. The density is one on the simplex, of the first
    K - 1 weights.

    :param num_slots: K, at least 2.
    :param scale: the standard deviation of v; small: all slots alike, large: nearly one slot.
    :raises ValueError: if ``num_slots < 2``, or ``scale`` is not positive.

    Source: Aitchison and Shen 1980, "Logistic-normal distributions", Biometrika 67(2).
    """

    scale_tril: Tensor

    def __init__(self, num_slots: int, scale: float = 3.0) -> None:
        super().__init__()
        check_at_least("SimplexAddress", 2, num_slots=num_slots)
        check_positive("SimplexAddress", scale=scale)
        # softmax(v) = softmax([u, 0]) for u_k = v_k - v_K, which have the covariance scale^2 (I + 1 1^T)
        size = num_slots - 1
        covariance = scale**2 * (torch.eye(size, dtype=torch.float64) + 1)
        factor = torch.linalg.cholesky(covariance).to(torch.get_default_dtype())
        self.register_buffer("scale_tril", factor, persistent=False)

    def forward(self) -> dist.TransformedDistribution:
        """``TransformedDistribution`` of batch shape () and event shape (K,), on the simplex."""
        base = dist.MultivariateNormal(
            self.scale_tril.new_zeros(self.scale_tril.shape[0]), scale_tril=self.scale_tril, validate_args=False
        )
        return dist.TransformedDistribution(base, [AdditiveLogistic()], validate_args=False)


class CategoricalAddress(nn.Module):
    """One slot per pattern: ``w`` is one-hot, every slot equally likely. The slot memory.

    A discrete address is summed out: train with ``TraceEnum_ELBO(max_plate_nesting=2)``, as ``fit`` does.
    Hide the site "address" from the guide, and the model sums it out with its exact posterior.

    :param num_slots: K.
    :raises ValueError: if ``num_slots`` is not positive.
    """

    logits: Tensor

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        check_at_least("CategoricalAddress", 1, num_slots=num_slots)
        self.register_buffer("logits", torch.zeros(num_slots), persistent=False)

    def forward(self) -> dist.OneHotCategorical:
        """``OneHotCategorical`` of batch shape () and event shape (K,)."""
        return dist.OneHotCategorical(logits=self.logits, validate_args=False)
