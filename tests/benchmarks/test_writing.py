r"""Writing an episode, and reading it

Forward and backward in float32: T codes are written, M is drawn, every address is read exactly and drawn. The sum of
the divergences and of the squared error of the codes is differentiated by the codes, the prior and $\sigma$. The
baseline is the paper's rule in plain torch, one pattern at a time, in covariance form. In float64 `OnlineWriter(1)`
agrees with it to 1e-8 in value and gradients; an assertion checks this before the timing.
"""

import pytest
import torch
from baselines import write_and_read
from cases import LARGE, PAPER, Goal, gradients, leaves, ours

from pyro_kanerva import OnlineWriter

SIZES = [PAPER, LARGE._replace(episodes=1), LARGE]
CASES = {
    "plain torch, one pattern at a time": None,
    "`OnlineWriter(1)`, one pattern at a time": lambda size: OnlineWriter(1),
    "`OnlineWriter(8, 1)`, the default": lambda size: OnlineWriter(8, 1),
    "`OnlineWriter(T)`, one block": lambda size: OnlineWriter(size.patterns),
}
GOALS = {  # times as fast as the baseline
    (PAPER, "`OnlineWriter(1)`, one pattern at a time"): 2,
    (PAPER, "`OnlineWriter(8, 1)`, the default"): 6,
    (PAPER, "`OnlineWriter(T)`, one block"): 10,
    (LARGE._replace(episodes=1), "`OnlineWriter(1)`, one pattern at a time"): 5,
    (LARGE, "`OnlineWriter(1)`, one pattern at a time"): 5,
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES, ids=["paper", "large", "large-batch"])
def test_writing(case, size, measure):
    if "OnlineWriter(1)" in case:
        check_agreement(size._replace(episodes=1))
    writer = CASES[case]
    function, inputs = write_and_read if writer is None else ours(writer(size)), leaves(size)
    goal = GOALS.get((size, case))
    measure(lambda: gradients(function, inputs), str(size), case, goal and Goal(at_least=goal), speed=True)


def check_agreement(size):
    inputs = leaves(size, torch.float64)
    results = []
    for function in (write_and_read, ours(OnlineWriter(1))):
        torch.manual_seed(1)
        results.append(gradients(function, inputs))
    for baseline, own in zip(*results, strict=True):
        torch.testing.assert_close(own, baseline, rtol=1e-8, atol=1e-8 * baseline.abs().max().item())
