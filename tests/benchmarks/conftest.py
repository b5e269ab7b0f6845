"""``pytest tests/benchmarks --report docs/benchmarks.md`` measures everything and writes the page."""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pyro
import pytest
import torch
from cases import SEED, Goal

ORDER = ["test_writing", "test_step", "test_query", "test_threads", "test_precision", "test_stream"]


class Report:
    """Tables by file and group."""

    def __init__(self) -> None:
        self.sections: dict[str, tuple[str, dict[str, list[dict[str, str]]]]] = {}
        self.baselines: dict[tuple[str, str], float] = {}  # seconds

    def add(self, module, group: str, row: dict[str, str]) -> None:
        _, groups = self.sections.setdefault(Path(module.__file__).stem, (module.__doc__, {}))
        groups.setdefault(group, []).append(row)

    def markdown(self, command: str) -> str:
        lines = ["# Benchmarks", "", "```bash", command, "```", "", f"{machine()} Seed {SEED}.", ""]
        lines += [
            "Times are medians of repeated runs after a warm-up; ratios compare with the first row of a table.",
            "",
        ]
        for name in sorted(self.sections, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER)):
            text, groups = self.sections[name]
            title, _, rest = text.strip().partition("\n")
            lines += [f"## {title.rstrip('.')}", "", rest.strip(), ""]
            for group, rows in groups.items():
                columns = list(dict.fromkeys(column for row in rows for column in row))
                lines += ["| " + " | ".join([group, *columns[1:]]) + " |", "|---" * len(columns) + "|"]
                lines += ["| " + " | ".join(row.get(column, "") for column in columns) + " |" for row in rows]
                lines.append("")
        return "\n".join(lines).rstrip() + "\n"


def machine() -> str:
    """Processor, memory and versions, as sentences."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        gibibytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        memory = f", {gibibytes:.0f} GiB of memory"
    except (OSError, StopIteration, ValueError):
        model, memory = platform.processor() or platform.machine(), ""
    return (
        f"{model}, {os.cpu_count()} cores{memory}, {torch.backends.cpu.get_cpu_capability()}; Python "
        f"{platform.python_version()}, torch {torch.__version__}, pyro {pyro.__version__}; {torch.get_num_threads()} "
        "thread unless a table says otherwise."
    )


REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser):
    group = parser.getgroup("pyro_kanerva benchmarks")
    group.addoption("--report", metavar="FILE", help="write the results there, as markdown")
    group.addoption("--seconds", type=float, default=10.0, help="of measurement for each case; at least 3 runs")
    group.addoption("--codes", type=int, default=1_000_000, help="codes of the longest stream")


def pytest_configure(config):
    config.stash[REPORT] = Report()


def pytest_sessionfinish(session, exitstatus):
    path, report = session.config.getoption("--report"), session.config.stash[REPORT]
    if path is None:
        return
    if exitstatus != 0 or not report.sections:
        print(f"\nNot all benchmarks ran; {path} was not written.")
        return
    command = shlex.join(["pytest", *session.config.invocation_params.args])
    temporary = Path(f"{path}.partial")
    temporary.write_text(report.markdown(command))
    temporary.replace(path)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(SEED)


@pytest.fixture
def threads():
    """Set the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def add_row(request) -> Callable[[str, dict[str, str]], None]:
    """``add_row(group, {column: text})``."""
    return lambda group, row: request.config.stash[REPORT].add(request.module, group, row)


@pytest.fixture
def measure(benchmark, request, add_row):
    """``measure(function, group, case, goal, **others)`` times a function and adds a row; the first is the baseline."""

    def measure(
        function: Callable[[], object], group: str, case: str, goal: Goal | None = None, *, speed=False, **others: str
    ) -> None:
        started = time.perf_counter()
        function()
        once = time.perf_counter() - started
        rounds = min(max(int(request.config.getoption("--seconds") / once), 3), 100)
        benchmark.group = group
        benchmark.pedantic(function, rounds=rounds)
        if benchmark.stats is None:  # --benchmark-disable
            return
        median = benchmark.stats.stats.median
        ratio = median / request.config.stash[REPORT].baselines.setdefault((request.module.__name__, group), median)
        ratio = 1 / ratio if speed else ratio
        row = {"case": case, "median, ms": f"{1e3 * median:.{1 if median < 0.1 else 0}f}"}
        row["times as fast" if speed else "relative time"] = f"{ratio:.2f}"
        if goal is not None:
            row |= {"goal": str(goal), "reached": goal.reached(ratio)}
        add_row(group, row | others)

    return measure
