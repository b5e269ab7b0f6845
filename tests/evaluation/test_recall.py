"""Evaluation: its figures are what their names say."""

import math

import pytest
import torch

from pyro_kanerva import Flip, KanervaMachine, Occlusion
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation import (
    entry_error,
    evaluate_baselines,
    evaluate_basins,
    evaluate_bound,
    evaluate_capacity,
    evaluate_completion,
    evaluate_recall,
    evaluate_recognition,
    familiarity,
    interval,
    join,
    query_cost,
    recall_error,
    roc,
)


def test_interval():
    values = torch.randn(400, 3, dtype=torch.float64) + torch.tensor([0.0, 1.0, 2.0])
    curve = interval(range(3), values)
    assert curve.x == [0, 1, 2]
    half_width = 1.96 * values.std(0) / 20
    torch.testing.assert_close(torch.tensor(curve.mean, dtype=torch.float64), values.mean(0))
    torch.testing.assert_close(torch.tensor(curve.high, dtype=torch.float64), values.mean(0) + half_width)
    torch.testing.assert_close(torch.tensor(curve.low, dtype=torch.float64), values.mean(0) - half_width)
    alone = interval([5], torch.tensor([[0.3]]))
    assert alone.low == alone.mean == alone.high
    assert join([interval([2], values[:, :1]), interval([1], values[:, 1:2])]).x == [1, 2]


def test_recall_error(make_machine, patterns):
    memory = make_machine().write(patterns)
    cues = Flip(0.2)(patterns)
    retrieval = memory.query(cues, num_steps=4, channel=Flip(0.2))
    error = recall_error(patterns, retrieval)
    wrong = (retrieval.patterns != patterns).double().flatten(2).mean(-1)  # (S + 1, B)
    torch.testing.assert_close(error.errors, wrong.mT)
    assert error.cue == pytest.approx(wrong[0].mean().item())
    assert error.steps == pytest.approx(wrong[1:].mean(-1).tolist())
    assert error.never_rose == 1
    for episode in range(3):
        steps = []
        for cue in range(8):
            track = retrieval.patterns[:, episode, cue]
            steps.append(max((n for n in range(1, 5) if not torch.equal(track[n], track[n - 1])), default=0))
        assert error.num_steps[episode].item() == pytest.approx(sum(steps) / 8)


def test_evaluate_recall_is_seeded_and_goes_over_all_batches(make_machine, patterns):
    machine = make_machine()
    torch.manual_seed(1)
    one = evaluate_recall(machine, [patterns, patterns[:1]], Flip(0.2), channel=None, num_steps=2, seed=3)
    torch.manual_seed(2)
    other = evaluate_recall(machine, [patterns, patterns[:1]], Flip(0.2), channel=None, num_steps=2, seed=3)
    assert torch.equal(one.errors, other.errors)
    assert one.errors.shape == (4, 3)
    assert one.num_steps.shape == (4,)
    assert not torch.equal(
        one.errors,
        evaluate_recall(machine, [patterns, patterns[:1]], Flip(0.2), channel=None, num_steps=2, seed=4).errors,
    )


def test_baselines(make_machine, patterns):
    errors = evaluate_baselines(make_machine(), [patterns], Flip(0.05), 0.05)
    assert len(errors) == 5
    assert errors["nearest stored pattern"] < 0.02  # 35 entries tell 8 patterns apart
    assert errors["Hopfield network, all patterns"] < 0.02
    assert errors["Hopfield network, as large as the memory (1 patterns)"] > 0.1  # 60 floats hold one of 35 entries


def test_capacity(make_machine):
    images = (torch.rand(20, 1, 5, 7) < 0.3).float()
    curves = evaluate_capacity(make_machine(), images, [2, 10, 20], Flip(0.1), channel=Flip(0.1), num_episodes=3)
    assert set(curves) == {"recall", "negative bound", "negative conditional bound"}
    assert all(curve.x == [2, 10, 20] for curve in curves.values())
    honest, conditional = curves["negative bound"].mean, curves["negative conditional bound"].mean
    assert all(a > b for a, b in zip(honest, conditional, strict=True))
    recall = curves["recall"]
    assert recall.low[0] < recall.mean[0] < recall.high[0]
    assert recall.low[2] == recall.high[2]  # one episode


def test_basins(make_machine, patterns):
    machine = make_machine()
    curve = evaluate_basins(machine, [patterns], [0.1, 0.4], threshold=2.0)
    assert curve.mean == [1, 1]  # everything is nearer than that
    assert evaluate_basins(machine, [patterns], [0.1], threshold=0.0).mean == [0]
    generator = torch.Generator()
    for told in (None, Flip(0.1)):
        generator.manual_seed(derive_seed(1, 0))
        recalled = machine.write(patterns).query(Flip(0.1)(patterns, generator), channel=told).patterns[-1]
        wrong = (recalled != patterns).double().flatten(2).mean(-1)
        middle = wrong.median().item()
        share = evaluate_basins(machine, [patterns], [0.1], threshold=middle, told=told is not None, seed=1).mean[0]
        assert share == pytest.approx((wrong < middle).double().mean().item())


def test_completion(make_machine, patterns):
    hidden = torch.zeros(1, 5, 7, dtype=torch.bool)
    hidden[..., 4:] = True
    machine, occlusion = make_machine(), Occlusion(~hidden)
    torch.manual_seed(1)
    errors = evaluate_completion(machine, [patterns], occlusion, hidden, num_samples=4)
    assert set(errors) == {"blank", "query", "mean of the chain"}
    torch.manual_seed(1)
    memory, cues = machine.write(patterns), occlusion(patterns)
    draws = memory.sample(cues, 4, burn_in=20, channel=occlusion, sample_memory=True).patterns
    query = memory.query(cues, channel=occlusion).patterns[-1]
    for value, recalled in zip(errors.values(), (cues, query, draws.mean(0) > 0.5), strict=True):
        wrong = recalled.float() != patterns
        assert not wrong[..., :4].any()  # what is visible is kept
        assert value == pytest.approx(wrong[..., 4:].double().mean().item())


