"""Training: the loss falls, a run stops in order, and a resumed run equals an uninterrupted one."""

import json
import math
import os
import signal

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_kanerva import Episodes, fit
from pyro_kanerva.training import load_checkpoint, loop


def seeded(make_machine):
    torch.manual_seed(7)
    return make_machine()


def test_fit_lowers_the_loss_and_leaves_no_trace(make_machine, episodes):
    machine = seeded(make_machine)
    state = torch.get_rng_state()
    result = fit(machine, episodes, num_steps=80, learning_rate=1e-2, progress=False)
    assert len(result.losses) == 80
    assert not result.interrupted
    assert sum(result.losses[-10:]) < 0.9 * sum(result.losses[:10])
    assert torch.equal(torch.get_rng_state(), state)
    assert len(pyro.get_param_store()) == 0


def test_the_loss_is_minus_the_bound_in_nats_per_pattern(make_machine):
    """Without the autoencoder term, and up to the noise of two estimates on one batch of 32 x 5 patterns."""
    episodes, steps = Episodes((torch.rand(160, 1, 5, 7) < 0.3).float(), 5, 32), []
    options = {"autoencoder_weight": 0.0, "learning_rate": 1e-9, "progress": False}
    fit(make_machine(), episodes, num_steps=1, callback=steps.append, **options)
    assert steps[0].loss == pytest.approx(steps[0].negative_bound, rel=0.03)


def test_resumed_run_equals_uninterrupted_run(make_machine, episodes, tmp_path, monkeypatch):
    options = {"num_steps": 12, "checkpoint_every": 4, "progress": False}
    whole = fit(seeded(make_machine), episodes, folder=tmp_path / "whole", **options)

    class KilledError(Exception):
        pass

    draw = Episodes.__getitem__

    def killed_at_7(self, index):
        if index == 7:
            raise KilledError("at step 7")
        return draw(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Episodes, "__getitem__", killed_at_7)
        with pytest.raises(KilledError, match="at step 7"):
            fit(seeded(make_machine), episodes, folder=tmp_path / "cut", **options)
    machine = make_machine()  # its parameters differ: all of them come from the checkpoint
    resumed = fit(machine, episodes, folder=tmp_path / "cut", resume=True, **options)
    assert resumed.losses == whole.losses
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "cut")]
    assert lines[0] == lines[1]
    assert [json.loads(line)["step"] for line in lines[0].splitlines()] == list(range(1, 13))
    assert "negative_bound" in json.loads(lines[0].splitlines()[0])
    finished = fit(machine, episodes, folder=tmp_path / "cut", resume=True, **options)
    assert finished.losses == whole.losses


def test_ctrl_c_stops_after_the_step(make_machine, episodes, tmp_path, monkeypatch):
    options = {"num_steps": 12, "progress": False}
    whole = fit(seeded(make_machine), episodes, **options)
    draw = Episodes.__getitem__

    def interrupting(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return draw(self, index)

    handler = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(Episodes, "__getitem__", interrupting)
        stopped = fit(seeded(make_machine), episodes, folder=tmp_path, **options)
    assert stopped.interrupted
    assert len(stopped.losses) == 6
    assert signal.getsignal(signal.SIGINT) is handler
    resumed = fit(make_machine(), episodes, folder=tmp_path, resume=True, **options)
    assert resumed.losses == whole.losses
    assert not resumed.interrupted


def test_a_finished_run_trains_longer(make_machine, episodes, tmp_path):
    short = fit(seeded(make_machine), episodes, num_steps=4, folder=tmp_path, progress=False)
    machine = make_machine()
    longer = fit(machine, episodes, num_steps=9, folder=tmp_path, resume=True, progress=False)
    assert len(longer.losses) == 9
    assert longer.losses[:4] == short.losses
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 9
    again = make_machine()
    load_checkpoint(tmp_path, again)
    for one, other in zip(machine.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_cue_channel_and_weights_are_used(make_machine, episodes):
    losses = {
        name: fit(seeded(make_machine), episodes, num_steps=2, progress=False, **options).losses[0]
        for name, options in {
            "plain": {},
            "no autoencoder": {"autoencoder_weight": 0.0},
            "light memory": {"memory_kl_weight": 0.1},
            "damaged cues": {"cue_channel": lambda x: 1 - x},
            "other noise": {"seed": 1},
            "other loss": {"loss": Trace_ELBO(max_plate_nesting=2)},
        }.items()
    }
    assert len(set(losses.values())) == len(losses)
    assert losses["no autoencoder"] < losses["plain"]
    assert losses["light memory"] < losses["plain"]


def test_the_callback_hears_of_every_step(make_machine, episodes, tmp_path):
    """Of the same numbers that metrics.jsonl keeps."""
    steps = []
    losses = fit(
        seeded(make_machine), episodes, num_steps=28, folder=tmp_path, callback=steps.append, progress=False
    ).losses
    assert [step.step for step in steps] == list(range(1, 29))
    assert [step.loss for step in steps] == losses
    assert [step.step for step in steps if step.negative_bound is not None] == [1, 26, 28]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{name: x for name, x in step._asdict().items() if x is not None} for step in steps]
    machine = make_machine()
    load_checkpoint(tmp_path, machine)
    bound = machine.bound(episodes[27], num_particles=20)  # fit() takes one particle
    assert steps[-1].negative_bound == pytest.approx(-bound.bound.mean().item(), rel=0.05)
    assert steps[-1].negative_conditional_bound == pytest.approx(-bound.conditional_bound.mean().item(), rel=0.05)
    assert steps[-1].negative_conditional_bound < steps[-1].negative_bound
    assert 0 <= steps[-1].learning_rate < steps[13].learning_rate < 1e-3


def test_the_learning_rate_rises_and_falls(make_machine, episodes, monkeypatch):
    """Linearly over the warm-up, from a first step that is not zero, times a cosine that ends near zero."""
    monkeypatch.setattr(loop, "_WARM_UP", 4)
    steps = []
    fit(make_machine(), episodes, num_steps=12, learning_rate=0.1, callback=steps.append, progress=False)
    expected = [0.1 * min(1, n / 4) * (1 + math.cos(math.pi * (n - 1) / 12)) / 2 for n in range(1, 13)]
    assert [step.learning_rate for step in steps] == pytest.approx(expected)
    assert 0 < expected[-1] < 0.002


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, r"fit\(\): num_steps is 0; expected at least 1"),
        ({"num_steps": 1, "checkpoint_every": 0}, r"fit\(\): checkpoint_every is 0; expected at least 1"),
        ({"num_steps": 1, "learning_rate": -1.0}, r"fit\(\): learning_rate is -1.0; expected a positive number"),
        ({"num_steps": 1, "resume": True}, "resume=True without a folder"),
    ],
)
def test_bad_options(make_machine, episodes, options, message):
    with pytest.raises(ValueError, match=message):
        fit(make_machine(), episodes, progress=False, **options)


def test_divergence_is_named(make_machine, episodes):
    with pytest.raises(ValueError, match=r"learning.rate"):
        fit(make_machine(), episodes, num_steps=400, learning_rate=1e6, progress=False)
