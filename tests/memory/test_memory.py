"""The stored memory: writing on, reading and generating."""

import pytest
import torch
from helpers import assert_close_posteriors, linear_machine, small_machine

from pyro_kanerva import CategoricalLikelihood, Memory, OnlineWriter, PseudoInverseWriter, conjugate


def test_write_is_the_writer_on_the_codes(make_machine, patterns):
    machine = make_machine(writer=OnlineWriter(3))
    memory = machine.write(patterns)
    expected = machine.writer(machine.encode(patterns), machine.memory_prior(), machine.code_scale)
    torch.testing.assert_close(memory.posterior.loc, expected.memory.loc)
    torch.testing.assert_close(memory.posterior.scale_tril_row, expected.memory.scale_tril_row)
    assert memory.posterior.batch_shape == (3,)
    assert not memory.posterior.loc.requires_grad


def test_writing_on_equals_writing_at_once(make_machine, patterns):
    """If a block of the online rule ends where the first write ends."""
    machine = make_machine(writer=OnlineWriter(2)).double()
    x = patterns.double()
    once = machine.write(x)
    first = machine.write(x[:, :4])
    for twice in (first.write(x[:, 4:]), machine.write(x[:, 4:], memory=first)):
        torch.testing.assert_close(twice.posterior.loc, once.posterior.loc)
        torch.testing.assert_close(twice.posterior.row_covariance, once.posterior.row_covariance)
        assert len(twice.records) == 2
    assert len(first.records) == 1


@pytest.mark.parametrize("sweeps", [0, 1])
def test_the_posterior_is_the_prior_plus_the_records(make_machine, patterns, sweeps):
    machine = make_machine(writer=OnlineWriter(4, sweeps)).double()
    memory = machine.write(patterns.double()).write(patterns.double())
    sigma = machine.code_scale.detach()
    parts = [conjugate.statistics(r.addresses, r.codes, sigma, r.address_scale_tril) for r in memory.records]
    rebuilt = conjugate.add_statistics(machine.memory_prior(), *parts)
    torch.testing.assert_close(rebuilt.loc, memory.posterior.loc)
    torch.testing.assert_close(rebuilt.row_covariance, memory.posterior.row_covariance)


def test_a_writer_that_does_not_continue(make_machine, patterns):
    """It writes once, and is refused for a second write, also where its class is not one of the library."""

    class Anew(OnlineWriter):
        continues = False

    for writer in (PseudoInverseWriter(6), Anew(8)):
        machine = make_machine(writer=writer)
        memory = machine.write(patterns)
        for write in (memory.write, lambda x, memory=memory: memory.machine.write(x, memory)):
            with pytest.raises(ValueError, match=rf"write\(\): {type(writer).__name__} starts anew with every write"):
                write(patterns)


def test_single_episode(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns[0])
    assert memory.posterior.batch_shape == (1,)
    assert memory.read(patterns[0, :3]).shape == (1, 3, 1, 5, 7)
    assert memory.query(patterns[0], num_steps=2).energy.shape == (3, 1, 8)
    torch.testing.assert_close(memory.posterior.loc, machine.write(patterns).posterior.loc[:1])


def test_read(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns)
    mean = memory.read(patterns[:, :5])
    address = machine.read_codes(machine.encode(patterns[:, :5]), memory.posterior.loc).mean
    torch.testing.assert_close(mean, machine.predict(address, memory.posterior.loc).probs)


def test_generate(make_machine, patterns):
    memory = make_machine().write(patterns)
    samples = memory.generate(4)
    assert samples.shape == (3, 4, 1, 5, 7)
    assert ((samples > 0) & (samples < 1)).all()
    sharpened = memory.generate(4, num_steps=3)
    assert sharpened.shape == (3, 4, 1, 5, 7)
    assert ((sharpened == 0) | (sharpened == 1)).all()


