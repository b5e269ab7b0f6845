"""The package as a whole: its names, and what importing it costs."""

import subprocess
import sys

import pyro_kanerva


def test_all_names_exist():
    assert sorted(pyro_kanerva.__all__) == pyro_kanerva.__all__
    for name in pyro_kanerva.__all__:
        assert hasattr(pyro_kanerva, name)


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_has_no_side_effects():
    code = (
        "import sys, torch, pyro, warnings; state = torch.get_rng_state(); threads = torch.get_num_threads(); "
        "settings = pyro.settings.get(); import pyro_kanerva; "
        "assert torch.equal(torch.get_rng_state(), state); assert torch.get_num_threads() == threads; "
        "assert pyro.settings.get() == settings; assert not len(pyro.get_param_store()); "
        "print([name for name in ('matplotlib', 'arviz', 'PIL', 'pandas') if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_import_is_quick():
    """``import pyro_kanerva`` in under 1.2 times the time of ``import pyro``: the best of six runs each, by turns."""
    code = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
    runs = [[float(run(code.format(name))) for name in ("pyro", "pyro_kanerva")] for _ in range(6)]
    pyro_only, both = (min(seconds) for seconds in zip(*runs, strict=True))
    assert both < 1.2 * pyro_only
