"""The reader and the writer that a machine has by default."""

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva import (
    CategoricalAddress,
    ExactReader,
    GaussianAddress,
    GaussianMemory,
    HorseshoeAddress,
    KanervaMachine,
    LaplaceAddress,
    LaplaceReader,
    MixtureAddress,
    MixtureReader,
    MixtureWriter,
    OnlineWriter,
    ReadingWriter,
    SimplexAddress,
    SlotReader,
    SlotWriter,
    StudentTAddress,
)
from pyro_kanerva.distributions import GaussianMixture
from pyro_kanerva.model.defaults import reader_for, writer_for
from pyro_kanerva.priors import as_distribution


@pytest.mark.parametrize(
    ("prior", "reader", "writer"),
    [
        (GaussianAddress(3), ExactReader, OnlineWriter),
        (dist.Normal(torch.ones(3), 2.0).to_event(1), ExactReader, OnlineWriter),
        (LaplaceAddress(3), LaplaceReader, OnlineWriter),
        (StudentTAddress(3), LaplaceReader, OnlineWriter),
        (HorseshoeAddress(3), LaplaceReader, OnlineWriter),
        (SimplexAddress(3), LaplaceReader, ReadingWriter),
        (dist.HalfNormal(torch.ones(3)).to_event(1), LaplaceReader, ReadingWriter),
        (dist.Dirichlet(torch.ones(3)), LaplaceReader, ReadingWriter),
        (MixtureAddress(3), MixtureReader, MixtureWriter),
        (
            GaussianMixture(torch.zeros(3), torch.ones(2, 3), torch.zeros(2), torch.eye(3)),
            MixtureReader,
            OnlineWriter,  # two components for three slots
        ),
        (CategoricalAddress(3), SlotReader, SlotWriter),
        (dist.OneHotCategorical(torch.ones(3)), SlotReader, SlotWriter),
    ],
    ids=lambda part: type(part).__name__ if not isinstance(part, type) else part.__name__,
)
def test_parts_fit_the_address_prior(prior, reader, writer):
    assert type(reader_for(as_distribution(prior))) is reader
    assert type(writer_for(prior)) is writer
    machine = KanervaMachine(lambda x: x, lambda z: z, memory_prior=GaussianMemory(3, 2), address_prior=prior)
    assert (type(machine.reader), type(machine.writer)) == (reader, writer)


def test_writers_know_the_address_prior():
    """They hold the same object, since it may be learned."""
    simplex, slots, mixture = SimplexAddress(3), CategoricalAddress(3), MixtureAddress(3)
    assert writer_for(simplex).address_prior is simplex
    assert writer_for(slots).address_prior is slots
    assert writer_for(mixture).address_prior is mixture


def test_the_online_writer_has_blocks_and_a_sweep():
    writer = writer_for(GaussianAddress(3))
    assert (writer.block_size, writer.sweeps) == (8, 1)
