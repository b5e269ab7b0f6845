"""Where queries end: the classification, and its shares for memories of known behavior."""

import math

import pytest
import torch

from pyro_kanerva import Flip, GaussianMemory, KanervaMachine, MLPEncoder
from pyro_kanerva.evaluation import (
    Ends,
    classify_ends,
    evaluate_attractors,
    evaluate_recall,
    evaluate_recall_control,
    random_start,
)

WEAK = Flip(0.05)


def names(recalled, patterns, threshold=0.02):
    """The name of each end; ``recalled`` and ``patterns`` are (T, E)."""
    kinds = classify_ends(recalled.unsqueeze(0), patterns.unsqueeze(0), threshold)
    return [Ends._fields[kind] for kind in kinds[0]]


def flip(pattern, *entries):
    pattern = pattern.clone()
    pattern[list(entries)] = 1 - pattern[list(entries)]
    return pattern


@pytest.fixture
def stored():
    """Four patterns of 100 entries: x_t has ink in the entries 25 t to 25 t + 24."""
    return torch.eye(4).repeat_interleave(25, 1)


def test_each_kind_of_end(stored):
    a, b, c, _ = stored
    half_a_half_b = torch.cat((a[:30], b[30:]))  # five entries differ from a + b, and all are those of a or of b
    recalled = torch.stack((a, c, half_a_half_b, 1 - stored[3]))
    assert names(recalled, stored) == ["own", "other", "mixture", "elsewhere"]


@pytest.mark.parametrize(("num_wrong", "end"), [(2, "own"), (3, "own"), (4, "mixture"), (5, "mixture")])
def test_threshold_of_a_stored_pattern(stored, num_wrong, end):
    """Below, not at. Here the wrong entries are those of the second pattern, so that a mixture is left."""
    recalled = stored.clone()
    recalled[0] = flip(stored[0], *range(25, 25 + num_wrong))
    assert names(recalled, stored, 0.04) == [end, "own", "own", "own"]
    swapped = recalled[[1, 0, 2, 3]]
    assert names(swapped, stored, 0.04)[1] == ("other" if end == "own" else end)


@pytest.mark.parametrize(("num_outside", "end"), [(0, "mixture"), (1, "mixture"), (2, "elsewhere"), (9, "elsewhere")])
def test_threshold_of_a_mixture(stored, num_outside, end):
    """An entry counts as outside if it is that of neither pattern; here a third pattern's."""
    mixture = torch.maximum(stored[0], stored[1])
    recalled = stored.clone()
    recalled[2] = flip(mixture, *range(75, 75 + num_outside))
    assert names(recalled, stored) == ["own", "own", end, "own"]


def test_a_mixture_of_three_is_elsewhere(stored):
    recalled = stored.clone()
    recalled[3] = stored[:3].amax(0)
    assert names(recalled, stored)[3] == "elsewhere"


def test_the_own_pattern_comes_before_another_one(stored):
    """Even if the other one is nearer: a copy, or a pattern within the threshold."""
    stored[1] = flip(stored[0], 99)
    assert names(stored[[1, 0, 2, 3]], stored) == ["own", "own", "own", "own"]
    assert names(stored[[1, 0, 2, 3]], stored, 0.01) == ["other", "other", "own", "own"]
    stored[1] = stored[0]
    assert names(stored[[1, 0, 2, 3]], stored, 0.01) == ["own", "own", "own", "own"]


def test_copies_of_the_nearest_pattern_are_no_second_one(stored):
    a, b, c, _ = stored
    mixture = torch.cat((a[:40], b[40:]))  # 10 entries from a, 40 from b
    patterns, recalled = torch.stack((a, a, c, b)), torch.stack((a, a, mixture, b))
    assert names(recalled, patterns) == ["own", "own", "mixture", "own"]
    both = classify_ends(torch.stack((stored, recalled)), torch.stack((stored, patterns)))
    assert both.tolist() == [[0, 0, 0, 0], [0, 0, 2, 0]]  # the copies of an episode are its own


def test_the_second_pattern_is_the_nearest_other_one(stored):
    a, b, c, d = stored
    recalled = flip(a, 75, 76, 50)  # 3 entries from a, 49 from d, 51 from c
    assert names(torch.stack((a, b, c, recalled)), stored) == ["own", "own", "own", "mixture"]
    assert names(torch.stack((a, b, c, recalled)), torch.stack((a, b, c, 1 - d)))[3] == "elsewhere"