def test_generate_from_a_prior_memory(make_machine):
    machine = make_machine()
    memory = machine.prior_memory(2)
    matrix = memory.posterior.sample()
    for options in ({}, {"matrix": matrix}):
        samples = memory.generate(3, **options)
        assert samples.shape == (2, 3, 1, 5, 7)
        assert ((samples > 0) & (samples < 1)).all()
        arrived = memory.generate(3, num_steps=2, **options)
        assert ((arrived == 0) | (arrived == 1)).all()
    torch.manual_seed(5)
    samples = memory.generate(3, matrix=matrix)
    torch.manual_seed(5)
    address = machine.address_prior().sample((2, 3))
    torch.testing.assert_close(samples, memory.predict(address, matrix=matrix).mean.detach())


def test_machine_moved_under_a_memory(make_machine, patterns):
    machine = make_machine()
    memory = machine.write(patterns)
    machine.double()
    with pytest.raises(ValueError, match=r"memory is torch.float32 .* machine is now torch.float64"):
        memory.read(patterns.double())


def test_the_length_is_the_number_of_patterns(make_machine, patterns):
    machine = make_machine()
    assert len(machine.prior_memory(3)) == 0
    memory = machine.write(patterns).write(iter(patterns.split(3, 1)))
    assert len(memory) == 16
    assert len(memory.erase(memory.records[1])) == 8


@pytest.mark.parametrize("move", [lambda m: m.to(torch.float64), lambda m: m.to("cpu", torch.float64)])
def test_a_memory_moves_as_a_tensor_does(make_machine, patterns, move):
    machine = make_machine(writer=OnlineWriter(4, 1))
    memory = machine.write(patterns, labels=torch.arange(8)).write(iter(patterns.split(3, 1)))
    assert memory.to("cpu") is memory
    before = memory.read(patterns)
    machine.double()
    with pytest.raises(ValueError, match=r"Move the memory: memory.to\('cpu', torch.float64\)"):
        memory.read(patterns.double())
    moved = move(memory)
    torch.testing.assert_close(moved.read(patterns.double()).float(), before)
    for one, other in ((moved.posterior.loc, memory.posterior.loc), (moved.records[0].codes, memory.records[0].codes)):
        assert torch.equal(one, other.double())
    assert moved.records[0].labels.dtype == torch.int64
    assert_close_posteriors(moved.erase(moved.records[1]).posterior, machine.write(patterns.double()).posterior)
    assert moved.write(patterns.double()).records[:2] == moved.records
    assert moved.to(torch.float32).records[1].precision.dtype == torch.float64
    empty = machine.prior_memory(3).to(torch.float32)
    assert empty.posterior.loc.dtype == torch.float32
    with pytest.raises(ValueError, match=r"dtype is torch.int64; expected a floating point type"):
        moved.to(torch.int64)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_memory_moves_to_a_gpu(make_machine, patterns):
    machine = make_machine(writer=OnlineWriter(4, 1))
    memory = machine.write(patterns, labels=torch.arange(8)).write(iter(patterns.split(3, 1)))
    before = memory.read(patterns)
    machine.cuda()
    moved = memory.to("cuda")
    torch.testing.assert_close(moved.read(patterns.cuda()).cpu(), before, rtol=1e-3, atol=1e-4)
    smaller = moved.erase(moved.records[0], [1, 2]).erase(moved.records[1])
    assert smaller.records[0].labels.tolist() == [[0, 3, 4, 5, 6, 7]] * 3
    machine.cpu()
    again = smaller.to("cpu")
    expected = memory.erase(memory.records[0], [1, 2]).erase(memory.records[1])
    assert_close_posteriors(again.posterior, expected.posterior, 1e-3)


