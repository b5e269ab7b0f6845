"""The machine as a Pyro program: sites, ELBOs, handlers, copies, and its own bound."""

import copy
import math
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import (
    MCMC,
    NUTS,
    SVI,
    JitTrace_ELBO,
    Predictive,
    RenyiELBO,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoNormal

from pyro_kanerva import (
    ExactReader,
    Flip,
    GaussianAddress,
    GaussianMemory,
    KanervaMachine,
    MatrixNormal,
    MLPDecoder,
    MLPEncoder,
    NormalLikelihood,
    OnlineWriter,
    ScalarReader,
)


def test_sites(make_machine, patterns):
    machine = make_machine()
    guide = poutine.trace(machine.guide).get_trace(patterns)
    model = poutine.trace(poutine.replay(machine.model, guide)).get_trace(patterns)
    for trace in (guide, model):
        assert trace.nodes["memory"]["fn"].batch_shape == (3, 1)
        assert trace.nodes["memory"]["fn"].event_shape == (6, 10)
        assert trace.nodes["address"]["fn"].batch_shape == (3, 8)
        assert trace.nodes["address"]["fn"].event_shape == (6,)
        frames = {frame.name: frame.dim for frame in trace.nodes["address"]["cond_indep_stack"]}
        assert frames == {"episode": -2, "pattern_plate": -1}
    assert model.nodes["pattern"]["is_observed"]
    assert model.nodes["pattern"]["fn"].batch_shape == (3, 8)
    assert model.nodes["pattern"]["fn"].event_shape == (1, 5, 7)
    latent = set(guide.stochastic_nodes) - {"episode", "pattern_plate"}
    assert latent == {"memory", "address"}


@pytest.mark.parametrize("reader", [ExactReader, ScalarReader])
@pytest.mark.parametrize("writer", [OnlineWriter(), OnlineWriter(3), OnlineWriter(8, sweeps=2)])
def test_elbos_and_bound_agree(make_machine, patterns, reader, writer):
    """Trace_ELBO, TraceMeanField_ELBO and bound() estimate one number."""
    machine = make_machine(reader=reader(), writer=writer)
    number, terms = 150, {}
    with torch.no_grad():
        for elbo in (Trace_ELBO, TraceMeanField_ELBO):
            losses = torch.tensor(
                [elbo(max_plate_nesting=2).loss(machine.model, machine.guide, patterns) for _ in range(number)]
            )
            terms[elbo.__name__] = -losses / 24
        terms["bound"] = torch.stack([machine.bound(patterns).bound.mean() for _ in range(number)])
    for name in ("Trace_ELBO", "TraceMeanField_ELBO"):
        difference = terms[name].mean() - terms["bound"].mean()
        error = ((terms[name].var() + terms["bound"].var()) / number).sqrt()
        assert difference.abs() < 5 * error, name


def test_vectorized_particles_agree(make_machine, patterns):
    machine = make_machine()
    with torch.no_grad():
        elbo = Trace_ELBO(num_particles=200, vectorize_particles=True, max_plate_nesting=2)
        vectorized = -elbo.loss(machine.model, machine.guide, patterns) / 24
        bounds = torch.stack([machine.bound(patterns, num_particles=2).bound.mean() for _ in range(100)])
    assert abs(vectorized - bounds.mean()) < 6 * bounds.std() / math.sqrt(100) * math.sqrt(2)


def test_bound_terms(make_machine, patterns):
    machine = make_machine()
    bound = machine.bound(patterns, num_particles=3)
    assert bound.reconstruction.shape == bound.address_kl.shape == bound.memory_kl.shape == (3,)
    assert (bound.address_kl > 0).all()
    assert (bound.memory_kl > 0).all()
    torch.testing.assert_close(bound.bound, bound.reconstruction - bound.address_kl - bound.memory_kl)
    torch.testing.assert_close(bound.conditional_bound, bound.reconstruction - bound.address_kl)
    single = machine.bound(patterns[0])
    assert single.bound.shape == (1,)
    torch.testing.assert_close(single.memory_kl, bound.memory_kl[:1])


def test_training_pair_with_neutral_weights_is_model_and_guide(make_machine, patterns):
    machine = make_machine()
    elbo = TraceMeanField_ELBO(max_plate_nesting=2)
    losses = []
    for pair in ((machine.model, machine.guide), machine.training_pair(0, 1, None)):
        torch.manual_seed(1)
        losses.append(elbo.loss(*pair, patterns))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, TraceGraph_ELBO])
