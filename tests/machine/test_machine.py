"""The machine: training by Pyro's ELBOs, memories, and the parts that it refuses."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import linear_machine, parameters_of, small_machine, unmoved
from pyro import poutine
from pyro.infer import SVI, JitTrace_ELBO, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO

from pyro_kanerva import GaussianAddress, GaussianMemory, KanervaMachine, NormalLikelihood, ScalarReader


def test_training_pair_with_neutral_weights_is_model_and_guide(make_machine, patterns):
    machine = make_machine()
    elbo = TraceMeanField_ELBO(max_plate_nesting=2)
    losses = []
    for pair in ((machine.model, machine.guide), machine.training_pair(0, 1, None)):
        torch.manual_seed(1)
        losses.append(elbo.loss(*pair, patterns))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO])
@pytest.mark.parametrize("cue_channel", [None, lambda x: 1 - x], ids=["plain", "damaged cues"])
def test_autoencoder_term(make_machine, patterns, elbo, cue_channel):
    """It is that of the undamaged patterns."""
    machine = make_machine()
    losses = []
    for weight in (0.0, 2.0):
        torch.manual_seed(1)
        pair = machine.training_pair(weight, cue_channel=cue_channel)
        losses.append(elbo(max_plate_nesting=2).loss(*pair, patterns))
    log_prob = machine.decode(machine.encode(patterns), (1, 5, 7)).log_prob(patterns).sum().item()
    assert losses[1] - losses[0] == pytest.approx(-2 * log_prob, rel=1e-5)
    # the plain programs do not contain it
    assert "autoencoder" not in poutine.trace(machine.guide).get_trace(patterns)


@pytest.mark.parametrize("weight", [0.0, 0.25, 2.0])
def test_memory_kl_weight(make_machine, patterns, weight):
    machine = make_machine()
    losses = []
    for value in (1.0, weight):
        torch.manual_seed(1)
        losses.append(TraceMeanField_ELBO(max_plate_nesting=2).loss(*machine.training_pair(0, value), patterns))
    memory_kl = 8 * machine.bound(patterns).memory_kl.sum().item()
    assert losses[1] - losses[0] == pytest.approx((weight - 1) * memory_kl, rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.25, 2.0])
def test_memory_kl_weight_of_an_estimate(make_machine, patterns, weight):
    """Without a closed form, it multiplies log q(M) - log p(M) at the draw."""
    machine = make_machine().double()
    losses = []
    for value in (1.0, weight):
        torch.manual_seed(1)
        pair = machine.training_pair(0, value)
        losses.append(Trace_ELBO(max_plate_nesting=2).loss(*pair, patterns.double()))
    torch.manual_seed(1)
    site = poutine.trace(machine.guide).get_trace(patterns.double()).nodes["memory"]
    difference = site["fn"].log_prob(site["value"]) - machine.memory_prior().log_prob(site["value"])
    assert losses[1] - losses[0] == pytest.approx((weight - 1) * difference.sum().item(), rel=1e-6)


@pytest.mark.parametrize(
    "elbo",
    [
        Trace_ELBO(max_plate_nesting=2),
        TraceMeanField_ELBO(max_plate_nesting=2),
        TraceGraph_ELBO(max_plate_nesting=2),
        RenyiELBO(alpha=0.5, num_particles=3, vectorize_particles=True, max_plate_nesting=2),
        Trace_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=2),
    ],
    ids=lambda elbo: f"{type(elbo).__name__}-{elbo.num_particles}",
)
def test_svi_moves_every_parameter(make_machine, patterns, elbo):
    machine = make_machine(reader=ScalarReader())
    before = parameters_of(machine)
    svi = SVI(*machine.training_pair(), pyro.optim.Adam({"lr": 1e-2}), elbo)
    for _ in range(2):
        assert math.isfinite(svi.step(patterns))
    assert unmoved(machine, before) == []


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_jit(make_machine, patterns):
    machine = make_machine()
    before = parameters_of(machine)
    elbo = JitTrace_ELBO(max_plate_nesting=2, ignore_jit_warnings=True)
    svi = SVI(machine.model, machine.guide, pyro.optim.Adam({"lr": 1e-2}), elbo)
    losses = [svi.step(patterns) for _ in range(30)]
    assert losses[-1] < losses[0]
    assert unmoved(machine, before) == []
    torch.manual_seed(3)
    jit = elbo.differentiable_loss(machine.model, machine.guide, patterns).item() / 24
    plain = torch.tensor(
        [Trace_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, patterns) for _ in range(50)]
    )
    assert abs(jit - plain.mean() / 24) < 8 * plain.std() / 24


@pytest.mark.parametrize("local", [False, True])
def test_elbo_module_with_torch_optim(make_machine, patterns, local):
    """The form without Pyro's optimizers, with global and with module-local parameters."""
    machine = make_machine()
    with pyro.settings.context(module_local_params=local):
        loss_of = Trace_ELBO(max_plate_nesting=2)(machine.model, machine.guide)
        assert {id(p) for p in loss_of.parameters()} == {id(p) for p in machine.parameters()}
        optimizer = torch.optim.Adam(loss_of.parameters(), lr=1e-2)
        before = parameters_of(machine)
        for _ in range(2):
            optimizer.zero_grad()
            loss_of(patterns).backward()
            optimizer.step()
    assert unmoved(machine, before) == []