@pytest.mark.parametrize("call", ["write", "read", "query"])
def test_bad_cues(make_machine, patterns, call):
    memory = make_machine().write(patterns)
    name = "patterns" if call == "write" else "cues"
    for change, message in [
        (lambda x: x[:2], "2 episodes .* expected 3, one for each memory"),
        (lambda x: x[0], "1 episodes"),
        (lambda x: x[..., 1:], r"event shape \(1, 5, 6\) .* expected \(1, 5, 7\)"),
        (lambda x: x.double(), "dtype"),
        (lambda x: x + 0.5, "other than 0 and 1"),
        (lambda x: x[:, :0], "empty"),
        (lambda x: x / 0, "NaN"),
    ]:
        with pytest.raises(ValueError, match=rf"{call}\(\): {name} .*{message}"):
            getattr(memory, call)(change(patterns))


def test_bad_arguments(make_machine, patterns):
    memory = make_machine().write(patterns)
    for call, message in [
        (lambda: memory.generate(0), r"generate\(\): num_samples is 0; expected at least 1"),
        (lambda: memory.generate(2, num_steps=-1), r"generate\(\): num_steps is -1; expected at least 0"),
        (lambda: memory.generate(1, matrix=torch.zeros(6, 10)), r"matrix is torch.float32 on cpu of shape \(6, 10\)"),
        (lambda: memory.predict(torch.zeros(3, 6)), r"predict\(\): address has shape \(3, 6\); expected \(3, Q, 6\)"),
        (lambda: memory.machine.prior_memory(0), r"prior_memory\(\): num_episodes is 0; expected at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_prior_memory_needs_the_shape_of_a_pattern():
    machine = linear_machine(3, 4, encoder=lambda x: x)
    with pytest.raises(ValueError, match=r"prior_memory\(\): the encoder has no attribute event_shape"):
        machine.prior_memory()


def test_read_of_classes_is_their_mode():
    machine = small_machine((6,), 3, 4, output_shape=(6, 3), likelihood=CategoricalLikelihood(3))
    patterns = torch.randint(0, 3, (2, 5, 6)).float()
    memory = machine.write(patterns)
    address = machine.read_codes(machine.encode(patterns), memory.posterior.loc).mean
    assert torch.equal(memory.read(patterns), memory.predict(address).logits.argmax(-1).float())


def test_a_memory_from_elsewhere_can_be_written_to(make_machine, patterns):
    """Also one without records, whose posterior is not the prior of the machine."""
    machine = make_machine()
    start = machine.write(patterns[:, :4])
    without_records = Memory(machine, start.posterior, start.event_shape)
    written = without_records.write(patterns[:, 4:])
    assert len(written.records) == 1
    assert_close_posteriors(written.posterior, start.write(patterns[:, 4:]).posterior)


def test_the_energy_has_gradients_of_address_and_memory(make_machine, patterns):
    machine = make_machine()
    memory, address = machine.write(patterns), torch.randn(3, 8, 6, requires_grad=True)
    memory.posterior.loc.requires_grad_()
    energy = memory.energy(address, patterns)
    w, matrix = address.detach().requires_grad_(), memory.posterior.loc.detach().requires_grad_()
    log_joint = machine.decode(w @ matrix, (1, 5, 7)).log_prob(patterns) + machine.address_prior().log_prob(w)
    torch.testing.assert_close(energy, -log_joint)
    found = torch.autograd.grad(energy.sum(), [address, memory.posterior.loc])
    expected = torch.autograd.grad(-log_joint.sum(), [w, matrix])
    torch.testing.assert_close(found, expected)


def test_the_energy_needs_no_address_precision(make_machine, patterns):
    """Which cannot be factorized at this code scale, in float32, with fewer codes than slots."""
    memory = make_machine(slots=12, code_size=4, code_scale=1e-5).prior_memory(3)
    assert memory.energy(torch.zeros(3, 8, 12), patterns).isfinite().all()
    with pytest.raises(ValueError, match="address precision"):
        memory.query(patterns)


def test_an_empty_memory_of_inference_mode(make_machine, patterns):
    machine = make_machine()
    with torch.inference_mode():
        memory = machine.prior_memory(3)
        assert memory.query(patterns, num_steps=2).energy.isfinite().all()
    address = torch.zeros(3, 8, 6, requires_grad=True)
    memory.energy(address, patterns).sum().backward()
    assert address.grad.any()
