"""Threads

The same work on one thread, the baseline, and on two.
"""

import pytest
from cases import LARGE, PAPER, gradients, leaves, machine_and_patterns, ours, step_of
from pyro.infer import TraceMeanField_ELBO

from pyro_kanerva import OnlineWriter

WRITERS = {"`OnlineWriter(1)`": ours(OnlineWriter(1)), "`OnlineWriter(8, 1)`": ours(OnlineWriter(8, 1))}


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("size", [PAPER, LARGE], ids=["paper", "large"])
def test_threads_of_writing(num_threads, writer, size, threads, measure):
    inputs = leaves(size)
    threads(num_threads)
    measure(lambda: gradients(WRITERS[writer], inputs), f"{writer}, {size}", f"threads: {num_threads}", speed=True)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("width", [16, 32])
def test_threads_of_a_step(num_threads, width, threads, measure):
    machine, patterns = machine_and_patterns(width)
    threads(num_threads)
    loss = TraceMeanField_ELBO(max_plate_nesting=2)(*machine.training_pair())
    measure(step_of(loss, machine, patterns), f"training step, width {width}", f"threads: {num_threads}", speed=True)
