"""The reader and the writer that a machine has by default: those that fit its address prior."""

import pyro.distributions as dist
from torch import nn

from pyro_kanerva.distributions import GaussianMixture
from pyro_kanerva.priors import Prior, as_distribution, exact_gaussian_or_none, has_real_support
from pyro_kanerva.readers import ExactReader, LaplaceReader, MixtureReader, SlotReader
from pyro_kanerva.writers import MixtureWriter, OnlineWriter, ReadingWriter, SlotWriter


def reader_for(address_prior: dist.TorchDistribution) -> nn.Module:
    """The reader that fits a prior: exact for Gaussians, their mixtures and one-hot addresses, else by Newton steps."""
    if isinstance(address_prior, dist.OneHotCategorical):
        return SlotReader()
    if isinstance(address_prior, GaussianMixture):
        return MixtureReader()
    return LaplaceReader() if exact_gaussian_or_none(address_prior) is None else ExactReader()


def writer_for(address_prior: Prior) -> nn.Module:
    """The writer that fits a prior: clusters for slots and Gaussians around them, else closed form or a reader."""
    distribution = as_distribution(address_prior)
    if isinstance(distribution, dist.OneHotCategorical):
        return SlotWriter(address_prior=address_prior)
    if isinstance(distribution, GaussianMixture) and len(distribution.logits) == distribution.event_shape[0]:
        return MixtureWriter(address_prior)
    return OnlineWriter(block_size=8, sweeps=1) if has_real_support(distribution) else ReadingWriter(address_prior)
