"""Writing in natural parameters, where contributions add up."""

import pytest
import torch
from helpers import natural_parameters, random_factor, random_memory, random_write

from pyro_kanerva import MatrixNormal, conjugate
from pyro_kanerva.conjugate import NaturalParameters


@pytest.mark.parametrize("uncertain", [False, True])
def test_statistics_are_sums_over_patterns(uncertain):
    """``sum_t E[w_t w_t^T] / sigma^2`` and ``sum_t E[w_t] z_t^T / sigma^2``."""
    _, addresses, codes = random_write(4, 3, 6, 2)
    factor = random_factor(2, 4) if uncertain else None
    part = conjugate.statistics(addresses, codes, 0.7, factor)
    for b in range(2):
        covariance = factor[b] @ factor[b].mT if uncertain else torch.zeros(4, 4).double()
        moments = [torch.outer(w, w) + covariance for w in addresses[b]]
        torch.testing.assert_close(part.precision[b], sum(moments) / 0.49)
        products = [torch.outer(w, z) for w, z in zip(addresses[b], codes[b], strict=True)]
        torch.testing.assert_close(part.precision_loc[b], sum(products) / 0.49)


def test_adding_statistics_adds_natural_parameters():
    prior, addresses, codes = random_write(4, 3, 6, 2)
    parts = [
        conjugate.statistics(addresses[:, :2], codes[:, :2], 0.7),
        conjugate.statistics(addresses[:, 2:], codes[:, 2:], 0.7, random_factor(2, 4)),
    ]
    posterior = conjugate.add_statistics(prior, *parts)
    for before, after, *added in zip(natural_parameters(prior), natural_parameters(posterior), *parts, strict=True):
        torch.testing.assert_close(after, before + sum(added))
    assert torch.equal(posterior.scale_tril_row, posterior.scale_tril_row.tril())
    assert (posterior.scale_tril_row.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_adding_nothing_changes_nothing():
    prior = random_memory(2, slots=4, size=3)
    nothing = NaturalParameters(torch.zeros(2, 4, 4).double(), torch.zeros(2, 4, 3).double())
    posterior = conjugate.add_statistics(prior, nothing)
    torch.testing.assert_close(posterior.loc, prior.loc)
    torch.testing.assert_close(posterior.scale_tril_row, prior.scale_tril_row)


def test_erasing_what_was_not_written():
    prior, addresses, codes = random_write(4, 3, 8)
    part = conjugate.statistics(10 * addresses, codes, 0.1)
    with pytest.raises(ValueError, match=r"memory precision .* is not positive definite"):
        conjugate.add_statistics(prior, NaturalParameters(-part.precision, -part.precision_loc))


def test_errors():
    prior, addresses, codes = random_write(4, 3, 2)
    part = conjugate.statistics(addresses, codes, 0.7)
    tilted = MatrixNormal(prior.loc, prior.scale_tril_row, random_factor(3))
    with pytest.raises(ValueError, match="memory has a column factor"):
        conjugate.add_statistics(tilted, part)
    with pytest.raises(ValueError, match=r"parts are .*; expected at least one NaturalParameters"):
        conjugate.add_statistics(prior)
    with pytest.raises(ValueError, match=r"noise_scale is nan; expected a positive number"):
        conjugate.statistics(addresses, codes, float("nan"))
