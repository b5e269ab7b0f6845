"""Writers: how an episode becomes q(M), against clusterings, least squares and each other."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine, random_memory
from torch.autograd import gradcheck

from pyro_kanerva import (
    AmortizedReader,
    AmortizedWriter,
    CategoricalAddress,
    ExactReader,
    FrameWriter,
    GaussianAddress,
    GaussianMemory,
    LaplaceReader,
    MatrixNormal,
    MixtureAddress,
    MixtureWriter,
    OnlineWriter,
    PseudoInverseWriter,
    ReadingWriter,
    SimplexAddress,
    SlotWriter,
    WriteResult,
    conjugate,
)
from pyro_kanerva.distributions import GaussianMixture
from pyro_kanerva.writers import check_continues, continues, needs_distinct_slots

SIGMA = 0.3


pytestmark = pytest.mark.usefixtures("float64")


def sigma():
    return torch.tensor(SIGMA)


def same_memory(one, other, **tolerance):
    torch.testing.assert_close(one.loc, other.loc, **tolerance)
    torch.testing.assert_close(one.row_covariance, other.row_covariance, **tolerance)


# ---------------------------------------------------------------------- one frame


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


# ---------------------------------------------------------------------- slots


def clusters(slots=4, size=5, copies=3):
    """Codes (2, slots * copies, C), in random order, and the cluster of each (2, slots * copies)."""
    centers = 10 * torch.linalg.qr(torch.randn(size, size))[0][:slots]
    labels = torch.stack([torch.randperm(slots * copies) % slots for _ in range(2)])
    return centers[labels] + SIGMA * torch.randn(2, slots * copies, size), labels


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


UNEQUAL = torch.tensor([0.7, 0.2, 0.1]).log()


@pytest.mark.parametrize("logits", [torch.zeros(3), UNEQUAL], ids=["uniform", "unequal"])
def test_one_pass_of_the_slot_writer_by_hand(logits):
    """The predictive of every slot, and the weighted update, pattern by pattern."""
    codes = torch.randn(1, 6, 2)
    scale = torch.tensor([0.5, 1.0, 2.0])
    prior = MatrixNormal(torch.randn(3, 2), scale.diag())
    address_prior = dist.OneHotCategorical(logits=logits)
    result = SlotWriter(0, address_prior)(codes, prior, torch.tensor(0.7))
    mean, variance = prior.loc.clone(), scale.square()
    for t in range(6):
        predictive = dist.Normal(mean, (variance + 0.49).sqrt().unsqueeze(-1)).to_event(1)
        weight = (predictive.log_prob(codes[0, t]) + logits).softmax(0)
        torch.testing.assert_close(result.addresses[0, t], weight)
        precision = 1 / variance + weight / 0.49
        mean = (mean / variance.unsqueeze(-1) + weight.unsqueeze(-1) * codes[0, t] / 0.49) / precision.unsqueeze(-1)
        variance = 1 / precision
    torch.testing.assert_close(result.memory.loc[0], mean)
    torch.testing.assert_close(result.memory.row_covariance[0], variance.diag())


def test_a_sweep_of_the_slot_writer_by_hand():
    """r[t, k] is proportional to p(e_k) exp E[log Normal(z_t; M[k], sigma^2 I)], M from the sweep before."""
    codes, scale = torch.randn(2, 6, 2), torch.tensor(0.7)
    prior, address_prior = MatrixNormal(torch.randn(3, 2), torch.eye(3)), dist.OneHotCategorical(logits=UNEQUAL)
    before = SlotWriter(1, address_prior)(codes, prior, scale).memory
    after = SlotWriter(2, address_prior)(codes, prior, scale)
    expected = dist.Normal(before.loc.unsqueeze(1), scale).log_prob(codes.unsqueeze(2)).sum(-1)
    expected = expected - before.variance.sum(-1).unsqueeze(1) / (2 * scale**2)  # of M[k] around its mean
    weights = (expected + UNEQUAL).softmax(-1)
    torch.testing.assert_close(after.addresses, weights)
    precision = 1 + weights.sum(1) / scale**2
    loc = (prior.loc + weights.mT @ codes / scale**2) / precision.unsqueeze(-1)
    torch.testing.assert_close(after.memory.loc, loc)
    torch.testing.assert_close(after.memory.row_covariance, precision.reciprocal().diag_embed())


def test_a_single_slot_is_bayes_rule_for_the_mean():
    codes, prior = torch.randn(2, 5, 3), MatrixNormal(torch.randn(1, 3), torch.tensor([[0.8]]))
    exact = conjugate.block_update(prior.expand((2,)), torch.ones(2, 5, 1), codes, SIGMA)
    for sweeps in (0, 3):
        same_memory(SlotWriter(sweeps)(codes, prior, sigma()).memory, exact)


# ---------------------------------------------------------------------- a Gaussian around each slot


@pytest.mark.parametrize("sweeps", [1, 5])
def test_a_mixture_writer_with_narrow_components_is_the_slot_writer(sweeps):
    """Its first sweep starts from clusters, not from weights, so it is a sweep of the slot writer more."""
    codes, _ = clusters()
    prior = MatrixNormal(0.1 * torch.randn(4, 5), 3.0 * torch.eye(4))
    narrow = MixtureWriter(MixtureAddress(4, 1e-5), sweeps)(codes, prior, sigma())
    slots = SlotWriter(sweeps)(codes, prior, sigma())
    torch.testing.assert_close(narrow.addresses, slots.addresses, rtol=0, atol=1e-6)
    same_memory(narrow.memory, slots.memory, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "logits", [torch.zeros(4), torch.tensor([0.6, 0.2, 0.1, 0.1]).log()], ids=["uniform", "unequal"]
)
@pytest.mark.parametrize("sweeps", [1, 3])
def test_a_mixture_writer_with_narrow_components_between_slots(sweeps, logits):
    """Codes that are torn between slots: the first weights come from the pass over the codes, without a gradient."""
    codes, scale = torch.randn(2, 6, 3), torch.tensor(1.5)
    prior = MatrixNormal(torch.randn(4, 3), torch.tensor([0.5, 0.7, 1.0, 1.3]).diag())
    start = SlotWriter(0, dist.OneHotCategorical(logits=logits))(codes, prior, scale).addresses
    rows, variance = prior.variance[:, 0], scale**2
    for _ in range(sweeps + 1):
        precision = 1 / rows + start.sum(1) / variance
        loc = (prior.loc / rows.unsqueeze(-1) + start.mT @ codes / variance) / precision.unsqueeze(-1)
        addresses = start
        squared = (codes.unsqueeze(2) - loc.unsqueeze(1)).square().sum(-1) + 3 / precision.unsqueeze(1)
        start = (-0.5 * squared / variance + logits).softmax(-1)
    # narrow components: the covariance of an address is that of a one-hot one
    address_prior = GaussianMixture(torch.zeros(4), torch.eye(4), logits, 1e-5 * torch.eye(4))
    result = MixtureWriter(address_prior, sweeps)(codes, prior, scale)
    torch.testing.assert_close(result.addresses, addresses, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.memory.loc, loc, rtol=0, atol=1e-6)
    torch.testing.assert_close(result.memory.row_covariance, precision.reciprocal().diag_embed(), rtol=0, atol=1e-6)
    expected = torch.diag_embed(addresses.mean(1)) - addresses.mT @ addresses / 6
    factor = result.address_scale_tril
    torch.testing.assert_close(factor @ factor.mT, expected, rtol=0, atol=1e-6)


def test_the_start_of_the_mixture_writer_by_hand():
    """One pass over the codes, whose variance within a slot k is sigma^2 + E|M^T (w - m_k)|^2 / C, then one sweep."""
    codes, scale, spread = torch.randn(2, 6, 3), torch.tensor(0.7), torch.tensor([0.3, 0.6, 0.9])
    rows = torch.tensor([0.5, 1.0, 1.5])
    prior = MatrixNormal(torch.randn(3, 3), rows.diag())
    address_prior = GaussianMixture(torch.zeros(3), torch.eye(3), UNEQUAL, spread.diag())
    # E|M^T v|^2 = sum_k Var[v_k] E|M_k|^2, for v of independent entries
    within = (spread.square() * (prior.loc.square().sum(-1) + 3 * rows.square())).sum() / 3
    weights = []
    for b in range(2):
        mean, precision = prior.loc, 1 / rows.square()
        for code in codes[b]:
            noise = scale**2 + within
            predictive = dist.Normal(mean, (1 / precision + noise).sqrt().unsqueeze(-1)).to_event(1)
            weights.append((predictive.log_prob(code) + UNEQUAL).softmax(0))
            gained = weights[-1] / noise
            total = (precision.unsqueeze(-1) * mean + gained.unsqueeze(-1) * code) / (precision + gained).unsqueeze(-1)
            mean, precision = total, precision + gained
    weights = torch.stack(weights).unflatten(0, (2, 6))
    precision = 1 / rows.square() + weights.sum(1) / scale**2
    loc = (prior.loc / rows.square().unsqueeze(-1) + weights.mT @ codes / scale**2) / precision.unsqueeze(-1)
    q = conjugate.mixture_address_posterior(
        codes, loc, scale, address_prior, row_covariance=precision.reciprocal().diag_embed()
    )
    result = MixtureWriter(address_prior, 1)(codes, prior, scale)
    torch.testing.assert_close(result.addresses, q.mean)


def test_a_sweep_of_the_mixture_writer_by_hand():
    """q(w) given the memory of a sweep before, then q(M) from the first two moments of each address."""
    codes, scale = torch.randn(2, 6, 3), torch.tensor(0.7)
    prior, address_prior = random_memory(slots=4, size=3), MixtureAddress(4, 0.4)
    before = MixtureWriter(address_prior, 2)(codes, prior, scale).memory
    after = MixtureWriter(address_prior, 3)(codes, prior, scale)
    for b in range(2):
        second, mixed = torch.zeros(4, 4), torch.zeros(4, 3)
        for t in range(6):
            q = conjugate.mixture_address_posterior(
                codes[b, t : t + 1], before.loc[b], scale, address_prior(), row_covariance=before.row_covariance[b]
            )
            for weight, mean in zip(q.weights[0], q.component_means[0], strict=True):
                second = second + weight * (mean.outer(mean) + q.covariance_of_components)
            mixed = mixed + q.mean[0].outer(codes[b, t])
            torch.testing.assert_close(after.addresses[b, t], q.mean[0])
        start = prior.row_covariance.inverse()
        precision = start + second / scale**2
        torch.testing.assert_close(after.memory.row_covariance[b], precision.inverse())
        loc = torch.linalg.solve(precision, start @ prior.loc + mixed / scale**2)
        torch.testing.assert_close(after.memory.loc[b], loc)


def test_a_mixture_writer_stores_more_patterns_than_slots():
    """Patterns near one of 4 centers differ by combinations of the slots: it stores them better than one-hot slots."""
    codes, labels = clusters(slots=4, size=5, copies=3)
    prior = MatrixNormal(0.1 * torch.randn(4, 5), 3.0 * torch.eye(4))
    result = MixtureWriter(MixtureAddress(4, 0.05))(codes, prior, sigma())
    slot = result.addresses.argmax(-1)
    for b in range(2):
        assert len(set(zip(labels[b].tolist(), slot[b].tolist(), strict=True))) == 4
    slots = SlotWriter()(codes, prior, sigma())
    errors = [(one.addresses @ one.memory.loc - codes).square().mean() for one in (result, slots)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("scale", [1e-4, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("distance", [1.0, 10.0, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_through_the_mixture_writer_are_finite(scale, distance, dtype):
    """Also for codes far apart, whose weights are 0 and 1, and for codes that are equal."""
    codes = (distance * torch.eye(6)[[0, 1, 2, 3, 0, 0]].unsqueeze(0) + 0.01 * torch.randn(1, 6, 6)).to(dtype)
    codes[:, 5] = codes[:, 4]
    loc = (0.1 * torch.randn(5, 6)).to(dtype)
    parts = [part.requires_grad_() for part in (codes, loc, torch.tensor(0.3, dtype=dtype))]
    prior = MatrixNormal(parts[1], 3.0 * torch.eye(5, dtype=dtype))
    result = MixtureWriter(MixtureAddress(5, scale).to(dtype))(parts[0], prior, parts[2])
    assert result.addresses.dtype == dtype
    kl = torch.distributions.kl_divergence(result.memory, prior.expand((1,)))
    for total in (result.addresses.square().sum(), kl.sum(), (result.addresses @ result.memory.loc).square().sum()):
        gradients = torch.autograd.grad(total, parts, retain_graph=True, allow_unused=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)
    assert gradients[0].abs().max() > 0


def test_gradients_of_a_sweep_of_the_mixture_writer():
    """Against finite differences, while the first weights, through which no gradient flows, are certain."""
    codes, prior = 40.0 * torch.eye(3)[[0, 1, 0]].unsqueeze(0) + torch.randn(1, 3, 3), 40.0 * torch.eye(2, 3)
    address_prior = MixtureAddress(2, 0.1)

    def write(codes, loc, scale):
        result = MixtureWriter(address_prior, 1)(codes, MatrixNormal(loc, 4.0 * torch.eye(2)), scale)
        return result.memory.loc, result.memory.row_covariance, result.addresses

    inputs = [part.requires_grad_() for part in (codes, prior, torch.tensor(0.5))]
    assert gradcheck(write, inputs)


@pytest.mark.parametrize(
    "prior",
    [
        GaussianAddress(3),
        SimplexAddress(3),
        CategoricalAddress(3),
        GaussianMixture(torch.zeros(3), torch.ones(2, 3), torch.zeros(2), torch.eye(3)),
    ],
    ids=["Gaussian", "simplex", "one-hot", "two components for three slots"],
)
def test_a_mixture_writer_of_another_prior(prior):
    with pytest.raises(ValueError, match=r"MixtureWriter: the address prior is \w+; .*a component for each slot"):
        MixtureWriter(prior)


# ---------------------------------------------------------------------- pseudo-inverse and network


@pytest.mark.parametrize(("slots", "length"), [(6, 6), (8, 5)])
def test_pseudo_inverse_reproduces_codes_that_fit(slots, length):
    """K >= T: W^T R gives the codes back, up to the ridge."""
    codes, prior = torch.randn(3, length, 10), random_memory(slots=slots, size=10)
    for ridge in (1e-5, 1e-9):
        result = PseudoInverseWriter(slots, ridge=ridge)(codes, prior, sigma())
        error = (result.addresses @ result.memory.loc - codes).norm() / codes.norm()
        assert error < 100 * ridge**0.5
    assert error < 1e-4
    # the addresses are least squares too
    expected = codes @ torch.linalg.pinv(prior.loc)
    torch.testing.assert_close(result.addresses, expected, rtol=1e-4, atol=1e-4)


def test_the_ridge_of_the_pseudo_inverse_is_relative_to_the_mean_eigenvalue():
    codes, prior, ridge = torch.randn(2, 5, 7), random_memory(slots=4, size=7), 0.3
    result = PseudoInverseWriter(4, ridge=ridge)(codes, prior, sigma())

    def regularized(gram):
        return gram + ridge * torch.linalg.eigvalsh(gram).mean(-1)[..., None, None] * torch.eye(gram.shape[-1])

    loc = prior.loc
    addresses = codes @ loc.mT @ regularized(loc @ loc.mT).inverse()  # Z R0^T (R0 R0^T + ridge)^-1
    torch.testing.assert_close(result.addresses, addresses)
    solution = torch.linalg.solve(regularized(addresses.mT @ addresses), addresses.mT @ codes)
    torch.testing.assert_close(result.memory.loc, solution)


def test_pseudo_inverse_of_many_codes_is_least_squares():
    codes, prior = torch.randn(2, 9, 10), random_memory(slots=4, size=10)
    result = PseudoInverseWriter(4, scale=0.2, ridge=1e-10)(codes, prior, sigma())
    torch.testing.assert_close(result.memory.loc, torch.linalg.lstsq(result.addresses, codes).solution)
    torch.testing.assert_close(result.memory.variance, torch.full((2, 4, 10), 0.04), rtol=1e-6, atol=0)


@pytest.mark.parametrize("width", [1, 2])
def test_amortized_writer_is_bayes_rule_at_the_addresses_of_its_network(width):
    network = torch.nn.Linear(3, width * 4)
    codes, prior = torch.randn(2, 5, 3), random_memory(slots=4, size=3)
    result = AmortizedWriter(network)(codes, prior, sigma())
    torch.testing.assert_close(result.addresses, network(codes)[..., :4])
    same_memory(result.memory, conjugate.block_update(prior.expand((2,)), network(codes)[..., :4], codes, SIGMA))
    assert result.address_scale_tril is None


# ---------------------------------------------------------------------- the online rule


@pytest.mark.parametrize("block_size", [1, 2, 8])
def test_reading_writer_with_the_exact_reader_is_the_online_writer(block_size):
    codes, prior = torch.randn(2, 5, 3), random_memory(slots=4, size=3)
    reading = ReadingWriter(GaussianAddress(4), ExactReader(), block_size, sweeps=0)(codes, prior, sigma())
    online = OnlineWriter(block_size, 0)(codes, prior, sigma())
    same_memory(reading.memory, online.memory)
    torch.testing.assert_close(reading.addresses, online.addresses)


@pytest.mark.parametrize("sweeps", [1, 3])
def test_sweeps_of_the_reading_writer(sweeps):
    """Each writes the whole episode anew, with addresses read from the memory before."""
    codes, prior = torch.randn(2, 5, 3), random_memory(slots=4, size=3)
    address_prior, reader = SimplexAddress(4), LaplaceReader()
    before = ReadingWriter(address_prior, block_size=2, sweeps=sweeps - 1)(codes, prior, sigma())
    after = ReadingWriter(address_prior, block_size=2, sweeps=sweeps)(codes, prior, sigma())
    q = reader(codes, before.memory.loc, address_prior(), sigma())
    addresses = torch.cat([q.base_dist.loc, torch.zeros(2, 5, 1)], -1).softmax(-1)
    torch.testing.assert_close(after.addresses, addresses)
    same_memory(after.memory, conjugate.block_update(prior.expand((2,)), addresses, codes, SIGMA))


# ---------------------------------------------------------------------- all writers


def test_a_function_is_a_writer():
    calls = []

    def store_the_mean(codes, prior, code_scale):
        calls.append((tuple(codes.shape), tuple(prior.event_shape), code_scale.item()))
        memory = prior.expand(codes.shape[:-2])
        loc = codes.mean(-2, keepdim=True).expand_as(memory.loc)
        return WriteResult(MatrixNormal(loc, 0.1 * torch.eye(4)), codes.new_ones(*codes.shape[:-1], 4) / 4)

    machine, x = linear_machine(4, 3, writer=store_the_mean, code_scale=0.5), torch.randn(2, 6, 3)
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
        lambda: FrameWriter(random_memory(slots=4, size=3)),
        lambda: ReadingWriter(SimplexAddress(4), block_size=2),
        lambda: SlotWriter(),
        lambda: MixtureWriter(MixtureAddress(4, 0.3)),
        lambda: AmortizedWriter(lambda codes: codes @ torch.ones(3, 4)),
        lambda: PseudoInverseWriter(4),
    ],
    ids=[
        "OnlineWriter",
        "FrameWriter",
        "ReadingWriter",
        "SlotWriter",
        "MixtureWriter",
        "AmortizedWriter",
        "PseudoInverseWriter",
    ],
)
def test_episodes_are_written_one_by_one(make, batch):
    """A batch of episodes, into one prior or one for each, equals a loop."""
    writer, codes = make(), torch.randn(2, 5, 3)
    prior = random_memory(slots=4, size=3)
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OnlineWriter(0), "OnlineWriter: block_size is 0; expected at least 1"),
        (lambda: OnlineWriter(1, -1), "OnlineWriter: sweeps is -1; expected at least 0"),
        (lambda: ReadingWriter(SimplexAddress(3), block_size=0), "ReadingWriter: block_size is 0"),
        (lambda: ReadingWriter(SimplexAddress(3), sweeps=-2), "ReadingWriter: sweeps is -2"),
        (lambda: SlotWriter(-1), "SlotWriter: sweeps is -1"),
        (lambda: MixtureWriter(MixtureAddress(3), 0), "MixtureWriter: sweeps is 0; expected at least 1"),
        (lambda: PseudoInverseWriter(0), "PseudoInverseWriter: num_slots is 0; expected at least 1"),
        (lambda: PseudoInverseWriter(3, 0.0), "PseudoInverseWriter: scale is 0.0"),
        (lambda: PseudoInverseWriter(3, ridge=-1e-3), "PseudoInverseWriter: ridge is -0.001"),
        (lambda: PseudoInverseWriter(3, ridge=math.inf), "PseudoInverseWriter: ridge is inf"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("size", [3, 5, 16])
def test_amortized_writer_of_another_size(size):
    writer, prior = AmortizedWriter(torch.nn.Linear(3, size)), random_memory(slots=4, size=3)
    expected = rf"AmortizedWriter: the network returned shape \(12, {size}\); expected \(12, 4\) or \(12, 8\)"
    with pytest.raises(ValueError, match=expected):
        writer(torch.randn(2, 6, 3), prior, sigma())


@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_pseudo_inverse_of_another_number_of_slots(number):
    """One that would broadcast, too."""
    writer, prior = PseudoInverseWriter(number), random_memory(slots=4, size=3)
    with pytest.raises(ValueError, match=f"the memory has 4 slots; expected {number}"):
        writer(torch.randn(2, 6, 3), prior, sigma())


def test_the_2018_network_is_shared():
    network = torch.nn.Linear(3, 8)
    writer, reader = AmortizedWriter(network), AmortizedReader(network)
    codes, prior = torch.randn(2, 6, 3), random_memory(slots=4, size=3)
    result = writer(codes, prior, sigma())
    q = reader(codes, result.memory.loc, GaussianAddress(4)(), sigma())
    torch.testing.assert_close(result.addresses, q.mean)
    machine = linear_machine(4, 3, writer=writer, reader=reader)
    names = [name for name, _ in machine.named_parameters() if "network" in name]
    assert len(names) == 2  # a weight and a bias, counted once


# ---------------------------------------------------------------------- what a writer may add


def test_optional_attributes():
    """A writer continues a memory and can address slots of equal mean, unless it says otherwise."""

    def plain(codes, prior, code_scale):
        raise NotImplementedError

    assert continues(plain)
    assert not needs_distinct_slots(plain)
    assert [continues(writer) for writer in (OnlineWriter(), PseudoInverseWriter(4))] == [True, False]
    assert [needs_distinct_slots(writer) for writer in (OnlineWriter(), AmortizedWriter(plain))] == [True, False]
    check_continues(plain)
    with pytest.raises(ValueError, match=r"PseudoInverseWriter starts anew.*would lose.*OnlineWriter\(8, 1\)"):
        check_continues(PseudoInverseWriter(4))


@pytest.mark.parametrize(
    "make", [lambda: OnlineWriter(40), lambda: FrameWriter(random_memory(slots=4, size=3)), lambda: SlotWriter()]
)
def test_the_memory_is_the_prior_plus_the_statistics(make):
    prior = MatrixNormal(torch.randn(4, 3), torch.tensor([0.5, 1.0, 1.5, 2.0]).diag())
    result = make()(torch.randn(2, 40, 3), prior, sigma())
    same_memory(result.memory, conjugate.add_statistics(prior.expand((2,)), result.statistics))


@pytest.mark.parametrize("length", [1, 15, 16, 40])
def test_statistics_of_a_write(length):
    """The writer returns those of one long block, which it has computed; they are what the memory gained."""
    codes, prior = torch.randn(2, length, 3), random_memory(slots=4, size=3)
    result = OnlineWriter(block_size=40)(codes, prior, sigma())
    expected = conjugate.statistics(result.addresses, codes, sigma())
    same_memory(result.memory, conjugate.add_statistics(prior.expand((2,)), expected))
    if length < 16:  # 4 K
        assert result.statistics is None
    else:
        torch.testing.assert_close(result.statistics.precision, expected.precision)
        torch.testing.assert_close(result.statistics.precision_loc, expected.precision_loc)
