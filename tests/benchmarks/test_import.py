"""Import

The time of ``import pyro_kanerva``, relative to ``import pyro``: the best of six runs each, by turns, in new processes.
"""

import subprocess
import sys


def seconds(module):
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def test_import_is_quick():
    runs = [[seconds(module) for module in ("pyro", "pyro_kanerva")] for _ in range(6)]
    pyro_only, both = (min(column) for column in zip(*runs, strict=True))
    assert both < 1.2 * pyro_only