def test_roc_by_counting_pairs():
    stored, unstored = torch.randint(0, 9, (40,)).float() + 2, torch.randint(0, 9, (30,)).float()
    pairs = (stored[:, None] > unstored).double() + 0.5 * (stored[:, None] == unstored)
    curve = roc(stored, unstored)
    assert curve.auc == pytest.approx(pairs.mean().item())
    assert curve.false_positive_rate[0] == curve.true_positive_rate[0] == 0
    assert curve.false_positive_rate[-1] == curve.true_positive_rate[-1] == 1
    assert roc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])).auc == 1


def test_familiarity_is_the_bayes_factor_of_the_codes(make_machine, patterns):
    """Against the marginal normal of a code, for a memory that is known exactly; and what is stored is familiar."""
    machine = make_machine(code_scale=0.3).double()
    x = patterns.double()
    memory = machine.write(x)
    codes = machine.encode(x)

    def log_density(posterior):
        address = machine.read_codes(codes, posterior.loc).mean
        variance = 0.09 + (address @ posterior.row_covariance * address).sum(-1)
        loc = posterior.loc
        # log p(z) = log p(z | w) + log p(w) - log q(w | z) for every w, and so at the mean
        evidence = torch.distributions.Normal(address @ loc, variance.sqrt().unsqueeze(-1)).log_prob(codes).sum(-1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(address).sum(-1)
        precision = torch.eye(6, dtype=torch.float64) + loc @ loc.mT / 0.09
        q = 0.5 * torch.logdet(precision) - 3 * math.log(2 * math.pi)
        return evidence + prior - q.unsqueeze(-1)

    empty = machine.prior_memory(3).posterior
    torch.testing.assert_close(familiarity(memory, x), log_density(memory.posterior) - log_density(empty))
    other = (torch.rand(3, 8, 1, 5, 7) < 0.3).double()
    assert familiarity(memory, x).mean() > familiarity(memory, other).mean()
    torch.testing.assert_close(familiarity(machine.prior_memory(3), x), torch.zeros(3, 8, dtype=torch.float64))


def test_recognition(make_machine, patterns):
    torch.manual_seed(0)
    curves = evaluate_recognition(make_machine(code_scale=0.1), [patterns, patterns], num_samples=4, seed=1)
    assert set(curves) == {"evidence", "evidence ratio", "familiarity"}
    assert curves["familiarity"].auc > 0.8  # 4 patterns in 6 slots

    machine = make_machine()
    runs = []
    for seed in (1, 2):  # the global random state does not matter, and is left alone
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        runs.append(evaluate_recognition(machine, [patterns], num_samples=4, seed=1))
        assert torch.equal(torch.get_rng_state(), state)
    assert runs[0] == runs[1]


def test_entry_error_of_iterates(patterns):
    other = patterns.clone()
    other[0, 0, 0, 0, :3] = 1 - other[0, 0, 0, 0, :3]
    torch.testing.assert_close(entry_error(other, patterns), torch.tensor([3 / 280, 0, 0], dtype=torch.float64))
    assert entry_error(torch.stack((other, patterns)), patterns).shape == (2, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda machine: evaluate_bound(machine, []), r"evaluate_bound\(\): batches is empty"),
        (
            lambda machine: evaluate_recall(machine, [], Flip(0.1), channel=None),
            r"evaluate_recall\(\): batches is empty",
        ),
        (lambda machine: evaluate_recognition(machine, []), r"evaluate_recognition\(\): batches is empty"),
        (lambda machine: roc(torch.zeros(0), torch.zeros(2)), r"roc\(\): scores are empty or NaN"),
        (lambda machine: roc(torch.tensor([math.nan]), torch.zeros(2)), r"roc\(\): scores are empty or NaN"),
    ],
)
def test_errors(make_machine, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_machine())


def test_query_cost(make_machine, patterns):
    machine = make_machine()
    ratio, passes, errors = query_cost(machine, patterns, Flip(0.1), channel=Flip(0.1), num_steps=3)
    assert ratio > 0
    assert passes == sorted(passes)
    assert 4 <= passes[0] <= 5  # the start, the closed-form address, three steps of L-BFGS
    assert len(errors) == 3
    assert not machine.decoder._forward_hooks
    machine = KanervaMachine(
        machine.encoder, lambda codes: codes.new_zeros(len(codes), 1, 5, 7), memory_prior=machine.memory_prior
    )
    with pytest.raises(ValueError, match=r"query_cost\(\): the decoder is not an nn.Module"):
        query_cost(machine, patterns, Flip(0.1), channel=None)


def test_single_episodes_and_queries_without_steps(make_machine, patterns):
    machine = make_machine()
    error = evaluate_recall(machine, [patterns[0]], Flip(0.1), channel=None, num_steps=2)
    assert error.errors.shape == (1, 3)
    none = recall_error(patterns, machine.write(patterns).query(patterns, num_steps=0))
    assert none.errors.shape == (3, 1)
    assert not none.num_steps.any()
    with pytest.raises(
        ValueError, match=r"recall_error\(\): patterns have shape .* expected that of the retrieval's cues"
    ):
        recall_error(patterns[0], machine.write(patterns).query(patterns, num_steps=0))
    with pytest.raises(ValueError, match="episodes have 7 patterns; expected an even number"):
        evaluate_recognition(machine, [patterns[:, :7]])
