"""The package as a whole: its names, and that importing it changes nothing."""

import importlib
import pkgutil
import re
import subprocess
import sys

from helpers import ROOT

import pyro_kanerva


def test_all_names_exist():
    """Of the package and of its folders."""
    assert sorted(pyro_kanerva.__all__) == pyro_kanerva.__all__
    folders = [name for _, name, is_folder in pkgutil.iter_modules(pyro_kanerva.__path__) if is_folder]
    for module in (pyro_kanerva, *(importlib.import_module(f"pyro_kanerva.{name}") for name in folders)):
        assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []


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


def test_all_names_are_documented():
    page = (ROOT / "docs" / "api.md").read_text()
    assert [name for name in pyro_kanerva.__all__ if not re.search(rf"\b{name}\b", page)] == []
