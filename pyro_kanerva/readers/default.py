"""The reader that a machine has by default."""

from __future__ import annotations

import pyro.distributions as dist
from torch import nn

from pyro_kanerva.priors import exact_gaussian_or_none
from pyro_kanerva.readers.exact import ExactReader
from pyro_kanerva.readers.laplace import LaplaceReader
from pyro_kanerva.readers.slots import SlotReader


def reader_for(address_prior: dist.TorchDistribution) -> nn.Module:
    """The reader that fits a prior: exact if it is Gaussian or one-hot, else by Newton steps."""
    if isinstance(address_prior, dist.OneHotCategorical):
        return SlotReader()
    return LaplaceReader() if exact_gaussian_or_none(address_prior) is None else ExactReader()
