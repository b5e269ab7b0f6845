"""The stream of ``test_stream.py``, which runs in a process of its own."""

import time
from pathlib import Path
from typing import NamedTuple

import torch
from cases import SEED
from torch import nn

import pyro_kanerva as pk

SLOTS = CODE_SIZE = 1024
CHUNK = 16_384


class Measurement(NamedTuple):
    seconds: float
    rate: float  # operations per second
    peak: float  # bytes


def stream(num_codes: int) -> Measurement:
    """Write ``num_codes`` codes; call it in a new process."""
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

    def chunks(num_codes):
        nonlocal drawing
        for start in range(0, num_codes, CHUNK):
            started = time.perf_counter()
            chunk = torch.randn(1, min(CHUNK, num_codes - start), CODE_SIZE, generator=generator)
            drawing += time.perf_counter() - started
            yield chunk

    rate = product_rate()
    machine.write(chunks(64))  # warm up
    before, drawing = resident("VmRSS"), 0.0
    started = time.perf_counter()
    machine.write(chunks(num_codes))
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
    """Bytes of memory that this process holds: now with "VmRSS", at most so far with "VmHWM"."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))
