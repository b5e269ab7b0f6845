"""Recognition: which patterns are stored."""

import math

import pytest
import torch

from pyro_kanerva.evaluation import evaluate_recognition, familiarity, roc


def test_roc_by_counting_pairs():
    stored, unstored = torch.randint(0, 9, (40,)).float() + 2, torch.randint(0, 9, (30,)).float()
    pairs = (stored[:, None] > unstored).double() + 0.5 * (stored[:, None] == unstored)
    curve = roc(stored, unstored)
    assert curve.auc == pytest.approx(pairs.mean().item())
    assert curve.false_positive_rate[0] == curve.true_positive_rate[0] == 0
    assert curve.false_positive_rate[-1] == curve.true_positive_rate[-1] == 1
    for false_positives, true_positives, threshold in zip(*curve[:3], strict=True):
        assert false_positives == (unstored >= threshold).double().mean()
        assert true_positives == (stored >= threshold).double().mean()
    assert curve.thresholds[0] == math.inf
    assert curve.thresholds == sorted(set(curve.thresholds), reverse=True)
    assert roc(torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])).auc == 1


def test_familiarity_is_the_bayes_factor_of_the_codes(make_machine, patterns):
    """Against the density of a code under the surrogate. Stored patterns are familiar."""
    machine = make_machine(code_scale=0.3).double()
    x = patterns.double()
    memory = machine.write(x)
    codes = machine.encode(x)

    def log_density(posterior):
        address = machine.read_codes(codes, posterior.loc).mean
        variance = 0.09 + (address @ posterior.row_covariance * address).sum(-1)
        loc = posterior.loc
        # log p(z) = log p(z | w) + log p(w) - log q(w | z) at every w, here at the mean
        likelihood = torch.distributions.Normal(address @ loc, variance.sqrt().unsqueeze(-1)).log_prob(codes).sum(-1)
        prior = torch.distributions.Normal(0.0, 1.0).log_prob(address).sum(-1)
        precision = torch.eye(6, dtype=torch.float64) + loc @ loc.mT / 0.09
        q = 0.5 * torch.logdet(precision) - 3 * math.log(2 * math.pi)
        return likelihood + prior - q.unsqueeze(-1)

    empty = machine.prior_memory(3).posterior
    torch.testing.assert_close(familiarity(memory, x), log_density(memory.posterior) - log_density(empty))
    other = (torch.rand(3, 8, 1, 5, 7) < 0.3).double()
    assert familiarity(memory, x).mean() > familiarity(memory, other).mean()
    torch.testing.assert_close(familiarity(machine.prior_memory(3), x), torch.zeros(3, 8, dtype=torch.float64))


def test_recognition(make_machine, patterns):
    curves = evaluate_recognition(make_machine(code_scale=0.1), [patterns, patterns], num_samples=4, seed=1)
    assert set(curves) == {"evidence", "evidence ratio", "familiarity"}
    assert curves["familiarity"].auc > 0.8  # 4 patterns in 6 slots

    machine = make_machine()
    runs = []
    for seed in (1, 2):  # the result does not depend on the global random state, and leaves it unchanged
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        runs.append(evaluate_recognition(machine, [patterns], num_samples=4, seed=1))
        assert torch.equal(torch.get_rng_state(), state)
    assert runs[0] == runs[1]


def test_the_scores_of_recognition(make_machine, patterns):
    """Each half has its own evidence, and its own evidence under the prior memory."""
    machine = make_machine(code_scale=0.3)
    curves = evaluate_recognition(machine, [patterns], num_samples=3, seed=1)
    torch.manual_seed(1)
    halves = patterns[:, :4], patterns[:, 4:]
    memory = machine.write(halves[0])
    evidence = [memory.log_evidence(half, num_samples=3) for half in halves]
    base = [machine.prior_memory(3).log_evidence(half, num_samples=3) for half in halves]
    assert curves["evidence"] == roc(*evidence)
    assert curves["evidence ratio"] == roc(evidence[0] - base[0], evidence[1] - base[1])
    assert curves["familiarity"] == roc(*(familiarity(memory, half) for half in halves))
    assert len({tuple(curve.true_positive_rate) for curve in curves.values()}) == 3


def test_single_episode(make_machine, patterns):
    """Patterns (T,) + E are one episode."""
    machine = make_machine()
    single, batch = (evaluate_recognition(machine, [x], num_samples=2) for x in (patterns[0], patterns[:1]))
    assert single == batch
    memory = machine.write(patterns[:1])
    torch.testing.assert_close(familiarity(memory, patterns[0]), familiarity(memory, patterns[:1]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda machine, x: evaluate_recognition(machine, []), r"evaluate_recognition\(\): batches is empty"),
        (lambda machine, x: evaluate_recognition(machine, [x[:, :7]]), "7 patterns; expected an even number"),
        (lambda machine, x: roc(torch.zeros(0), torch.zeros(2)), r"roc\(\): scores are empty or NaN"),
        (lambda machine, x: roc(torch.tensor([math.nan]), torch.zeros(2)), r"roc\(\): scores are empty or NaN"),
    ],
)
def test_errors(make_machine, patterns, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_machine(), patterns)


def test_familiarity_of_other_numbers_of_episodes(make_machine, patterns):
    machine = make_machine()
    for stored, asked in ((patterns, patterns[:1]), (patterns[:1], patterns)):
        with pytest.raises(ValueError, match=r"familiarity\(\): patterns have \d episodes .* one for each memory"):
            familiarity(machine.write(stored), asked)