def test_of_two_equally_near_patterns_the_earlier_one_counts(stored):
    a, _, c, d = stored
    recalled = flip(a, 50, 51, 52, 53)  # these entries are those of c, not of a and d
    d = flip(d, *range(8))  # 46 entries from c and from d
    assert (recalled != c).sum() == (recalled != d).sum() == 46
    assert names(torch.stack((recalled, c, d)), torch.stack((1 - a, c, d)))[0] == "elsewhere"  # a is not stored
    for order, end in (((a, a, c, d), "mixture"), ((a, a, d, c), "elsewhere")):
        assert names(torch.stack((a, recalled, *order[2:])), torch.stack(order)) == ["own", end, "own", "own"]


def test_a_single_pattern_has_no_mixtures(stored):
    for pattern, end in ((stored[0], "own"), (flip(stored[0], 3, 4), "elsewhere"), (1 - stored[0], "elsewhere")):
        assert names(pattern.unsqueeze(0), stored[:1]) == [end]
        assert names(pattern.expand(2, -1), stored[:1].expand(2, -1)) == [end] * 2  # two copies are one pattern


def test_episodes_do_not_mix(stored):
    """A pattern of another episode is not stored, and entries have any shape."""
    patterns = torch.stack((stored[:2], stored[2:])).reshape(2, 2, 4, 25)
    recalled = patterns.flip(0)
    assert classify_ends(recalled, patterns).tolist() == [[3, 3], [3, 3]]
    assert classify_ends(patterns.flip(1), patterns).tolist() == [[1, 1], [1, 1]]


def test_well_separated_patterns_are_reached(slot_machine, separated):
    """With and without the channel, one pattern per slot. The decoder alone reaches none."""
    for channel in (WEAK, None):
        found = evaluate_attractors(slot_machine, [separated, separated[:2]], WEAK, channel=channel)
        assert found.right == (1, 0, 0, 0)
        assert found.stored_fixed_points == 1
        assert found.converged == 1
        assert found.empty.own < 0.2
        assert sum(found.empty) == pytest.approx(1)
        assert found.error.mean[0] == pytest.approx(0.05, abs=0.02)
        assert found.error.mean[-1] == 0


def test_random_starts_do_not_favor_the_own_pattern(slot_machine, separated):
    found = evaluate_attractors(slot_machine, [separated], random_start, channel=None)
    assert found.right.own < 0.5
    assert found.right.stored == found.right.own + found.right.other
    assert found.right.stored > found.empty.stored
    assert found.stored_fixed_points == 1  # whatever the starts


def test_too_many_patterns_are_no_fixed_points(slot_machine):
    """Two patterns in a slot leave their mean, which is a mixture of them."""
    patterns = (torch.rand(3, 20, 64) < 0.5).float()
    found = evaluate_attractors(slot_machine, [patterns], WEAK, channel=None)
    assert found.stored_fixed_points < 0.6
    assert found.right.own < 0.6
    assert found.right.mixture > 0.2


def test_a_decoder_that_ignores_the_memory(patterns):
    """All queries end at one pattern, so right and empty memory do the same; it is stored once in each episode."""
    logits = 100 * (2 * patterns[0, 0] - 1)
    machine = KanervaMachine(
        MLPEncoder((1, 5, 7), 10, 32),
        lambda codes: logits.expand(len(codes), 1, 5, 7),
        memory_prior=GaussianMemory(6, 10),
    )
    batch = patterns.clone()
    batch[:, 0] = patterns[0, 0]
    found = evaluate_attractors(machine, [batch], WEAK, channel=None, num_steps=3)
    assert found.right == found.empty == (1 / 8, 7 / 8, 0, 0)
    assert found.stored_fixed_points == 1 / 8


def test_fixed_points_are_those_of_every_step(make_machine, patterns):
    machine = make_machine()
    found = evaluate_attractors(machine, [patterns], WEAK, channel=WEAK, num_steps=4, threshold=0.5)
    path = machine.write(patterns).query(patterns, num_steps=4).patterns
    error = (path != patterns).double().flatten(3).mean(-1)
    at_every_step, at_the_end = ((part < 0.5).double().mean().item() for part in (error.amax(0), error[-1]))
    assert found.stored_fixed_points == pytest.approx(at_every_step)
    assert 0 < at_every_step < at_the_end


