"""Fixtures of the tests of diagnostics."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import known_memory_machine

from pyro_kanerva import KanervaMachine

SIZE, NOISE = 4, 0.6


class StochasticCodes(KanervaMachine):
    """A machine with one more latent site: z ~ Normal(M^T w, CODE), x ~ Normal(z, NOISE).

    Given M, its guide of z and w is exact.
    """

    CODE = 0.8

    @property
    def model(self):
        def program(patterns):
            with pyro.plate("episode", len(patterns), dim=-2):
                matrix = pyro.sample("memory", self.memory_prior).squeeze(-3)
                with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
                    address = pyro.sample("address", self.address_prior())
                    code = pyro.sample("code", dist.Normal(address @ matrix, self.CODE).to_event(1))
                    pyro.sample("pattern", dist.Normal(code, NOISE).to_event(1), obs=patterns)

        return program

    @property
    def guide(self):
        def program(patterns):
            with pyro.plate("episode", len(patterns), dim=-2):
                matrix = pyro.sample("memory", self.memory_prior).squeeze(-3)
                prior = matrix.mT @ matrix + self.CODE**2 * torch.eye(SIZE).double()
                gain = torch.linalg.solve(prior + NOISE**2 * torch.eye(SIZE).double(), prior).mT  # (..., C, C)
                covariance = prior - gain @ prior
                factor = torch.linalg.cholesky((covariance + covariance.mT) / 2).unsqueeze(-3)
                with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
                    code = pyro.sample("code", dist.MultivariateNormal(patterns @ gain.mT, scale_tril=factor))
                    pyro.sample("address", self.reader(code, matrix, self.address_prior(), torch.tensor(self.CODE)))

        return program


@pytest.fixture
def stochastic_codes():
    """A machine of 3 slots with stochastic codes and a known memory, and that memory M."""
    return known_memory_machine(3, SIZE, NOISE, machine=StochasticCodes)


@pytest.fixture
def one_hot():
    """A machine with one-hot addresses and a known memory, and that memory M. Its default reader is exact."""
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
    return known_memory_machine(3, SIZE, NOISE, address_prior=dist.OneHotCategorical(logits=logits))
