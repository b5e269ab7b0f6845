"""Ranks of simulation-based calibration: uniform for an exact guide, and for no other."""

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import ScaledReader, known_memory_machine, linear_machine, small_machine
from torch import Tensor

from pyro_kanerva import CategoricalLikelihood, ExactReader, OnlineWriter
from pyro_kanerva.diagnostics import CalibrationRanks, calibration_ranks, rank_counts

SLOTS, SIZE, NOISE = 3, 4, 0.6
LEVEL, WRONG = 1e-4, 1e-12  # p-values of uniform ranks are above LEVEL, those of clearly other ranks below WRONG


class PriorReader(ExactReader):
    """A reader that ignores the patterns and returns the prior."""

    def forward(self, codes, matrix, address_prior, code_scale):
        batch = torch.broadcast_shapes(codes.shape[:-2], matrix.shape[:-2]) + codes.shape[-2:-1]
        return address_prior.expand(batch)


def exact_machine(**options):
    """A machine whose default reader is exact."""
    return linear_machine(SLOTS, SIZE, NOISE, **options).double()


def ranks_of(machine, known=("memory",), **options):
    options = {"num_patterns": 3, "num_simulations": 2000} | options
    return calibration_ranks(machine, known=known, **options)


def pvalues_of(ranks):
    """Of Pearson's chi-square test of uniform ranks, for each statistic."""
    return scipy.stats.chisquare(rank_counts(ranks, 20), axis=1).pvalue


def test_an_exact_reader_is_calibrated():
    ranks = ranks_of(exact_machine())
    assert ranks.names == ("address[0, 0]", "address[-1, -1]", "log_likelihood")
    assert ranks.ranks.shape == (2000, 3)
    assert ranks.ranks.min() == 0
    assert ranks.ranks.max() == ranks.num_draws == 99
    assert (pvalues_of(ranks) > LEVEL).all()


@pytest.mark.parametrize(("factor", "where"), [(0.5, "ends"), (2.0, "middle")])
def test_a_reader_of_the_wrong_scale_is_not(factor, where):
    ranks = ranks_of(exact_machine(reader=ScaledReader(factor)))
    assert (pvalues_of(ranks)[:2] < WRONG).all()
    counts = rank_counts(ranks, 10)[:2]
    ends, middle = counts[:, [0, -1]].mean(-1), counts[:, 4:6].mean(-1)
    assert ((ends > middle) == (where == "ends")).all()


def test_the_memory_is_judged_too():
    """The guide of a known memory is exact too. A writer with one sweep gives a guide of M that is too narrow."""
    machine, _ = known_memory_machine(SLOTS, SIZE, NOISE)
    ranks = ranks_of(machine, known=())
    assert ranks.names[:2] == ("memory[0, 0]", "memory[-1, -1]")
    assert len(ranks.names) == 5
    assert (pvalues_of(ranks) > LEVEL).all()
    narrow = pvalues_of(ranks_of(exact_machine(writer=OnlineWriter(8, sweeps=1)), known=()))
    assert (narrow[:2] < WRONG).all()


def test_log_likelihood_reveals_a_guide_that_is_the_prior():
    pvalues = pvalues_of(ranks_of(exact_machine(reader=PriorReader())))
    assert (pvalues[:2] > LEVEL).all()
    assert pvalues[2] < WRONG


def test_one_hot_addresses_tie_at_random(one_hot):
    """The statistics have two values, so ranks are uniform only because ties are broken at random."""
    machine, _ = one_hot
    ranks = ranks_of(machine, known=())
    assert (pvalues_of(ranks) > LEVEL).all()


def test_ranks_with_a_further_site(stochastic_codes):
    machine, _ = stochastic_codes
    ranks = ranks_of(machine, num_patterns=2)
    assert {"code[0, 0]", "code[-1, -1]"} <= set(ranks.names)
    assert (pvalues_of(ranks) > LEVEL).all()


def test_ranks_count_draws_below_the_truth():
    """Statistics with a known order between truth and draws."""

    def draws_are_larger(sites: dict[str, Tensor]) -> Tensor:
        return sites["address"][..., 0, 0] * 0 + (sites["address"].dim() - 3)

    def draws_are_smaller(sites: dict[str, Tensor]) -> Tensor:
        return -draws_are_larger(sites)

    def always_equal(sites: dict[str, Tensor]) -> Tensor:
        return sites["pattern"].sum((-2, -1)).expand(sites["log_likelihood"].shape)

    statistics = {"larger": draws_are_larger, "smaller": draws_are_smaller, "equal": always_equal}
    ranks = ranks_of(exact_machine(), statistics=statistics, num_draws=19)
    assert (ranks.ranks[:, 0] == 0).all()
    assert (ranks.ranks[:, 1] == 19).all()
    pvalues = pvalues_of(ranks)
    assert pvalues[2] > LEVEL
    assert (pvalues[:2] < 1e-100).all()


def test_known_sites_keep_their_true_value():
    seen = []

    def memory(sites):
        seen.append(sites["memory"])
        return sites["address"][..., 0, 0]

    ranks_of(exact_machine(), statistics={"memory": memory}, num_simulations=5)
    assert all(torch.equal(value, seen[0]) for value in seen)
    assert seen[0].shape == (5, SLOTS, SIZE)


@pytest.mark.parametrize("likelihood", [None, CategoricalLikelihood(3)], ids=["Bernoulli", "Categorical"])
def test_ranks_of_discrete_patterns(likelihood):
    machine = small_machine((6,), 2, 2, output_shape=None if likelihood is None else (6, 3), likelihood=likelihood)
    ranks = calibration_ranks(machine, 3, num_simulations=20, num_draws=9)
    assert ranks.ranks.shape == (20, 5)


def test_rank_counts():
    ranks = CalibrationRanks(torch.randint(0, 40, (500, 3)), ("a", "b", "c"), 39)
    counts = np.stack([np.histogram(column, bins=8, range=(-0.5, 39.5))[0] for column in ranks.ranks.T.numpy()])
    assert torch.equal(rank_counts(ranks, 8), torch.as_tensor(counts).double())
    for num_bins in (1, 7):
        with pytest.raises(ValueError, match=rf"num_bins is {num_bins}; .*a divisor of num_draws \+ 1 = 40"):
            rank_counts(ranks, num_bins)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_patterns": 0}, r"calibration_ranks\(\): num_patterns is 0; expected at least 1"),
        ({"num_simulations": 0}, "num_simulations is 0; expected at least 1"),
        ({"num_draws": 0}, "num_draws is 0; expected at least 1"),
        ({"known": ("memory", "address")}, r"known is \('memory', 'address'\); expected some, but not all"),
        ({"known": ("pattern",)}, r"latent sites \['address', 'memory'\]"),
        ({"statistics": {"all": lambda sites: sites["address"]}}, 'statistic "all" has shape .* one number for each'),
    ],
)
def test_bad_input_of_calibration(options, message):
    with pytest.raises(ValueError, match=message):
        ranks_of(exact_machine(), **{"num_simulations": 5, "num_draws": 9} | options)


def test_event_shape_must_be_known():
    machine = exact_machine(encoder=lambda x: x)
    with pytest.raises(ValueError, match="pass event_shape"):
        calibration_ranks(machine, 3)
    ranks = calibration_ranks(machine, 3, num_simulations=4, num_draws=9, event_shape=(SIZE,))
    assert ranks.ranks.shape == (4, 5)