@pytest.mark.parametrize(("channel", "threshold"), [(None, 0.5), (WEAK, 0.07)], ids=str)
def test_shares_errors_and_energies(make_machine, patterns, channel, threshold):
    """The shares are over queries; the errors are those of evaluate_recall(), and both memories get its cues."""
    machine, batches = make_machine(), [patterns, patterns[:2]]
    options = {"channel": channel, "num_steps": 3, "seed": 5}
    found = evaluate_attractors(machine, batches, WEAK, threshold=threshold, **options)
    control = evaluate_recall_control(machine, batches, WEAK, **options)
    assert found.error == control.right.curve
    assert found.energy.x == [0, 1, 2, 3]
    assert all(a >= b for a, b in zip(found.energy.mean, found.energy.mean[1:], strict=False))
    for ends in (found.right, found.empty):
        assert sum(ends) == pytest.approx(1)
        assert all(share * 40 == pytest.approx(round(share * 40)) for share in ends)
    made = []

    def damage(x, generator=None):
        made.append(WEAK(x, generator))
        return made[-1]

    evaluate_recall(machine, batches, damage, **options)
    retrievals = [
        machine.write(x).query(cues, num_steps=3, channel=channel) for x, cues in zip(batches, made, strict=True)
    ]
    wrong = torch.cat(
        [(r.patterns[-1] != x).flatten(2).double().mean(-1) for r, x in zip(retrievals, batches, strict=True)]
    )
    assert 0 < found.right.own < 1
    assert found.right.own == pytest.approx((wrong < threshold).double().mean().item())
    assert found.converged == pytest.approx(torch.cat([r.converged for r in retrievals]).double().mean().item())
    energy = torch.cat([r.energy.mean(-1) for r in retrievals], 1).double().mean(1)  # (S + 1,)
    assert found.energy.mean == pytest.approx(energy.tolist())
    empty = machine.prior_memory(3).query(made[0], num_steps=3, channel=channel)
    alone = evaluate_attractors(machine, [patterns], WEAK, threshold=threshold, **options)
    kinds = classify_ends(empty.patterns[-1], patterns, threshold)
    assert list(alone.empty) == [(kinds == kind).double().mean().item() for kind in range(4)]


def test_energy_is_passed_on(make_machine, patterns):
    """As the energy of every query: of the right and the empty memory, and from the stored patterns."""
    used = []

    class Recorded:
        def deviations(self, scale_tril, num_cues):
            used.append(num_cues)
            return scale_tril.new_zeros(1, 1, 1, 1)

        def address_term(self, points, scale_tril, coordinates):
            return -coordinates.log_density(points[0])

    evaluate_attractors(make_machine(), [patterns], WEAK, channel=None, num_steps=1, energy=Recorded())
    assert used == [8, 8, 8]


def test_random_start():
    patterns = (torch.rand(2, 50, 1, 5, 40) < torch.tensor([0.1, 0.6]).view(2, 1, 1, 1, 1)).float()
    cues, again, other = (random_start(patterns, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert cues.shape == patterns.shape
    assert cues.dtype == patterns.dtype
    assert set(cues.unique().tolist()) == {0, 1}
    assert torch.equal(cues, again)
    assert not torch.equal(cues, other)
    for ink, found, stored in zip((0.1, 0.6), cues, patterns, strict=True):
        assert found.mean() == pytest.approx(ink, abs=0.02)
        agreement = 1 - 2 * ink * (1 - ink)  # of independent entries
        assert (found == stored).double().mean() == pytest.approx(agreement, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: evaluate_attractors(m, [], WEAK, channel=None), r"evaluate_attractors\(\): batches is empty"),
        (lambda m, x: evaluate_attractors(m, [x], WEAK, channel=None, threshold=0.0), "threshold is 0.0; expected a"),
        (lambda m, x: evaluate_attractors(m, [x], WEAK, channel=None, num_steps=-1), "num_steps is -1"),
        (lambda m, x: evaluate_attractors(m, [x[..., :3]], WEAK, channel=None), r"evaluate_attractors\(\): patterns"),
        (lambda m, x: classify_ends(x, x, math.nan), r"classify_ends\(\): threshold is nan"),
        (
            lambda m, x: classify_ends(x[:, :2], x),
            r"recalled has shape \(3, 2, 1, 5, 7\); expected .*\(3, 8, 1, 5, 7\)",
        ),
        (lambda m, x: random_start(x / 2), r"random_start\(\): patterns have entries other than 0 and 1"),
    ],
)
def test_errors(make_machine, patterns, call, message):
    with pytest.raises(ValueError, match=message):
        call(make_machine(), patterns)