def test_autoencoder_term(make_machine, patterns, elbo):
    machine = make_machine()
    losses = []
    for weight in (0.0, 2.0):
        torch.manual_seed(1)
        losses.append(elbo(max_plate_nesting=2).loss(*machine.training_pair(weight), patterns))
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


def test_cue_channel_damages_only_what_addresses_see(make_machine, patterns):
    machine = make_machine()
    _, guide = machine.training_pair(0, 1, cue_channel=lambda x: 1 - x)
    traces = []
    for program in (machine.guide, guide):
        torch.manual_seed(1)
        traces.append(poutine.trace(program).get_trace(patterns))
    assert torch.equal(traces[0].nodes["memory"]["value"], traces[1].nodes["memory"]["value"])
    memory = traces[1].nodes["memory"]["value"].squeeze(-3)
    expected = machine.read_codes(machine.encode(1 - patterns), memory).mean
    torch.testing.assert_close(traces[1].nodes["address"]["fn"].mean, expected)


def parameters_of(machine):
    return {name: value.detach().clone() for name, value in machine.named_parameters()}


def unmoved(machine, before):
    return [name for name, value in machine.named_parameters() if torch.equal(value, before[name])]


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


def test_nuts_and_autoguides_take_the_model():
    machine = KanervaMachine(MLPEncoder((3,), 2, 8), MLPDecoder(2, (3,), 8), memory_prior=GaussianMemory(2, 2))
    x = (torch.rand(2, 4, 3) < 0.5).float()
    mcmc = MCMC(NUTS(machine.model), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(x)
    assert mcmc.get_samples()["memory"].shape == (5, 2, 1, 2, 2)
    assert mcmc.get_samples()["address"].shape == (5, 2, 4, 2)
    svi = SVI(machine.model, AutoNormal(machine.model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(max_plate_nesting=2))
    assert math.isfinite(svi.step(x))


def test_two_instances_train_side_by_side(make_machine, patterns):
    """The second machine of a process must not share, or silently freeze, the parameters of the first."""
    machines = [make_machine(), make_machine()]
    machines.append(copy.deepcopy(machines[0]))
    for machine in machines:
        others = [(other, parameters_of(other)) for other in machines if other is not machine]
        before = parameters_of(machine)
        svi = SVI(machine.model, machine.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(max_plate_nesting=2))
        for _ in range(2):
            svi.step(patterns)
        assert unmoved(machine, before) == []
        for other, known in others:
            assert len(unmoved(other, known)) == len(known)
    store = pyro.get_param_store()
    assert len(store) == 3 * len(before)
    machines[0].release()
    assert len(store) == 2 * len(before)


def test_deepcopy_and_pickle(make_machine, patterns):
    machine = make_machine()
    svi = SVI(machine.model, machine.guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO(max_plate_nesting=2))
    svi.step(patterns)
    assert repr(pickle.loads(pickle.dumps(machine.write(patterns)))) == repr(machine.write(patterns))
    for other in (copy.deepcopy(machine), pickle.loads(pickle.dumps(machine))):
        torch.testing.assert_close(
            other.write(patterns).posterior.loc, machine.write(patterns).posterior.loc, rtol=0, atol=0
        )
        traces = [poutine.trace(m.guide).get_trace(patterns) for m in (machine, other)]
        names = [{n for n, s in trace.nodes.items() if s["type"] == "param"} for trace in traces]
        assert names[0].isdisjoint(names[1])
    before = parameters_of(machine)
    svi.step(patterns)  # and the original trains on
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


def test_predictive_and_condition(make_machine, patterns):
    machine = make_machine()
    prior = Predictive(poutine.uncondition(machine.model), num_samples=4)(patterns)
    assert prior["pattern"].shape == (4, *patterns.shape)
    posterior = Predictive(poutine.uncondition(machine.model), guide=machine.guide, num_samples=4, parallel=True)(
        patterns
    )
    assert posterior["pattern"].shape == (4, *patterns.shape)
    memory = machine.write(patterns).posterior.loc.unsqueeze(1)
    conditioned = poutine.condition(machine.model, {"memory": memory})
    trace = poutine.trace(conditioned).get_trace(patterns)
    assert torch.equal(trace.nodes["memory"]["value"], memory)
    assert trace.nodes["memory"]["is_observed"]
    samples = Predictive(poutine.uncondition(machine.model), {"memory": memory.expand(5, *memory.shape)})(patterns)
    assert samples["pattern"].shape == (5, *patterns.shape)


def test_mask_leaves_episodes_out(make_machine, patterns):
    machine = make_machine()
    mask = torch.tensor([[True], [False], [True]])
    elbo = TraceMeanField_ELBO(max_plate_nesting=2)
    torch.manual_seed(1)
    masked = elbo.loss(poutine.mask(machine.model, mask=mask), poutine.mask(machine.guide, mask=mask), patterns)
    torch.manual_seed(1)
    bound = machine.bound(patterns).bound
    assert masked / 8 == pytest.approx(-(bound[0] + bound[2]).item(), rel=0.05)


def test_render_model(make_machine, patterns):
    graph = pyro.render_model(make_machine().model, model_args=(patterns,), render_distributions=True)
    for name in ("memory", "address", "pattern", "episode", "pattern_plate"):
        assert name in graph.source


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


@pytest.mark.parametrize("scale", [0.5, torch.full((6,), 0.5), 0.5 * torch.eye(6) + 0.1 * torch.ones(6, 6).tril(-1)])
def test_gaussian_memory_scales(make_machine, patterns, scale):
    prior = GaussianMemory(6, 10, scale)
    row_covariance = prior().row_covariance
    factor = torch.as_tensor(scale) * torch.eye(6) if torch.as_tensor(scale).dim() < 2 else scale
    torch.testing.assert_close(row_covariance, factor @ factor.mT)
    Trace_ELBO(max_plate_nesting=2)(*make_machine(memory_prior=prior).training_pair())(patterns).backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in prior.parameters())


def test_normal_likelihood():
    machine = KanervaMachine(
        MLPEncoder((9,), 4, 16),
        MLPDecoder(4, (9,), 16),
        memory_prior=GaussianMemory(3, 4),
        likelihood=NormalLikelihood(0.5),
    )
    x = torch.randn(2, 5, 9)
    loss = Trace_ELBO(max_plate_nesting=2)(*machine.training_pair())(x)
    loss.backward()
    assert machine.likelihood.log_scale.grad.abs() > 0
    assert machine.write(x).read(x).shape == x.shape
    assert machine.write(x).query(x, num_steps=1).patterns.shape == (2, *x.shape)


def test_a_likelihood_without_a_mean():
    """Class labels have no mean; that is no reason to refuse what the decoder returned."""
    machine = KanervaMachine(
        MLPEncoder((9,), 4, 16),
        MLPDecoder(4, (9, 5), 16),
        memory_prior=GaussianMemory(3, 4),
        likelihood=lambda logits: dist.Categorical(logits=logits),
    )
    bound = machine.bound(torch.randint(0, 5, (2, 6, 9)).float()).bound
    assert bound.isfinite().all()


# ---------------------------------------------------------------------- is the bound a bound?


def linear_machine(memory_scale, sigma=0.7):
    """K = C = 1: x ~ Normal(M w, sigma), for which log p(X) is a one-dimensional integral."""
    memory_prior = MatrixNormal(
        torch.full((1, 1), 0.8, dtype=torch.float64), torch.full((1, 1), memory_scale, dtype=torch.float64)
    )
    return KanervaMachine(
        lambda x: x,
        lambda z: z,
        memory_prior=memory_prior,
        address_prior=GaussianAddress(1),
        likelihood=lambda mean: dist.Normal(mean, sigma),
        writer=OnlineWriter(1, sweeps=3),
        code_scale=sigma,
    ).double()


def log_evidence(x, memory_scale, sigma=0.7):
    """log of the integral of p(M) prod_t Normal(x_t; 0, M^2 + sigma^2), by quadrature, per pattern."""
    grid = 0.8 + memory_scale * torch.linspace(-10, 10, 20001, dtype=torch.float64)
    log_joint = dist.Normal(0.8, memory_scale).log_prob(grid)
    log_joint = log_joint + dist.Normal(0.0, (grid**2 + sigma**2).sqrt()).log_prob(x.flatten(1)[..., None]).sum(-2)
    return (torch.logsumexp(log_joint, -1) + (grid[1] - grid[0]).log()) / x.shape[1]


def test_bound_is_below_the_exact_log_evidence():
    x = 1.2 * torch.randn(4, 6, 1, dtype=torch.float64)
    machine, exact = linear_machine(1.0), log_evidence(x, 1.0)
    with torch.no_grad():
        bounds = torch.stack([machine.bound(x, 200).bound for _ in range(20)])
    assert (bounds.mean(0) + 5 * bounds.std(0) / math.sqrt(20) < exact).all()
    assert (exact - bounds.mean(0) < 1.0).all()  # and not far below


def test_elbo_equals_the_log_evidence_at_the_exact_posterior():
    """With a memory that is known, the reader is exact and every single sample gives log p(X)."""
    x = torch.randn(4, 6, 1, dtype=torch.float64)
    machine, exact = linear_machine(1e-7), log_evidence(x, 1e-7)
    for _ in range(3):
        loss = Trace_ELBO(max_plate_nesting=2).loss(machine.model, machine.guide, x)
        assert -loss / 6 == pytest.approx(exact.sum().item(), rel=1e-5)


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x[..., :4], r"event shape \(1, 5, 4\) .*; expected \(1, 5, 7\). Resize them"),
        (lambda x: x.unsqueeze(0), r"shape \(1, 3, 8, 1, 5, 7\); expected \(episodes, patterns\) \+ \(1, 5, 7\)"),
        (lambda x: x[0, 0], "expected"),
        (lambda x: x.double(), r"dtype torch.float64 on cpu; expected torch.float32 on cpu.*\.to\(dtype\)"),
        (lambda x: x.to("meta"), r"torch.float32 on meta; expected torch.float32 on cpu.*\.to\(device\)"),
        (lambda x: torch.where(x > 0, torch.nan, x), "NaN or infinite entries"),
        (lambda x: torch.where(x > 0, torch.inf, x), "NaN or infinite entries"),
        (lambda x: 0.5 * x, "entries other than 0 and 1.*Binarize"),
        (lambda x: x[:, :0], "empty batch or episode"),
        (lambda x: x[:0], "empty batch or episode"),
    ],
)
@pytest.mark.parametrize("call", ["model", "guide", "bound", "write"])
def test_bad_patterns(make_machine, patterns, change, message, call):
    with pytest.raises(ValueError, match=rf"{call}\(\): patterns .*{message}"):
        getattr(make_machine(), call)(change(patterns))


