"""The Pyro programs of a machine: sites, handlers, and their place in Pyro's parameter store."""

import copy
import math
import pickle

import pyro
import pytest
import torch
from helpers import parameters_of, small_machine, unmoved
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal


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


def test_cue_channel_damages_only_what_addresses_see(make_machine, patterns):
    machine = make_machine()
    _, guide = machine.training_pair(0, 1, cue_channel=lambda x: 1 - x)
    traces = []
    for program in (machine.guide, guide):
        torch.manual_seed(1)
        traces.append(poutine.trace(program).get_trace(patterns))
    assert torch.equal(traces[0].nodes["memory"]["value"], traces[1].nodes["memory"]["value"])
    matrix = traces[1].nodes["memory"]["value"].squeeze(-3)
    expected = machine.read_codes(machine.encode(1 - patterns), matrix).mean
    torch.testing.assert_close(traces[1].nodes["address"]["fn"].mean, expected)


def test_predictive_and_condition(make_machine, patterns):
    machine = make_machine()
    prior = Predictive(poutine.uncondition(machine.model), num_samples=4)(patterns)
    assert prior["pattern"].shape == (4, *patterns.shape)
    posterior = Predictive(poutine.uncondition(machine.model), guide=machine.guide, num_samples=4, parallel=True)(
        patterns
    )
    assert posterior["pattern"].shape == (4, *patterns.shape)
    matrix = machine.write(patterns).posterior.loc.unsqueeze(1)
    conditioned = poutine.condition(machine.model, {"memory": matrix})
    trace = poutine.trace(conditioned).get_trace(patterns)
    assert torch.equal(trace.nodes["memory"]["value"], matrix)
    assert trace.nodes["memory"]["is_observed"]
    samples = Predictive(poutine.uncondition(machine.model), {"memory": matrix.expand(5, *matrix.shape)})(patterns)
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


def test_nuts_and_autoguides_take_the_model():
    machine = small_machine((3,), slots=2, code_size=2)
    x = (torch.rand(2, 4, 3) < 0.5).float()
    mcmc = MCMC(NUTS(machine.model), num_samples=5, warmup_steps=5, disable_progbar=True)
    mcmc.run(x)
    assert mcmc.get_samples()["memory"].shape == (5, 2, 1, 2, 2)
    assert mcmc.get_samples()["address"].shape == (5, 2, 4, 2)
    svi = SVI(machine.model, AutoNormal(machine.model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(max_plate_nesting=2))
    assert math.isfinite(svi.step(x))


def test_memory_site_without_the_pattern_dimension(make_machine, patterns):
    machine = make_machine()
    conditioned = poutine.condition(machine.model, {"memory": machine.write(patterns).posterior.loc})
    with pytest.raises(ValueError, match=r'site "memory" has shape .*unsqueeze\(-3\)'):
        conditioned(patterns)


# ---------------------------------------------------------------------- Pyro's parameter store


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
