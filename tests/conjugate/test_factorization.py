"""Factorizations of positive definite matrices, their gradients, and what happens to matrices that are not."""

import pyro
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyro_kanerva.conjugate import cholesky, inverse_positive, precision_to_scale_tril

FACTORIZATIONS = [cholesky, precision_to_scale_tril, inverse_positive]
INDEFINITE = torch.tensor([[1.0, 2.0], [2.0, 1.0]])  # cholesky_ex returns half of a factor for it


@pytest.mark.parametrize("factorize", [precision_to_scale_tril, inverse_positive])
@pytest.mark.parametrize("batch", [(), (2,), (2, 1, 3)])
def test_factorizations(factorize, batch):
    """Against torch's own inverse, with first and second derivatives."""
    root = torch.randn(*batch, 4, 4, dtype=torch.float64).requires_grad_()

    def matrix(root):
        return root @ root.mT + torch.eye(4, dtype=root.dtype)

    result = factorize(matrix(root), "some matrix")
    inverse = torch.linalg.inv(matrix(root))
    if factorize is precision_to_scale_tril:
        assert torch.equal(result, result.tril())
        assert (result.diagonal(dim1=-2, dim2=-1) > 0).all()
        torch.testing.assert_close(result @ result.mT, inverse)
    else:
        torch.testing.assert_close(result, inverse)
    assert gradcheck(lambda root: factorize(matrix(root), "some matrix"), root)
    assert gradgradcheck(lambda root: factorize(matrix(root), "some matrix"), root)


@pytest.mark.parametrize("factorize", [precision_to_scale_tril, inverse_positive])
def test_the_gradient_of_a_symmetric_matrix_is_symmetric(factorize):
    root = torch.randn(4, 4, dtype=torch.float64)
    matrix = (root @ root.mT + torch.eye(4, dtype=torch.float64)).requires_grad_()
    (factorize(matrix, "some matrix") * torch.randn(4, 4, dtype=torch.float64)).sum().backward()
    torch.testing.assert_close(matrix.grad, matrix.grad.mT)


@pytest.mark.parametrize("factorize", FACTORIZATIONS)
def test_errors_name_the_cause(factorize):
    with pytest.raises(ValueError, match=r"some matrix .* is not positive definite.*float64"):
        factorize(-torch.eye(2), "some matrix")
    with pytest.raises(ValueError, match=r"some matrix .* has NaN or infinite entries.*code_scale"):
        factorize(torch.full((2, 2), torch.nan), "some matrix")


@pytest.mark.parametrize("factorize", FACTORIZATIONS)
@pytest.mark.parametrize("broken", [INDEFINITE, -torch.eye(2), torch.full((2, 2), torch.nan), torch.zeros(2, 2)])
def test_a_matrix_without_a_factor(factorize, broken):
    """Without validation its result is NaN, and the rest of the batch is not touched. With validation it raises."""
    sound = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    batch = torch.stack([sound, broken, sound])
    with pyro.validation_enabled(False):
        result = factorize(batch, "some matrix")
        torch.testing.assert_close(result[[0, 2]], factorize(batch[[0, 2]], "some matrix"))
    assert result[1].isnan().all() if factorize is not cholesky else result[1].tril().isnan().any()
    with pyro.validation_enabled(True), pytest.raises(ValueError, match="some matrix of shape"):
        factorize(batch, "some matrix")


@pytest.mark.parametrize("factorize", FACTORIZATIONS[1:])
def test_the_gradient_of_a_matrix_without_a_factor(factorize):
    """It is NaN for that matrix, and finite for the others."""
    batch = torch.stack([torch.eye(2), INDEFINITE, 2 * torch.eye(2)]).requires_grad_()
    with pyro.validation_enabled(False):
        factorize(batch, "some matrix").sum().backward()
    assert batch.grad[1].isnan().any()
    assert batch.grad[[0, 2]].isfinite().all()
