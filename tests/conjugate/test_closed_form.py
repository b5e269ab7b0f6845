"""The border of the closed forms: digits of float32, and arguments that do not fit."""

import pyro
import pytest
import torch
from helpers import linear_machine, random_factor, random_memory

from pyro_kanerva import FrameWriter, GaussianMemory, MatrixNormal, OnlineWriter, conjugate
from pyro_kanerva.memory.records import account_for

WRITERS = {
    "frame": FrameWriter,
    "one at a time": lambda prior: OnlineWriter(1),
    "blocks": lambda prior: OnlineWriter(8),
    "one block": lambda prior: OnlineWriter(32),
    "sweeps": lambda prior: OnlineWriter(8, 1),
}


@pytest.mark.parametrize("ratio", [100.0, 1000.0, 1e4])
@pytest.mark.parametrize("name", WRITERS)
def test_collinear_codes_of_little_noise(name, ratio):
    """|z| / sigma = ``ratio``: q(M) in float32 is that in float64, and its records account for it."""
    prior = GaussianMemory(8, 16)
    codes = torch.randn(1, 1, 16) * (1 + torch.rand(1, 32, 1))
    sigma = codes.norm(dim=-1).max().item() / ratio
    machine = linear_machine(8, 16, sigma, memory_prior=prior, writer=WRITERS[name](prior))
    memory = machine.write(codes)
    exact = machine.double().write(codes.double()).posterior
    rebuilt = machine.float().write(codes)._with_records(memory.records).posterior
    assert account_for(rebuilt, memory.posterior)
    for found, expected in (
        (memory.posterior.loc, exact.loc),
        (memory.posterior.row_covariance, exact.row_covariance),
        (rebuilt.loc, exact.loc),
    ):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_arguments_that_do_not_fit():
    memory, codes = random_memory(slots=4, size=3), torch.randn(5, 3, dtype=torch.float64)
    addresses = torch.randn(5, 4, dtype=torch.float64)
    block = conjugate.block_update
    for sigma in (torch.tensor(-1.0), torch.tensor(torch.nan)):
        with pytest.raises(ValueError, match=r"noise_scale is .*expected a positive number"):
            block(memory, addresses, codes, sigma)
    for call, message in (
        (lambda: block(memory, addresses, codes * torch.nan, 1.0), r"block_update\(\): codes has NaN or infinite"),
        (lambda: block(memory, addresses[:1], codes, 1.0), r"codes has shape \(5, 3\); expected \(..., 1, 3\)"),
        (lambda: block(memory, addresses, codes[0], 1.0), r"codes has shape \(3,\); expected \(..., 5, 3\)"),
        (lambda: block(memory, None, codes, 1.0), "addresses is None; expected a dense tensor"),
        (lambda: block(None, addresses, codes, 1.0), "posterior is None; expected a MatrixNormal"),
        (lambda: block(memory, addresses.half(), codes, 1.0), "addresses has dtype torch.float16; expected"),
        (lambda: block(memory, addresses.expand(2, 5, 4), codes.expand(3, 5, 3), 1.0), r"\(2,\) of addresses, \(3,\)"),
        (lambda: conjugate.add_statistics(memory, None), "parts are a tuple of .NoneType"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pyro.validation_enabled(False):
        assert block(memory, addresses, codes * torch.nan, 1.0).loc.isnan().all()


def test_small_divergences_are_never_negative():
    """KL(q || p) for q within 1e-4 of p, in float32, is that of float64 within 1%; and exactly 0 at q = p."""
    p = MatrixNormal(torch.randn(200, 6, 5), random_factor(200, 6, dtype=torch.float32))
    nudge = torch.eye(6) * (1 + 1e-4 * torch.randn(200, 1, 6))
    q = MatrixNormal(p.loc, p.scale_tril_row @ nudge)
    exact = [MatrixNormal(part.loc.double(), part.scale_tril_row.double()) for part in (q, p)]
    found, expected = (torch.distributions.kl_divergence(*pair) for pair in ((q, p), exact))
    assert (found >= 0).all()
    assert ((found - expected).abs() <= 0.01 * expected).all()
    same = torch.distributions.kl_divergence(p, p)
    assert (same >= 0).all()
    assert (same < 1e-9).all()
