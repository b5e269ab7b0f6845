"""The closed forms against vectors from the authors' own module."""

import numpy as np
import pytest
import torch
from helpers import data_file
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_kanerva import MatrixNormal, conjugate


@pytest.fixture(params=["bayes_update_small", "bayes_update_small_noise03", "bayes_update_paper_size"])
def reference(request):
    with np.load(data_file(f"reference/{request.param}.npz")) as content:
        return {name: torch.from_numpy(content[name]) for name in content.files}


def prior_of(reference):
    return MatrixNormal(reference["prior_loc"], torch.linalg.cholesky(reference["prior_row_cov"]))


def test_online_writes(reference):
    """Each write, and its divergence KL(after || before)."""
    posterior, sigma = prior_of(reference), float(reference["noise_std"])
    for t in range(reference["codes"].shape[1]):
        address, code = reference["write_addresses"][:, t], reference["codes"][:, t]
        before, posterior = posterior, conjugate.online_update(posterior, address, code, sigma)
        kl = kl_divergence(posterior, before)
        torch.testing.assert_close(kl, reference["kl_per_write"][:, t], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.loc, reference["posterior_loc"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.row_covariance, reference["posterior_row_cov"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("block_size", [3, 32])
def test_block_writes(reference, block_size):
    posterior, sigma = prior_of(reference), float(reference["noise_std"])
    blocks = zip(
        reference["write_addresses"].split(block_size, 1), reference["codes"].split(block_size, 1), strict=True
    )
    for addresses, codes in blocks:
        posterior = conjugate.block_update(posterior, addresses, codes, sigma)
    torch.testing.assert_close(posterior.loc, reference["posterior_loc"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.row_covariance, reference["posterior_row_cov"], rtol=1e-4, atol=1e-4)


def test_read_and_address_kl(reference):
    addresses = reference["query_addresses"]
    read = addresses @ reference["posterior_loc"]
    torch.testing.assert_close(read, reference["query_read"], rtol=1e-4, atol=1e-4)
    slots = addresses.shape[-1]
    q = MultivariateNormal(addresses, scale_tril=reference["address_posterior_std"] * torch.eye(slots))
    kl = kl_divergence(q, MultivariateNormal(torch.zeros(slots), torch.eye(slots)))
    torch.testing.assert_close(kl, reference["kl_query_address"], rtol=1e-4, atol=1e-4)
