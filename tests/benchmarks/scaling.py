"""How time and memory grow with the sizes of a machine, and how they should.

    python tests/benchmarks/scaling.py --out docs/images/scaling.png

Patterns are codes: encoder and decoder are identities, so that only the algebra is measured. One size varies at a time,
over powers of two. Memory is the largest size of all tensors that an operation holds at one time, without its inputs.
Exponents are slopes of a straight line in logarithms, over the larger half of each range.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# Without these the profiler logs every use. torch reads them when it is imported.
os.environ |= {"KINETO_LOG_LEVEL": "99", "TORCH_CPP_LOG_LEVEL": "ERROR"}

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyro_kanerva as pk


class Variable(NamedTuple):
    """A size that varies from ``start`` by factors of two, and the fixed values of the others."""

    label: str
    start: int
    others: dict[str, int]


# The others are small, so that the terms of highest order dominate.
VARIABLES = {
    "T": Variable("patterns T", 1024, {"K": 16, "C": 32, "B": 1}),
    "K": Variable("slots K", 32, {"T": 16, "C": 16, "B": 1}),
    "C": Variable("code size C", 128, {"T": 32, "K": 16, "B": 8}),
    "B": Variable("episodes B", 64, {"T": 16, "K": 16, "C": 32}),
}
STYLES = {  # Okabe and Ito's colors
    "write": ("#0072b2", "o", "-"),
    "read": ("#009e73", "s", "--"),
    "query": ("#d55e00", "D", "-."),
    "training step": ("#000000", "^", ":"),
}
# Exponents of time and of memory: those of the terms that grow fastest. For each of B episodes
# write: K^3 for the addresses of each of the T / 8 blocks, K (K + C + 256) + 256 C for each pattern, in chunks of 256,
#     and K^3 + K^2 C for the sweep; held are codes and addresses, T (K + C), and the memory, K^2 + K C.
# read: K^3 + K^2 C for the precision, K (K + C) for each cue; query: the same in every step.
# training step: a write and a read, forward and backward; of each block K^2 numbers are kept.
THEORY = {
    "write": {"T": (1, 1), "K": (3, 2), "C": (1, 1), "B": (1, 1)},
    "read": {"T": (1, 1), "K": (3, 2), "C": (1, 1), "B": (1, 1)},
    "query": {"T": (1, 1), "K": (3, 2), "C": (1, 1), "B": (1, 1)},
    "training step": {"T": (1, 1), "K": (3, 2), "C": (1, 1), "B": (1, 1)},
}


class Point(NamedTuple):
    size: int
    seconds: float
    bytes: int


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="picture")
    parser.add_argument("--table", type=Path, help="markdown table of the exponents")
    parser.add_argument("--points", type=int, default=6, help="sizes of each kind, powers of two")
    parser.add_argument("--seconds", type=float, default=0.5, help="of measurement for each point; at least 3 runs")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def operations(sizes: dict[str, int]) -> dict[str, Callable[[], object]]:
    """The operations to measure, by name."""
    machine = pk.KanervaMachine(
        nn.Identity(),
        nn.Identity(),
        memory_prior=pk.GaussianMemory(sizes["K"], sizes["C"]),
        likelihood=pk.NormalLikelihood(0.3, learned=False),
        writer=pk.OnlineWriter(block_size=8, sweeps=1),
    )
    patterns = torch.randn(sizes["B"], sizes["T"], sizes["C"])
    memory = machine.write(patterns)
    cues = patterns + 0.3 * torch.randn_like(patterns)
    loss = TraceMeanField_ELBO(max_plate_nesting=2)(*machine.training_pair())
    optimizer = torch.optim.Adam(machine.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss(patterns).backward()
        optimizer.step()

    return {
        "write": lambda: machine.write(patterns),
        "read": lambda: memory.read(cues),
        "query": lambda: memory.query(cues, num_steps=5),
        "training step": step,
    }


def median_time(operation: Callable[[], object], seconds: float) -> float:
    times: list[float] = []
    while len(times) < 3 or (sum(times) < seconds and len(times) < 200):
        started = time.perf_counter()
        operation()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def peak_memory(operation: Callable[[], object]) -> int:
    """The largest number of bytes in tensors at one time."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        operation()
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


def measure(name: str, points: int, seconds: float) -> dict[str, list[Point]]:
    """The points of every operation for growing sizes ``name``."""
    variable, found = VARIABLES[name], {operation: [] for operation in STYLES}
    for size in (variable.start * 2**power for power in range(points)):
        for key, operation in operations({**variable.others, name: size}).items():
            operation()
            found[key].append(Point(size, median_time(operation, seconds), peak_memory(operation)))
    return found


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope in logarithms over the larger half."""
    half = len(sizes) // 2 if len(sizes) > 3 else 0
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def table(results: dict[str, dict[str, list[Point]]]) -> str:
    """Fitted exponents, in brackets those of the theory."""
    lines = ["| exponent in | of | " + " | ".join(STYLES) + " |", "|---" * (2 + len(STYLES)) + "|"]
    for name, found in results.items():
        for number, quantity in enumerate(("time", "memory")):
            cells = []
            for key, points in found.items():
                values = [point[1 + number] for point in points]
                fitted = exponent([point.size for point in points], values)
                cells.append(f"{fitted:.2f} ({THEORY[key][name][number]})")
            lines.append(f"| {VARIABLES[name].label} | {quantity} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, dict[str, list[Point]]]) -> Figure:
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, len(results), sharex="col", sharey="row", squeeze=False)
    for column, (name, found) in enumerate(results.items()):
        variable, (above, below) = VARIABLES[name], axes[:, column]
        for key, points in found.items():
            color, marker, line = STYLES[key]
            style = {"color": color, "marker": marker, "linestyle": line, "label": key, "markersize": 5}
            sizes = [point.size for point in points]
            above.loglog(sizes, [1e3 * point.seconds for point in points], **style)
            below.loglog(sizes, [point.bytes / 2**20 for point in points], **style)
        fixed = ", ".join(f"{other} = {size}" for other, size in variable.others.items())
        above.set_title(fixed, fontsize=11)
        below.set_xlabel(variable.label, fontsize=11)
        for ax in (above, below):
            ax.minorticks_off()
            ax.set_xticks(sizes, ["" if number % 2 else str(size) for number, size in enumerate(sizes)])
            ax.yaxis.set_major_locator(LogLocator(10))
            ax.grid(alpha=0.3)
            ax.tick_params(labelsize=10)
    axes[0, 0].set_ylabel("time, ms", fontsize=11)
    axes[1, 0].set_ylabel("peak memory, MiB", fontsize=11)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=len(STYLES), fontsize=11)
    return figure


def main(args: argparse.Namespace) -> dict[str, dict[str, list[Point]]]:
    """Returns the points by size and operation."""
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    results = {name: measure(name, args.points, args.seconds) for name in VARIABLES}
    torch.set_num_threads(before)
    found = table(results)
    print(found, end="")
    if args.table is not None:
        args.table.write_text(found)
    if args.out is not None:
        draw(results).savefig(args.out, dpi=200)
    return results


if __name__ == "__main__":
    main(parser().parse_args())
