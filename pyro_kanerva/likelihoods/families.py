"""The likelihoods of binary, real, grey and categorical patterns."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_kanerva._checks import check_at_least, check_positive, check_scale
from pyro_kanerva.distributions import DiscretizedLogistic


class BernoulliLikelihood(nn.Module):
    """Binary patterns: ``x ~ Bernoulli(sigmoid(output))``; the decoder returns logits of the pattern's shape."""

    def forward(self, output: Tensor) -> dist.Bernoulli:
        """``Bernoulli`` with the shape of ``output``."""
        return dist.Bernoulli(logits=output, validate_args=False)  # check_patterns() checks values, once per call

    def check_patterns(self, patterns: Tensor, label: str) -> None:
        """:raises ValueError: if entries are neither 0 nor 1; ``label`` begins the message."""
        if bool(((patterns != 0) & (patterns != 1)).any()):
            raise ValueError(
                f"{label} have entries other than 0 and 1; the Bernoulli likelihood expects binary patterns. Binarize "
                "them, for example (patterns > 0.5).float(), or use NormalLikelihood."
            )


class NormalLikelihood(nn.Module):
    """Real patterns: ``x ~ Normal(output, scale)``; the decoder returns means of the pattern's shape.

    :param scale: positive standard deviation: a number for all entries, or a tensor that broadcasts to the shape E.
    :param learned: True if ``scale`` is the initial value of a parameter, False if it is fixed.
    :raises ValueError: if ``scale`` is not positive.
    """

    log_scale: Tensor

    def __init__(self, scale: Tensor | float = 1.0, *, learned: bool = True) -> None:
        super().__init__()
        check_scale("NormalLikelihood", scale=scale)
        start = torch.as_tensor(scale, dtype=torch.get_default_dtype()).detach().clone()
        if learned:
            self.log_scale = nn.Parameter(start.log())  # the scale stays positive
        else:
            self.register_buffer("log_scale", start.log())

    def forward(self, output: Tensor) -> dist.Normal:
        """``Normal`` with the shape of ``output``."""
        return dist.Normal(output, self.log_scale.exp(), validate_args=False)


class DiscretizedLogisticLikelihood(nn.Module):
    """Grey levels ``0, 1/(n-1), ..., 1``, such as 8-bit images divided by 255.

    ``x ~ DiscretizedLogistic(sigmoid(output), scale)``, see :class:`pyro_kanerva.distributions.DiscretizedLogistic`;
    the decoder returns a tensor of the pattern's shape.

    :param scale: initial value of the learned scale of the logistic distribution, for grey levels in [0, 1].
    :param num_levels: n, 256 for 8 bits.
    :raises ValueError: if ``scale`` is not positive, or ``num_levels < 2``.
    """

    def __init__(self, scale: float = 0.1, num_levels: int = 256) -> None:
        super().__init__()
        check_positive("DiscretizedLogisticLikelihood", scale=scale)
        check_at_least("DiscretizedLogisticLikelihood", 2, num_levels=num_levels)
        self.num_levels = num_levels
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())

    def forward(self, output: Tensor) -> DiscretizedLogistic:
        """``DiscretizedLogistic`` with the shape of ``output``."""
        return DiscretizedLogistic(output.sigmoid(), self.log_scale.exp(), self.num_levels, validate_args=False)

    def check_patterns(self, patterns: Tensor, label: str) -> None:
        """:raises ValueError: if entries are not levels; ``label`` begins the message."""
        top = self.num_levels - 1
        level = patterns * top
        if bool(((patterns < 0) | (patterns > 1) | ((level - level.round()).abs() > 1e-3)).any()):  # 1e-3: rounding
            raise ValueError(
                f"{label} have entries other than the levels 0, 1/{top}, ..., 1 of the likelihood. Divide integers "
                f"from 0 to {top} by {top}."
            )


class CategoricalLikelihood(nn.Module):
    """Patterns of classes 0 ... num_classes - 1: ``x ~ Categorical(softmax(output))``.

    Patterns are int64, or float of the dtype of the machine. The encoder always gets them as floats.

    The decoder returns logits of shape (N,) + E + (num_classes,).

    :raises ValueError: if ``num_classes < 2``.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        check_at_least("CategoricalLikelihood", 2, num_classes=num_classes)
        self.num_classes = num_classes

    def forward(self, output: Tensor) -> dist.Categorical:
        """``Categorical`` with the shape of ``output`` without its last dimension.

        :raises ValueError: if the last dimension does not have the size ``num_classes``.
        """
        if output.shape[-1] != self.num_classes:
            raise ValueError(
                f"CategoricalLikelihood: the decoder's output has shape {tuple(output.shape)}; expected logits of "
                f"{self.num_classes} classes in the last dimension."
            )
        return dist.Categorical(logits=output, validate_args=False)

    def check_patterns(self, patterns: Tensor, label: str) -> None:
        """:raises ValueError: if entries are not classes; ``label`` begins the message."""
        if bool(((patterns < 0) | (patterns >= self.num_classes) | (patterns != patterns.round())).any()):
            raise ValueError(
                f"{label} have entries other than the classes 0 ... {self.num_classes - 1} of the likelihood."
            )
