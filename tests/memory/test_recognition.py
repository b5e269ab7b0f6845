"""Which patterns are stored, and which of the stored patterns they are."""

import math

import pytest
import torch

import pyro_kanerva as pk
from pyro_kanerva.evaluation import familiarity, roc
from pyro_kanerva.memory import recognize_scores

LETTERS = pk.Episodes(pk.glyphs("test"), 64, 8)


@pytest.fixture(scope="module", params=["letters", "letters-gaussian"])
def machine(request):
    return pk.pretrained(request.param)


@pytest.mark.parametrize(
    ("number", "false_alarms", "rank"),
    [(99, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (9, 0.3, 7), (99, 0.29, 71)],
)
def test_threshold_is_an_order_statistic(number, false_alarms, rank):
    """The ceil((N + 1) (1 - false_alarms))-th smallest score, without errors of rounding."""
    assert math.ceil((number + 1) * round(1 - false_alarms, 9) - 1e-9) == rank
    held_out = torch.stack([torch.randperm(number), 1000 + torch.randperm(number)]).double()  # scores 0, 1, 2, ...
    found = recognize_scores(torch.tensor([[rank - 1.0, rank - 0.5], [0.0, 2000.0]]), held_out, false_alarms)
    assert found.threshold.tolist() == [[rank - 1], [rank + 999]]
    assert found.stored.tolist() == [[False, True], [False, True]]


@pytest.mark.parametrize("false_alarms", [0.01, 0.1, 0.29])
def test_false_alarms_of_exchangeable_scores(false_alarms):
    """On average over calibrations the rate is floor((N + 1) rate) / (N + 1), for a distribution with heavy tails."""
    torch.manual_seed(1)
    scores = torch.distributions.StudentT(1.0).sample((20000, 200))
    held_out, fresh = scores[:, :150], scores[:, 150:]
    rates = recognize_scores(fresh, held_out, false_alarms).stored.double().mean(-1)
    expected = math.floor(151 * false_alarms) / 151
    assert (rates.mean() - expected).abs() < 4 * rates.std() / 20000**0.5
    assert expected <= false_alarms


def test_equal_scores_raise_no_alarm():
    assert not recognize_scores(torch.zeros(1, 5), torch.zeros(1, 99)).stored.any()


def test_letters(machine):
    """At most the asked share of letters that were never stored is called stored; most stored letters are."""
    held_out = pk.Episodes(pk.glyphs("test"), 400, 4, seed=1)[0]
    patterns, held_out, fresh = held_out.split((32, 199, 169), 1)
    memory = machine.write(patterns)
    for false_alarms, least in ((0.01, 0.5), (0.05, 0.85)):
        found = memory.recognize(patterns, held_out, false_alarms)
        torch.testing.assert_close(found.score, familiarity(memory, patterns))
        assert found.stored.double().mean() > least
        # The alarms are binomial, and each calibration has a rate of its own, of a Beta distribution.
        deviation = (false_alarms * (1 - false_alarms) * (1 / (4 * 169) + 1 / (4 * 199))) ** 0.5
        alarms = memory.recognize(fresh, held_out, false_alarms).stored
        assert abs(alarms.double().mean().item() - false_alarms) < 3 * deviation
        # The same patterns are not stored in the memory of another episode, nor in an empty one.
        alarms = memory.recognize(patterns.roll(1, 0), held_out, false_alarms).stored
        deviation = (false_alarms * (1 - false_alarms) * (1 / (4 * 32) + 1 / (4 * 199))) ** 0.5
        assert abs(alarms.double().mean().item() - false_alarms) < 3 * deviation
        assert not machine.prior_memory(4).recognize(patterns, held_out, false_alarms).stored.any()


def test_damaged_cues():
    """Where slots hold single patterns, a query ends at a stored pattern from any cue: its energy tells them apart.

    With the paper's address prior the recalled pattern does, better than the cue.
    """
    areas = {}
    noise = pk.SaltAndPepper(0.3)
    for name in ("letters", "letters-gaussian"):
        patterns, other = LETTERS[0][:4].chunk(2, 1)
        memory = pk.pretrained(name).write(patterns)
        cues = [noise(x, torch.Generator().manual_seed(seed)) for seed, x in enumerate((patterns, other))]
        found = [memory.query(x, channel=noise) for x in cues]
        scores = {
            "cue": [familiarity(memory, x) for x in cues],
            "recalled": [familiarity(memory, retrieval.patterns[-1]) for retrieval in found],
            "energy": [-retrieval.energy[-1] for retrieval in found],
        }
        for kind, (stored, unstored) in scores.items():
            areas[name, kind] = roc(stored, unstored).auc
        if name == "letters":
            held_out = scores["energy"][1]
            assert recognize_scores(scores["energy"][0], held_out, 0.1).stored.double().mean() > 0.9
    assert areas["letters", "energy"] > 0.98
    assert areas["letters", "recalled"] < areas["letters", "cue"] < areas["letters", "energy"]
    assert areas["letters-gaussian", "recalled"] > 0.93
    assert areas["letters-gaussian", "cue"] < areas["letters-gaussian", "recalled"] - 0.08
    assert areas["letters-gaussian", "energy"] < 0.7


def test_one_set_of_held_out_patterns_for_all_memories(make_machine, patterns):
    memory = make_machine().write(patterns)
    held_out = (torch.rand(20, 1, 5, 7) < 0.3).float()
    one = memory.recognize(patterns, held_out, 0.1)
    other = memory.recognize(patterns, held_out.expand(3, 20, 1, 5, 7), 0.1)
    assert one.stored.shape == one.score.shape == (3, 8)
    assert one.threshold.shape == (3, 1)
    for some, same in zip(one, other, strict=True):
        torch.testing.assert_close(some, same)
    single = make_machine().write(patterns[:1])
    assert single.recognize(patterns[0], held_out, 0.1).stored.shape == (1, 8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.recognize(x, x), r"There are 8 held-out patterns; false_alarms=0.01 needs at least 99\."),
        (lambda m, x: m.recognize(x, x, 0.1), r"There are 8 held-out patterns; false_alarms=0.1 needs at least 9\."),
        (lambda m, x: m.recognize(x, x, 0.0), r"false_alarms is 0.0; expected a rate above 0 and below 1"),
        (lambda m, x: m.recognize(x, x, 1), r"false_alarms is 1; expected a rate above 0 and below 1"),
        (lambda m, x: m.recognize(x[..., :3], x, 0.2), r"recognize\(\): patterns"),
        (lambda m, x: m.recognize(x, x[..., :3], 0.2), r"recognize\(\): held_out"),
        (lambda m, x: m.recognize(x, x[:2], 0.2), r"recognize\(\): held_out have 2 episodes"),
        (lambda m, x: recognize_scores(torch.zeros(1, 2), torch.full((1, 9), math.nan), 0.1), "scores are NaN"),
        (lambda m, x: m.identify(x[..., :3]), r"identify\(\): patterns"),
        (lambda m, x: m.machine.prior_memory(3).identify(x), r"identify\(\): none of the 0 records"),
        (lambda m, x: m.machine.write([x]).identify(x), r"none of the 1 records .* A StreamRecord keeps only sums"),
    ],
)
def test_errors(make_machine, patterns, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_machine().write(patterns), patterns)


