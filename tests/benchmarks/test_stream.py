"""A stream of codes

`machine.write` takes an iterator of chunks: 16,384 codes each, K = 1024, C = 1024, `OnlineWriter(block_size=16384)`,
no networks. The codes are drawn on the fly; the time for drawing them is left out. A code needs $4KC + K^2$ operations,
for $Rz$, $wz^T$ and the symmetric half of $ww^T$. The necessary time is that of as many operations at the rate of a
float32 product of 4096 x 1024 and 1024 x 1024 matrices in the same process, the best of 10 before and 10 after. Every
stream runs in its own process. The peak memory is measured from the level before the write.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from cases import Goal
from streaming import CODE_SIZE, SLOTS, stream

GOAL = Goal(at_most=2)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("share", [0.1, 1.0])
def test_stream(share, request, add_row):
    num_codes = round(share * request.config.getoption("--codes"))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        found = executor.submit(stream, num_codes).result()
    ratio = found.seconds / (num_codes * (4 * SLOTS * CODE_SIZE + SLOTS**2) / found.rate)
    row = {
        "codes": f"{num_codes:,}",
        "time, s": f"{found.seconds:.1f}",
        "matrix products, Gflop/s": f"{found.rate / 1e9:.0f}",
        "times the necessary": f"{ratio:.2f}",
        "goal": str(GOAL),
        "reached": GOAL.reached(ratio),
        "peak memory, MiB": f"{found.peak / 2**20:.0f}",
    }
    add_row("codes", row)
