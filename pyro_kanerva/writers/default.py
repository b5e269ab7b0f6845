"""The writer that a machine has by default."""

from __future__ import annotations

import pyro.distributions as dist
from torch import nn

from pyro_kanerva.priors import Prior, as_distribution, has_real_support
from pyro_kanerva.writers.online import OnlineWriter
from pyro_kanerva.writers.reading import ReadingWriter
from pyro_kanerva.writers.slots import SlotWriter


def writer_for(address_prior: Prior) -> nn.Module:
    """The writer that fits a prior: slots for one-hot addresses, closed form on R^K, else with a reader."""
    distribution = as_distribution(address_prior)
    if isinstance(distribution, dist.OneHotCategorical):
        return SlotWriter(address_prior=address_prior)
    return OnlineWriter(block_size=8, sweeps=1) if has_real_support(distribution) else ReadingWriter(address_prior)
