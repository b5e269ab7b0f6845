"""A stream of codes

`machine.write` takes an iterator of chunks: 16,384 codes each, K = 1024, C = 1024, `OnlineWriter(block_size=16384)`,
no networks. The codes are drawn on the fly; the time that takes is left out. Necessary are $4KC + K^2$ operations for a
code, for $Rz$, $wz^T$ and the symmetric half of $ww^T$, at the rate of a float32 product of 4096 x 1024 and 1024 x 1024
matrices in the same process, the best of 10 before and 10 after. Every stream has a process of its own; the peak memory
is that above the level before the write.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from conftest import SEED, Goal
from torch import nn

import pyro_kanerva as pk

SLOTS = CODE_SIZE = 1024
CHUNK = 16_384
GOAL = Goal(at_most=2)


class Measurement(NamedTuple):
    seconds: float
    rate: float  # operations per second
    peak: float  # bytes


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_stream(share, request, add_row):
    number = round(share * request.config.getoption("--codes"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        found = executor.submit(stream, number).result()
    ratio = found.seconds / (number * (4 * SLOTS * CODE_SIZE + SLOTS**2) / found.rate)
    row = {
        "codes": f"{number:,}",
        "time, s": f"{found.seconds:.1f}",
        "matrix products, Gflop/s": f"{found.rate / 1e9:.0f}",
        "times the necessary": f"{ratio:.2f}",
        "goal": str(GOAL),
        "reached": GOAL.reached(ratio),
        "peak memory, MiB": f"{found.peak / 2**20:.0f}",
    }
    add_row("codes", row)


def stream(number: int) -> Measurement:
    """Write ``number`` codes; run in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    machine = pk.KanervaMachine(
        nn.Identity(),
        nn.Identity(),
        likelihood=pk.NormalLikelihood(0.3, learned=False),
        memory_prior=pk.GaussianMemory(SLOTS, CODE_SIZE),
        writer=pk.OnlineWriter(block_size=CHUNK),
    )
    generator, drawing = torch.Generator().manual_seed(SEED), 0.0

    def chunks(number):
        nonlocal drawing
        for start in range(0, number, CHUNK):
            started = time.perf_counter()
            chunk = torch.randn(1, min(CHUNK, number - start), CODE_SIZE, generator=generator)
            drawing += time.perf_counter() - started
            yield chunk

    rate = product_rate()
    machine.write(chunks(64))  # what is loaded or planned once
    before, drawing = resident("VmRSS"), 0.0
    started = time.perf_counter()
    machine.write(chunks(number))
    seconds = time.perf_counter() - started - drawing
    peak = resident("VmHWM") - before
    return Measurement(seconds, max(rate, product_rate()), peak)


def product_rate() -> float:
    """Operations per second of a float32 matrix product."""
    left, right = torch.randn(4096, SLOTS), torch.randn(SLOTS, CODE_SIZE)
    times = []
    for _ in range(10):
        started = time.perf_counter()
        left @ right
        times.append(time.perf_counter() - started)
    return 2 * 4096 * SLOTS * CODE_SIZE / min(times)


def resident(field: str) -> int:
    """Bytes of this process in memory: now, "VmRSS", or at most so far, "VmHWM"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))
