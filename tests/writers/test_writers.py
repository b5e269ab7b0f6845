"""Writers: how an episode becomes q(M), against clusterings, least squares and each other."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva import (
    AmortizedReader,
    AmortizedWriter,
    BernoulliLikelihood,
    CategoricalAddress,
    ExactReader,
    FrameWriter,
    GaussianAddress,
    GaussianMemory,
    KanervaMachine,
    LaplaceAddress,
    LaplaceMemory,
    LaplaceReader,
    MatrixNormal,
    MLPDecoder,
    MLPEncoder,
    NormalLikelihood,
    OnlineWriter,
    PseudoInverseWriter,
    ReadingWriter,
    RefinedWriter,
    SimplexAddress,
    SlotWriter,
    StudentTAddress,
    WriteResult,
    conjugate,
)
from pyro_kanerva.writers import writer_for

SIGMA = 0.3


pytestmark = pytest.mark.usefixtures("float64")


def sigma():
    return torch.tensor(SIGMA)


def correlated_prior(slots, size):
    noise = torch.randn(slots, 2 * slots)
    return MatrixNormal(torch.randn(slots, size), torch.linalg.cholesky(noise @ noise.mT / (2 * slots)))


def same_memory(one, other, **tolerance):
    torch.testing.assert_close(one.loc, other.loc, **tolerance)
    torch.testing.assert_close(one.row_covariance, other.row_covariance, **tolerance)


# ---------------------------------------------------------------------- slots


def clusters(slots=4, size=5, copies=3):
    """Codes (2, slots * copies, C), in random order, and the cluster of each (2, slots * copies)."""
    centers = 10 * torch.linalg.qr(torch.randn(size, size))[0][:slots]
    labels = torch.stack([torch.randperm(slots * copies) % slots for _ in range(2)])
    return centers[labels] + SIGMA * torch.randn(2, slots * copies, size), labels


def test_frame_writer_addresses_all_from_the_frame():
    frame, codes = GaussianMemory(4, 3), torch.randn(2, 6, 3)
    prior = MatrixNormal(torch.randn(2, 4, 3), 0.5 * torch.eye(4))
    result = FrameWriter(frame)(codes, prior, sigma())
    loc = frame.loc
    expected = torch.linalg.solve(loc @ loc.mT + sigma() ** 2 * torch.eye(4), loc @ codes.mT).mT
    torch.testing.assert_close(result.addresses, expected)
    same_memory(result.memory, conjugate.block_update(prior, expected, codes, sigma()))
    one_by_one = prior
    for code in codes.split(1, -2):
        one_by_one = FrameWriter(frame)(code, one_by_one, sigma()).memory
    same_memory(result.memory, one_by_one)


@pytest.mark.parametrize("sweeps", [1, 5])
def test_slot_writer_puts_each_cluster_in_one_slot(sweeps):
    """And q(M) is then the exact posterior of that clustering."""
    codes, labels = clusters()
    # a little noise breaks the tie between slots that are all free; the first pattern is sure of its slot in a sweep
    prior = MatrixNormal(0.1 * torch.randn(4, 5), 3.0 * torch.eye(4))
    result = SlotWriter(sweeps)(codes, prior, sigma())
    addresses, slot = result.addresses, result.addresses.argmax(-1)
    assert (addresses.max(-1).values > 1 - 1e-6).all()
    for b in range(2):
        pairs = {(label, number) for label, number in zip(labels[b].tolist(), slot[b].tolist(), strict=True)}
        assert len(pairs) == 4  # a bijection of clusters and slots
        assert len({number for _, number in pairs}) == 4
        for _, number in pairs:
            members = codes[b, slot[b] == number]
            precision = 1 / 9 + len(members) / SIGMA**2
            mean = (prior.loc[number] / 9 + members.sum(0) / SIGMA**2) / precision
            torch.testing.assert_close(result.memory.loc[b, number], mean, rtol=1e-4, atol=1e-4)
            covariance = result.memory.row_covariance[b, number]
            assert covariance[number] == pytest.approx(1 / precision, rel=1e-4)
            assert covariance.count_nonzero() == 1


def test_one_pass_of_the_slot_writer_by_hand():
    """The predictive of every slot, and the weighted update, pattern by pattern."""
    codes = torch.randn(1, 6, 2)
    scale = torch.tensor([0.5, 1.0, 2.0])
    prior = MatrixNormal(torch.randn(3, 2), scale.diag())
    result = SlotWriter(0)(codes, prior, torch.tensor(0.7))
    mean, variance = prior.loc.clone(), scale.square()
    for t in range(6):
        predictive = dist.Normal(mean, (variance + 0.49).sqrt().unsqueeze(-1)).to_event(1)
        weight = predictive.log_prob(codes[0, t]).softmax(0)
        torch.testing.assert_close(result.addresses[0, t], weight)
        precision = 1 / variance + weight / 0.49
        mean = (mean / variance.unsqueeze(-1) + weight.unsqueeze(-1) * codes[0, t] / 0.49) / precision.unsqueeze(-1)
        variance = 1 / precision
    torch.testing.assert_close(result.memory.loc[0], mean)
    torch.testing.assert_close(result.memory.row_covariance[0], variance.diag())


def test_a_single_slot_is_bayes_rule_for_the_mean():
    codes, prior = torch.randn(2, 5, 3), MatrixNormal(torch.randn(1, 3), torch.tensor([[0.8]]))
    exact = conjugate.block_update(prior.expand((2,)), torch.ones(2, 5, 1), codes, SIGMA)
    for sweeps in (0, 3):
        same_memory(SlotWriter(sweeps)(codes, prior, sigma()).memory, exact)


# ---------------------------------------------------------------------- pseudo-inverse and network


@pytest.mark.parametrize(("slots", "length"), [(6, 6), (8, 5)])
def test_pseudo_inverse_reproduces_codes_that_fit(slots, length):
    """K >= T: W^T R gives the codes back, up to the ridge."""
    codes, prior = torch.randn(3, length, 10), correlated_prior(slots, 10)
    for ridge in (1e-5, 1e-9):
        result = PseudoInverseWriter(slots, ridge=ridge)(codes, prior, sigma())
        error = (result.addresses @ result.memory.loc - codes).norm() / codes.norm()
        assert error < 100 * ridge**0.5
    assert error < 1e-4
    # the addresses are least squares too
    expected = codes @ torch.linalg.pinv(prior.loc)
    torch.testing.assert_close(result.addresses, expected, rtol=1e-4, atol=1e-4)


def test_pseudo_inverse_of_many_codes_is_least_squares():
    codes, prior = torch.randn(2, 9, 10), correlated_prior(4, 10)
    result = PseudoInverseWriter(4, scale=0.2, ridge=1e-10)(codes, prior, sigma())
    torch.testing.assert_close(result.memory.loc, torch.linalg.lstsq(result.addresses, codes).solution)
    torch.testing.assert_close(result.memory.variance, torch.full((2, 4, 10), 0.04), rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 2])
def test_amortized_writer_is_bayes_rule_at_the_addresses_of_its_network(width):
    network = torch.nn.Linear(3, width * 4)
    codes, prior = torch.randn(2, 5, 3), correlated_prior(4, 3)
    result = AmortizedWriter(network)(codes, prior, sigma())
    torch.testing.assert_close(result.addresses, network(codes)[..., :4])
    same_memory(result.memory, conjugate.block_update(prior.expand((2,)), network(codes)[..., :4], codes, SIGMA))
    assert result.address_scale_tril is None


# ---------------------------------------------------------------------- the online rule


@pytest.mark.parametrize("block_size", [1, 2, 8])
def test_reading_writer_with_the_exact_reader_is_the_online_writer(block_size):
    codes, prior = torch.randn(2, 5, 3), correlated_prior(4, 3)
    reading = ReadingWriter(GaussianAddress(4), ExactReader(), block_size, sweeps=0)(codes, prior, sigma())
    online = OnlineWriter(block_size, 0)(codes, prior, sigma())
    same_memory(reading.memory, online.memory)
    torch.testing.assert_close(reading.addresses, online.addresses)


@pytest.mark.parametrize("sweeps", [1, 3])
def test_sweeps_of_the_reading_writer(sweeps):
    """Each writes the whole episode anew, with addresses read from the memory before."""
    codes, prior = torch.randn(2, 5, 3), correlated_prior(4, 3)
    address_prior, reader = SimplexAddress(4), LaplaceReader()
    before = ReadingWriter(address_prior, block_size=2, sweeps=sweeps - 1)(codes, prior, sigma())
    after = ReadingWriter(address_prior, block_size=2, sweeps=sweeps)(codes, prior, sigma())
    q = reader(codes, before.memory.loc, address_prior(), sigma())
    addresses = torch.cat([q.base_dist.loc, torch.zeros(2, 5, 1)], -1).softmax(-1)
    torch.testing.assert_close(after.addresses, addresses)
    same_memory(after.memory, conjugate.block_update(prior.expand((2,)), addresses, codes, SIGMA))


# ---------------------------------------------------------------------- refinement


def machine_for_refinement(writer, **parts):
    torch.manual_seed(1)
    parts.setdefault("memory_prior", GaussianMemory(4, 3))
    machine = KanervaMachine(MLPEncoder((12,), 3, 16), MLPDecoder(3, (12,), 16), writer=writer, **parts)
    with torch.no_grad():
        machine.decoder[-2].weight.mul_(8)  # so that there is something to gain
    return machine


def average_bound(machine, x, posterior, prior):
    """The bound of q(M) = ``posterior`` written into ``prior``, (B,), and its standard error."""
    torch.manual_seed(2)  # common random numbers for all that is compared
    codes = machine.encode(x)
    with torch.no_grad():
        values = torch.stack([machine.bound_of(x, codes, posterior, prior, 50).bound for _ in range(10)])
    return values


@pytest.mark.parametrize("memory_prior", [GaussianMemory, LaplaceMemory])
def test_refinement_raises_the_bound(memory_prior):
    x = (torch.rand(6, 8, 12) < 0.4).double()
    bounds = []
    for number in (0, 5, 20, 80):
        start = OnlineWriter(8, 1)
        writer = RefinedWriter(start, num_steps=number, learning_rate=0.05) if number else start
        torch.manual_seed(5)
        machine = machine_for_refinement(writer, memory_prior=memory_prior(4, 3))
        posterior = machine.write(x).posterior
        bounds.append(average_bound(machine, x, posterior, machine.memory_prior()).mean(-1))
    gains = torch.stack(bounds).diff(dim=0)  # (3, repetitions), averages over the episodes
    error = gains.std(-1) / math.sqrt(10)
    assert (gains.mean(-1) > 5 * error).all()


def test_refinement_raises_the_bound_of_a_memory_that_is_continued():
    """The target is then KL(q || earlier memory), not KL(q || prior)."""
    first, second = ((torch.rand(6, 8, 12) < 0.4).double() for _ in range(2))
    machine = machine_for_refinement(OnlineWriter(8, 1))
    earlier = machine.write(first)
    plain = earlier.write(second).posterior
    bounds = [average_bound(machine, second, plain, earlier.posterior)]
    for number in (5, 40):
        machine.writer = RefinedWriter(OnlineWriter(8, 1), num_steps=number, learning_rate=0.05)
        refined = earlier.write(second).posterior
        bounds.append(average_bound(machine, second, refined, earlier.posterior))
    gains = torch.stack(bounds).mean(-1).diff(dim=0)
    error = gains.std(-1) / math.sqrt(10)
    assert (gains.mean(-1) > 5 * error).all()


def test_refinement_leaves_parameters_and_addresses_alone():
    x = (torch.rand(2, 8, 12) < 0.4).double()
    machine = machine_for_refinement(RefinedWriter(OnlineWriter(8, 1), num_steps=3))
    before = {name: value.clone() for name, value in machine.state_dict().items()}
    codes = machine.encode(x)
    start, refined = machine.write_codes(codes), machine.write_patterns(x, codes)
    torch.testing.assert_close(refined.addresses, start.addresses, rtol=0, atol=0)
    assert not torch.equal(refined.memory.loc, start.memory.loc)
    assert all(parameter.grad is None for parameter in machine.parameters())
    machine.bound(x).bound.sum().backward()  # and the closed-form start has gradients
    assert all(parameter.grad is not None for parameter in machine.encoder.parameters())
    for name, value in machine.state_dict().items():
        assert torch.equal(value, before[name])


def test_refinement_in_inference_mode():
    x = (torch.rand(2, 8, 12) < 0.4).double()
    machine = machine_for_refinement(RefinedWriter(OnlineWriter(8, 1), num_steps=3))
    torch.manual_seed(3)
    expected = machine.write(x).posterior
    torch.manual_seed(3)
    with torch.inference_mode():
        same_memory(machine.write(x).posterior, expected)


# ---------------------------------------------------------------------- choice, callables, errors


def test_default_writers():
    assert isinstance(writer_for(GaussianAddress(3)), OnlineWriter)
    assert isinstance(writer_for(StudentTAddress(3)), OnlineWriter)
    assert isinstance(writer_for(CategoricalAddress(3)), SlotWriter)
    assert isinstance(writer_for(SimplexAddress(3)), ReadingWriter)
    prior = LaplaceAddress(3)
    assert isinstance(writer_for(prior), OnlineWriter)
    simplex = SimplexAddress(3)
    assert writer_for(simplex).address_prior is simplex


def linear_machine(**parts):
    parts.setdefault("memory_prior", GaussianMemory(4, 3))
    return KanervaMachine(lambda x: x, lambda z: z, likelihood=NormalLikelihood(0.5), **parts)


def test_a_function_is_a_writer():
    calls = []

    def store_the_mean(codes, prior, code_scale):
        calls.append((tuple(codes.shape), tuple(prior.event_shape), code_scale.item()))
        memory = prior.expand(codes.shape[:-2])
        loc = codes.mean(-2, keepdim=True).expand_as(memory.loc)
        return WriteResult(MatrixNormal(loc, 0.1 * torch.eye(4)), codes.new_ones(*codes.shape[:-1], 4) / 4)

    machine, x = linear_machine(writer=store_the_mean, code_scale=0.5), torch.randn(2, 6, 3)
    memory = machine.write(x)
    torch.testing.assert_close(memory.posterior.loc[:, 0], x.mean(1))
    assert calls == [((2, 6, 3), (4, 3), pytest.approx(0.5))]
    assert machine.bound(x).bound.isfinite().all()
    assert memory.write(x).posterior.batch_shape == (2,)


@pytest.mark.parametrize("batch", [(), (2,)])
@pytest.mark.parametrize(
    "make",
    [
        lambda: OnlineWriter(2, 1),
        lambda: ReadingWriter(SimplexAddress(4), block_size=2),
        lambda: SlotWriter(),
        lambda: AmortizedWriter(lambda codes: codes @ torch.ones(3, 4)),
        lambda: PseudoInverseWriter(4),
    ],
    ids=["OnlineWriter", "ReadingWriter", "SlotWriter", "AmortizedWriter", "PseudoInverseWriter"],
)
def test_episodes_are_written_one_by_one(make, batch):
    """A batch of episodes, into one prior or one for each, equals a loop."""
    writer, codes = make(), torch.randn(2, 5, 3)
    prior = correlated_prior(4, 3)
    if batch:
        prior = MatrixNormal(torch.randn(2, 4, 3), torch.stack([prior.scale_tril_row, 2 * prior.scale_tril_row]))
    result = writer(codes, prior, sigma())
    assert result.memory.batch_shape == (2,)
    for b in range(2):
        single = prior if not batch else MatrixNormal(prior.loc[b], prior.scale_tril_row[b])
        expected = writer(codes[b : b + 1], single, sigma())
        torch.testing.assert_close(result.memory.loc[b], expected.memory.loc[0])
        covariance = result.memory.row_covariance.expand(2, 4, 4)[b]
        torch.testing.assert_close(covariance, expected.memory.row_covariance.expand(1, 4, 4)[0])
        torch.testing.assert_close(result.addresses[b], expected.addresses[0])


def wrong(**change):
    """A writer whose result is of another shape."""

    def write(codes, prior, code_scale):
        return OnlineWriter()(codes, prior, code_scale)._replace(**change)

    return write


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: OnlineWriter(0), "OnlineWriter: block_size is 0; expected at least 1"),
        (lambda: OnlineWriter(1, -1), "OnlineWriter: sweeps is -1; expected 0 or more"),
        (lambda: ReadingWriter(SimplexAddress(3), block_size=0), "ReadingWriter: block_size is 0"),
        (lambda: ReadingWriter(SimplexAddress(3), sweeps=-2), "ReadingWriter: sweeps is -2"),
        (lambda: SlotWriter(-1), "SlotWriter: sweeps is -1"),
        (lambda: PseudoInverseWriter(0), "PseudoInverseWriter: num_slots is 0; expected a positive"),
        (lambda: PseudoInverseWriter(3, 0.0), "PseudoInverseWriter: scale is 0.0"),
        (lambda: PseudoInverseWriter(3, ridge=-1e-3), "PseudoInverseWriter: ridge is -0.001"),
        (lambda: PseudoInverseWriter(3, ridge=math.inf), "PseudoInverseWriter: ridge is inf"),
        (lambda: RefinedWriter(OnlineWriter(), 0), "RefinedWriter: num_steps is 0"),
        (lambda: RefinedWriter(OnlineWriter(), learning_rate=0.0), "RefinedWriter: .*learning_rate 0.0"),
        (
            lambda: linear_machine(writer=AmortizedWriter(torch.nn.Linear(3, 5))).write(torch.randn(2, 6, 3)),
            r"AmortizedWriter: the network returned shape \(12, 5\); expected \(12, 4\) or \(12, 8\)",
        ),
        (
            lambda: linear_machine(writer=wrong(addresses=torch.zeros(2, 6, 5))).write(torch.randn(2, 6, 3)),
            r"writer returned a memory .*addresses \(2, 6, 5\); expected \(2,\), \(4, 3\) and \(2, 6, 4\)",
        ),
        (
            lambda: linear_machine(writer=wrong(memory=MatrixNormal(torch.zeros(4, 3), torch.eye(4)))).write(
                torch.randn(2, 6, 3)
            ),
            r"writer returned a memory of batch and event shape \(\), \(4, 3\)",
        ),
    ],
)
def test_bad_arguments_and_results(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_pseudo_inverse_of_another_number_of_slots():
    """PseudoInverseWriter(num_slots) must be that of the memory: shapes that broadcast must not pass."""
    for number in (1, 3, 5):
        machine = linear_machine(writer=PseudoInverseWriter(number))
        with pytest.raises(ValueError, match=f"the memory has 4 slots; expected {number}"):
            machine.write(torch.randn(2, 6, 3))


def test_the_2018_network_is_shared():
    network = torch.nn.Linear(3, 8)
    machine = linear_machine(writer=AmortizedWriter(network), reader=AmortizedReader(network))
    x = torch.randn(2, 6, 3)
    result = machine.write_codes(x)
    torch.testing.assert_close(result.addresses, machine.read_codes(x, result.memory.loc).mean)
    assert len(list(machine.writer.parameters())) == 2
    assert machine.likelihood.__class__ is not BernoulliLikelihood
