"""Address priors: modules whose ``forward()`` returns a distribution of event shape (K,), K = ``num_slots``."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least, check_positive
from pyro_kanerva.distributions import AdditiveLogistic, GaussianMixture, HorseshoeLike


class GaussianAddress(nn.Module):
    """The address prior of the paper, ``w ~ Normal(0, I_K)``.

    :raises ValueError: if ``num_slots`` is not positive.
    """

    identity: Tensor

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        check_at_least("GaussianAddress", 1, num_slots=num_slots)
        self.register_buffer("identity", torch.eye(num_slots), persistent=False)

    def forward(self) -> dist.MultivariateNormal:
        """``MultivariateNormal`` of batch shape () and event shape (K,)."""
        loc = torch.zeros_like(self.identity[0])
        return dist.MultivariateNormal(loc, scale_tril=self.identity, validate_args=False)


class LaplaceAddress(nn.Module):
    """Sparse addresses, ``w_k ~ Laplace(0, scale)``, independent. The default ``scale`` gives variance 1.

    :raises ValueError: if ``num_slots`` or ``scale`` is not positive.
    """

    scale: Tensor

    def __init__(self, num_slots: int, scale: float = 0.5**0.5) -> None:
        super().__init__()
        check_at_least("LaplaceAddress", 1, num_slots=num_slots)
        check_positive("LaplaceAddress", scale=scale)
        self.register_buffer("scale", torch.full((num_slots,), float(scale)), persistent=False)

    def forward(self) -> dist.Independent:
        """Independent ``Laplace`` of batch shape () and event shape (K,)."""
        return dist.Laplace(torch.zeros_like(self.scale), self.scale, validate_args=False).to_event(1)


class StudentTAddress(nn.Module):
    """Heavy-tailed addresses, ``w_k ~ StudentT(df, 0, scale)``, independent, with ``df`` degrees of freedom.

    :raises ValueError: if an argument is not positive.
    """

    df: Tensor
    scale: Tensor

    def __init__(self, num_slots: int, df: float = 4.0, scale: float = 1.0) -> None:
        super().__init__()
        check_at_least("StudentTAddress", 1, num_slots=num_slots)
        check_positive("StudentTAddress", df=df, scale=scale)
        self.register_buffer("df", torch.tensor(float(df)), persistent=False)
        self.register_buffer("scale", torch.full((num_slots,), float(scale)), persistent=False)

    def forward(self) -> dist.Independent:
        """Independent ``StudentT`` of batch shape () and event shape (K,)."""
        return dist.StudentT(self.df, torch.zeros_like(self.scale), self.scale, validate_args=False).to_event(1)


class HorseshoeAddress(nn.Module):
    """Very sparse addresses: most weights are near zero, some are far from it.

    ``w_k ~ HorseshoeLike(scale)``, independent, see :class:`pyro_kanerva.distributions.HorseshoeLike`.

    :raises ValueError: if ``num_slots`` or ``scale`` is not positive.
    """

    scale: Tensor

    def __init__(self, num_slots: int, scale: float = 0.5) -> None:
        super().__init__()
        check_at_least("HorseshoeAddress", 1, num_slots=num_slots)
        check_positive("HorseshoeAddress", scale=scale)
        self.register_buffer("scale", torch.full((num_slots,), float(scale)), persistent=False)

    def forward(self) -> dist.Independent:
        """Independent ``HorseshoeLike`` of batch shape () and event shape (K,)."""
        return dist.Independent(HorseshoeLike(self.scale, validate_args=False), 1)


class SimplexAddress(nn.Module):
    """Logistic-normal addresses on the simplex: ``w = softmax(v)``, ``v_k ~ Normal(0, scale^2)`` independent.

    A code ``M^T w`` is then a convex combination of the slots. The density is with respect to the first K - 1 weights.
    Source: Aitchison and Shen 1980, "Logistic-normal distributions", Biometrika 67(2).

    :param scale: standard deviation of v. A small one makes all weights similar, a large one nearly selects one slot.
    :raises ValueError: if ``num_slots < 2``, or ``scale`` is not positive.
    """

    scale_tril: Tensor

    def __init__(self, num_slots: int, scale: float = 3.0) -> None:
        super().__init__()
        check_at_least("SimplexAddress", 2, num_slots=num_slots)
        check_positive("SimplexAddress", scale=scale)
        # softmax(v) = softmax([u, 0]) for u_k = v_k - v_K, and u has the covariance scale^2 (I + 1 1^T).
        size = num_slots - 1
        covariance = scale**2 * (torch.eye(size, dtype=torch.float64) + 1)
        factor = torch.linalg.cholesky(covariance).to(torch.get_default_dtype())
        self.register_buffer("scale_tril", factor, persistent=False)

    def forward(self) -> dist.TransformedDistribution:
        """``TransformedDistribution`` of batch shape () and event shape (K,), on the simplex."""
        loc = torch.zeros_like(self.scale_tril[0])
        base = dist.MultivariateNormal(loc, scale_tril=self.scale_tril, validate_args=False)
        return dist.TransformedDistribution(base, [AdditiveLogistic()], validate_args=False)


class MixtureAddress(nn.Module):
    """A Gaussian around each slot: "one of these", where a slot can hold more than one pattern.

    ::

        p(w) = 1/K sum_k Normal(e_k, scale^2 I)

    A small ``scale`` gives :class:`CategoricalAddress`, one pattern per slot; with a large one the components melt into
    the single Gaussian of the paper. The posterior of an address is a mixture too: attention over the slots.

    :param scale: tau, the standard deviation around a slot.
    :raises ValueError: if ``num_slots`` or ``scale`` is not positive.
    """

    slots: Tensor
    scale_tril: Tensor

    def __init__(self, num_slots: int, scale: float = 0.01) -> None:
        super().__init__()
        check_at_least("MixtureAddress", 1, num_slots=num_slots)
        check_positive("MixtureAddress", scale=scale)
        self.register_buffer("slots", torch.eye(num_slots), persistent=False)  # e_1 ... e_K
        self.register_buffer("scale_tril", scale * torch.eye(num_slots), persistent=False)

    def forward(self) -> GaussianMixture:
        """``GaussianMixture`` of batch shape () and event shape (K,)."""
        zero = torch.zeros_like(self.slots[0])
        return GaussianMixture(zero, self.slots, zero, self.scale_tril, validate_args=False)


class CategoricalAddress(nn.Module):
    """A slot memory: ``w`` is one-hot and uniform, so each pattern is stored in one slot.

    Train with ``TraceEnum_ELBO(max_plate_nesting=2)``, as ``fit`` does: it sums discrete addresses out under
    q(w | x, M). If the site "address" is hidden from the guide, the model sums it out exactly.

    :raises ValueError: if ``num_slots`` is not positive.
    """

    logits: Tensor

    def __init__(self, num_slots: int) -> None:
        super().__init__()
        check_at_least("CategoricalAddress", 1, num_slots=num_slots)
        self.register_buffer("logits", torch.zeros(num_slots), persistent=False)  # uniform

    def forward(self) -> dist.OneHotCategorical:
        """``OneHotCategorical`` of batch shape () and event shape (K,)."""
        return dist.OneHotCategorical(logits=self.logits, validate_args=False)