def test_patterns_without_an_event_shape(patterns):
    machine = KanervaMachine(torch.nn.Flatten(), torch.nn.Identity(), memory_prior=GaussianMemory(2, 35))
    with pytest.raises(ValueError, match=r"shape \(3, 8\); expected \(episodes, patterns\)"):
        machine.write(patterns[..., 0, 0, 0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: m(memory_prior=GaussianMemory(6, 9)), "codes of shape .* expected .* code size"),
        (lambda m: m(address_prior=GaussianAddress(5)), r"address_prior has event shape \(5,\); expected \(6,\)"),
        (
            lambda m: m(memory_prior=dist.Normal(torch.zeros(6, 10), 1.0)),
            r"batch shape \(6, 10\) and event shape \(\).*to_event",
        ),
        (lambda m: m(code_scale=0.0), "code_scale is 0.0; expected a positive"),
        (lambda m: m(memory_prior=dist.Cauchy(torch.zeros(6, 10), 1.0).to_event(2)), "no finite mean and variance"),
        (lambda m: m().training_pair(memory_kl_weight=-1), "memory_kl_weight is -1"),
        (lambda m: GaussianMemory(0, 3), "num_slots is 0"),
        (lambda m: GaussianMemory(3, 3, torch.ones(2)), r"shape \(2,\); expected"),
        (lambda m: GaussianMemory(3, 3, -1.0), "positive"),
        (lambda m: GaussianAddress(0), "num_slots is 0"),
        (lambda m: m(memory_prior=dist.Normal(torch.zeros(3, 6, 10), 1.0).to_event(2)), r"batch shape \(3,\)"),
        (lambda m: m(writer=lambda c, p, s: OnlineWriter()(c[:, :1], p, s)), r"writer returned .*\(3, 1, 6\)"),
        (lambda m: m(memory_prior=dist.Normal(torch.randn(6, 10), 1.0).to_event(2)).double(), "dtype"),
        (lambda m: GaussianMemory(3, 3, math.inf), "finite positive"),
        (lambda m: OnlineWriter(0), "block_size is 0"),
        (lambda m: OnlineWriter(1, -1), "sweeps is -1"),
        (lambda m: ScalarReader(0.0), "scale is 0.0"),
        (lambda m: NormalLikelihood(-1.0), "scale is -1.0"),
        (lambda m: NormalLikelihood(math.inf), "scale is inf"),
        (lambda m: ScalarReader(math.inf), "scale is inf"),
    ],
)
def test_bad_parts(make_machine, patterns, build, message):
    with pytest.raises(ValueError, match=message):
        build(make_machine).write(patterns)