def test_identify_by_brute_force(make_machine, patterns):
    """Record and pattern of the nearest code, also with a stream between two writes."""
    machine = make_machine()
    other = (torch.rand(3, 4, 1, 5, 7) < 0.3).float()
    memory = machine.write(patterns).write([patterns]).write(other)
    cues = pk.Flip(0.1)(torch.cat((other.flip(1), patterns), 1))
    found = memory.identify(cues)
    codes = machine.encode(cues)
    stored = torch.cat((machine.encode(patterns), machine.encode(other)), 1)
    distances = (codes.unsqueeze(2) - stored.unsqueeze(1)).norm(dim=-1)
    torch.testing.assert_close(found.distance, distances.amin(-1) / machine.code_scale)
    nearest = distances.argmin(-1)
    assert torch.equal(found.record, torch.where(nearest < 8, 0, 2))
    assert torch.equal(found.pattern, torch.where(nearest < 8, nearest, nearest - 8))
    assert memory.identify(patterns).distance.abs().max() == 0


@pytest.mark.parametrize("number", [32, 64])
def test_identify_letters(machine, number):
    """Stored letters, and letters recalled from cues with 15% noise."""
    patterns = LETTERS[0][:2, :number]
    memory, noise = machine.write(patterns), pk.SaltAndPepper(0.15)
    recalled = memory.query(noise(patterns), channel=noise, num_steps=5).patterns[-1]
    crowded = number > 32 and isinstance(machine.address_prior, pk.MixtureAddress)  # recall mixes letters of a slot
    for x, least in ((patterns, 0.97), (recalled, 0.8 if crowded else 0.97)):
        found = memory.identify(x)
        assert (found.record == 0).all()
        assert (found.pattern == torch.arange(number)).double().mean() > least