def test_float64(make_machine, patterns):
    machine = make_machine().double()
    x = patterns.double()
    assert machine.bound(x).bound.dtype == torch.float64
    assert Trace_ELBO(max_plate_nesting=2)(*machine.training_pair())(x).dtype == torch.float64
    memory = machine.write(x)
    assert (
        memory.read(x).dtype == memory.generate(2).dtype == memory.query(x, num_steps=1).energy.dtype == torch.float64
    )


def test_plain_callables_and_any_prior(patterns):
    """Encoder, decoder, likelihood and priors need not be modules; a swapped prior changes the log joint."""
    weight = torch.randn(35, 10) / 6

    def build(**priors):
        return KanervaMachine(
            lambda x: x.flatten(1) @ weight,
            lambda z: (z @ weight.mT).unflatten(-1, (1, 5, 7)),
            likelihood=lambda logits: dist.Bernoulli(logits=logits),
            **priors,
        )

    laplace = dist.Laplace(torch.randn(6, 10), 0.4).to_event(2)
    plain = build(memory_prior=GaussianMemory(6, 10))
    swapped = build(memory_prior=laplace, address_prior=lambda: dist.StudentT(5.0, torch.zeros(6), 1.0).to_event(1))
    for machine in (plain, swapped):
        elbo = Trace_ELBO(num_particles=50, vectorize_particles=True, max_plate_nesting=2)
        with torch.no_grad():
            loss = elbo.loss(machine.model, machine.guide, patterns) / 24
            bound = machine.bound(patterns, 50).bound.mean().item()
        assert loss == pytest.approx(-bound, rel=0.02)
        assert machine.write(patterns).read(patterns).shape == patterns.shape
    values = poutine.trace(plain.guide).get_trace(patterns)
    joints = [
        poutine.trace(poutine.replay(machine.model, values)).get_trace(patterns).log_prob_sum()
        for machine in (plain, swapped)
    ]
    assert (joints[0] - joints[1]).abs() > 1


def test_normal_likelihood():
    machine = small_machine((9,), slots=3, code_size=4, likelihood=NormalLikelihood(0.5))
    x = torch.randn(2, 5, 9)
    loss = Trace_ELBO(max_plate_nesting=2)(*machine.training_pair())(x)
    loss.backward()
    assert machine.likelihood.log_scale.grad.abs() > 0
    assert machine.write(x).read(x).shape == x.shape
    assert machine.write(x).query(x, num_steps=1).patterns.shape == (2, *x.shape)