@pytest.mark.parametrize("call", ["bound", "model", "guide"])
def test_decoder_of_another_shape(make_machine, patterns, call):
    """Shapes that would broadcast must not pass."""
    machine = make_machine()
    machine.decoder = MLPDecoder(10, (1, 1, 7))
    program = machine.training_pair()[1] if call == "guide" else getattr(machine, call)
    with pytest.raises(ValueError, match=r"give shape \(.*1, 1, 7\); expected \(.*1, 5, 7\), that of the patterns"):
        program(patterns)
    machine.decoder = MLPDecoder(9, (1, 5, 7))
    with pytest.raises(ValueError, match=r"decoder failed on a tensor of shape .*code_size 10"):
        program(patterns)


def test_reader_of_another_shape(make_machine, patterns):
    machine = make_machine(reader=lambda codes, memory, prior, scale: dist.Normal(codes, 1.0).to_event(1))
    with pytest.raises(
        ValueError, match=r"reader returned batch and event shape \(3, 8\), \(10,\); expected \(1, 3, 8\)"
    ):
        machine.bound(patterns)


def test_memory_site_without_the_pattern_dimension(make_machine, patterns):
    machine = make_machine()
    conditioned = poutine.condition(machine.model, {"memory": machine.write(patterns).posterior.loc})
    with pytest.raises(ValueError, match=r'site "memory" has shape .*unsqueeze\(-3\)'):
        conditioned(patterns)


