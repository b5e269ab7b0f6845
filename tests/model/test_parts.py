"""The parts of a machine, called and checked."""

import pyro.distributions as dist
import pytest
import torch
from helpers import Identity, linear_machine, small_machine

from pyro_kanerva import GaussianCode, GaussianMemory, KanervaMachine, MatrixNormal, Memory, MLPDecoder, MLPEncoder
from pyro_kanerva.model import Parts


def test_the_generative_step():
    """``x ~ likelihood(decoder(M^T w))``, for addresses with more dimensions on the left."""
    machine = small_machine()
    matrix, address = torch.randn(2, 6, 10), torch.randn(3, 2, 4, 6)
    code = machine.code(address, matrix)
    torch.testing.assert_close(code, torch.einsum("sbtk,bkc->sbtc", address, matrix))
    entries = machine.predict(address, matrix)
    assert entries.batch_shape == (3, 2, 4, 1, 5, 7)
    expected = machine.decoder(code.flatten(0, 2)).view(3, 2, 4, 1, 5, 7)
    torch.testing.assert_close(entries.logits, expected)
    x = (torch.rand(2, 4, 1, 5, 7) < 0.5).float()
    patterns = machine.decode(code, (1, 5, 7))
    assert (patterns.batch_shape, patterns.event_shape) == ((3, 2, 4), (1, 5, 7))
    torch.testing.assert_close(patterns.log_prob(x), entries.log_prob(x).sum((-3, -2, -1)))


def test_the_shape_of_a_pattern_is_given_or_stated_by_the_encoder():
    machine = linear_machine(3, 4, encoder=lambda x: x)
    matrix, address = torch.randn(1, 3, 4), torch.randn(1, 2, 3)
    assert machine.event_shape is None
    assert machine.predict(address, matrix, (4,)).batch_shape == (1, 2, 4)
    with pytest.raises(ValueError, match=r"predict\(\): the encoder has no attribute event_shape"):
        machine.predict(address, matrix)
    assert linear_machine(3, 4).event_shape == (4,)


def test_latent_codes():
    """Of a pattern predicted by a drawn code, the mean varies with the noise of the code; by default it is fixed."""
    machine = linear_machine(3, 4, 0.3, code_posterior=GaussianCode(4), code_scale=0.7)
    matrix, address = torch.randn(1, 3, 4), torch.randn(1, 1, 3).expand(1, 20_000, 3)
    fixed = machine.predict(address, matrix).mean[0]
    torch.testing.assert_close(fixed, (address @ matrix)[0])
    drawn = machine.predict(address, matrix, sample_code=True).mean[0]
    torch.testing.assert_close(drawn.std(0), torch.full((4,), 0.7), rtol=0, atol=6 * 0.7 / 40_000**0.5)
    assert ((drawn.mean(0) - fixed[0]).abs() < 6 * 0.7 / 20_000**0.5).all()
    plain = linear_machine(3, 4, 0.3, code_scale=0.7)  # without latent codes there is nothing to draw
    torch.testing.assert_close(plain.predict(address, matrix, sample_code=True).mean[0], fixed)


def test_a_code_posterior_of_another_shape():
    machine = linear_machine(3, 4, code_posterior=lambda codes: dist.Normal(codes, 1.0))
    with pytest.raises(ValueError, match=r"code_posterior returned batch and event shape .*to_event\(1\)"):
        machine.read_code_posterior(torch.randn(2, 5, 4))


def test_parts_alone_hold_a_memory():
    """A memory needs the parts of a machine, and neither model nor guide."""
    torch.manual_seed(1)
    machine = small_machine((9,), slots=3, code_size=4)
    parts = Parts(machine.encoder, machine.decoder, memory_prior=machine.memory_prior)
    assert not isinstance(parts, KanervaMachine)
    x = (torch.rand(2, 5, 9) < 0.5).float()
    posterior = parts.write_codes(parts.encode(x)).memory
    memory, expected = Memory(parts, posterior, (9,)), machine.write(x)
    torch.testing.assert_close(memory.read(x), expected.read(x))
    torch.testing.assert_close(memory.query(x).energy, expected.query(x).energy)


def test_networks_that_fail():
    """The error of the network is part of the message, which says what to do."""
    machine = KanervaMachine(MLPEncoder((9,), 4, 8), MLPDecoder(5, (9,), 8), memory_prior=GaussianMemory(3, 4))
    with pytest.raises(ValueError, match=r"decoder failed on a tensor of shape \(6, 4\) .*code_size 4"):
        machine.decode(torch.randn(2, 3, 4), (9,))
    with pytest.raises(ValueError, match=r"encoder failed on a tensor of shape \(6, 8\).*patterns of this shape"):
        machine.encode(torch.randn(2, 3, 8))
    wide = KanervaMachine(Identity(9), Identity(9), memory_prior=GaussianMemory(3, 4))
    with pytest.raises(ValueError, match=r"encoder returned codes of shape \(6, 9\); expected \(6, 4\)"):
        wide.encode(torch.randn(2, 3, 9))


def test_code_posterior_and_likelihood_run_without_autocast():
    """A matrix product in each keeps float32; the networks of the machine do not."""
    linear, weight = torch.nn.Linear(10, 10), torch.randn(7, 7)
    machine = small_machine(
        code_posterior=lambda codes: dist.Normal(linear(codes), 1.0).to_event(1),
        likelihood=lambda output: dist.Bernoulli(logits=output @ weight, validate_args=False),
    )
    codes, output = torch.randn(2, 3, 10), torch.randn(2, 3, 1, 5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        q, entries = machine.read_code_posterior(codes), machine.likelihood_of(output, (2, 3, 1, 5, 7))
    assert torch.equal(q.mean, linear(codes))
    assert torch.equal(entries.logits, output @ weight)


def test_write_codes_takes_any_prior():
    """And matches a Gaussian to one that is none."""
    machine, loc, codes = small_machine(), torch.randn(6, 10), torch.randn(2, 3, 10)
    written = machine.write_codes(codes, dist.Laplace(loc, 0.5**0.5).to_event(2)).memory
    gaussian = MatrixNormal(loc, torch.eye(6))
    torch.testing.assert_close(written.loc, machine.write_codes(codes, gaussian).memory.loc)