def test_a_likelihood_without_a_mean():
    """Class labels have no mean, and need none in a bound."""
    likelihood = lambda logits: dist.Categorical(logits=logits)  # noqa: E731
    machine = small_machine((9,), slots=3, code_size=4, output_shape=(9, 5), likelihood=likelihood)
    bound = machine.bound(torch.randint(0, 5, (2, 6, 9)).float()).bound
    assert bound.isfinite().all()


def test_an_empty_memory():
    """It holds the prior, and nothing is written."""
    machine = small_machine()
    memory = machine.prior_memory(3)
    assert memory.posterior.batch_shape == (3,)
    assert torch.equal(memory.posterior.loc[1], machine.memory_prior.loc)
    assert memory.records == ()
    with pytest.raises(ValueError, match=r"prior_memory\(\): num_episodes is 0; expected at least 1"):
        machine.prior_memory(0)
    with pytest.raises(ValueError, match=r"prior_memory\(\): the encoder has no attribute event_shape"):
        linear_machine(3, 4, encoder=lambda x: x).prior_memory()


def test_an_empty_memory_does_not_change_with_the_machine(patterns):
    """Training in place does not reach it, and its energies can still be computed."""
    machine = small_machine()
    memory = machine.prior_memory(3)
    before = memory.posterior.loc.detach().clone()
    with torch.no_grad():
        machine.memory_prior.loc.add_(1.0)
    assert not memory.posterior.loc.requires_grad
    assert torch.equal(memory.posterior.loc.detach(), before)
    assert memory.energy(torch.zeros(3, 8, 6), patterns).isfinite().all()


def test_writes_into_one_memory(make_machine, patterns):
    """``write(x, memory)`` continues a memory, as ``memory.write(x)`` does."""
    machine = make_machine()
    first = machine.write(patterns)
    one, other = machine.write(patterns[:, :3], first), first.write(patterns[:, :3])
    assert torch.equal(one.posterior.loc, other.posterior.loc)
    assert [record.num_patterns for record in one.records] == [8, 3]


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        ([], "the stream has no chunks; expected at least one"),
        ([3.0], "the stream begins with a float; expected a tensor"),
    ],
)
def test_bad_streams(make_machine, stream, message):
    with pytest.raises(ValueError, match=rf"write\(\): {message}"):
        make_machine().write(iter(stream))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m(memory_prior=GaussianMemory(6, 9)), "codes of shape .* expected .* code size"),
        (lambda m: m(address_prior=GaussianAddress(5)), r"address_prior has event shape \(5,\); expected \(6,\)"),
        (
            lambda m: m(memory_prior=dist.Normal(torch.zeros(6, 10), 1.0)),
            r"batch shape \(6, 10\) and event shape \(\).*to_event",
        ),
        (lambda m: m(code_scale=0.0), "KanervaMachine: code_scale is 0.0; expected a positive number"),
        (lambda m: m(memory_prior=dist.Cauchy(torch.zeros(6, 10), 1.0).to_event(2)), "no finite mean and variance"),
        (lambda m: m().training_pair(memory_kl_weight=-1), r"training_pair\(\): memory_kl_weight is -1"),
        (lambda m: m(memory_prior=dist.Normal(torch.zeros(3, 6, 10), 1.0).to_event(2)), r"batch shape \(3,\)"),
        (lambda m: m(memory_prior=dist.Normal(torch.randn(6, 10), 1.0).to_event(2)).double(), "dtype"),
    ],
)
def test_bad_parts(make_machine, patterns, build, message):
    with pytest.raises(ValueError, match=message):
        build(make_machine).write(patterns)


def test_memory_of_another_machine(make_machine, patterns):
    with pytest.raises(ValueError, match="belongs to another machine"):
        make_machine().write(patterns, memory=make_machine().write(patterns))