def test_memory_of_another_machine(make_machine, patterns):
    with pytest.raises(ValueError, match="belongs to another machine"):
        make_machine().write(patterns, memory=make_machine().write(patterns))


def test_bad_number_of_particles(make_machine, patterns):
    with pytest.raises(ValueError, match="num_particles is 0"):
        make_machine().bound(patterns, 0)


def test_diverged_parameters_are_named(make_machine, patterns):
    machine = make_machine()
    with torch.no_grad():
        machine.encoder[1].weight.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"encoder returned NaN or infinite codes.*learning rate"):
        machine.write(patterns)
    machine = make_machine()
    memory = machine.write(patterns)
    with torch.no_grad():
        machine.decoder[-2].bias.fill_(torch.nan)
    for call in (machine.bound, machine.training_pair()[1], machine.model, memory.read, lambda x: memory.generate(2)):
        with pytest.raises(ValueError, match=r"decoder returned NaN or infinite values.*learning rate"):
            call(patterns)
    for channel in (None, Flip(0.1)):
        with pytest.raises(ValueError, match=r"energy of a cue is NaN or infinite.*learning rate"):
            memory.query(patterns, channel=channel)
    machine = make_machine()
    with torch.no_grad():
        machine.memory_prior.loc.fill_(torch.inf)
    with pytest.raises(ValueError, match=r"address precision .* NaN or infinite"):
        machine.write(patterns)
