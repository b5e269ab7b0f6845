"""Every tutorial runs: its code cells one after the other, as the build of the documentation runs them."""

import re

import matplotlib.pyplot as plt
import pytest
from helpers import ROOT

PAGES = sorted(set((ROOT / "docs" / "tutorials").glob("*.md")) - {ROOT / "docs" / "tutorials" / "index.md"})
CELL = re.compile(r"^```\{code-cell\} ipython3\n(?:---\n.*?^---\n|(?::[^\n]*\n)*)(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tutorial_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: plt.close("all"))
    cells = CELL.findall(page.read_text())
    assert len(cells) > 5
    namespace: dict = {}
    for cell in cells:
        exec(compile(cell, str(page), "exec"), namespace)
        assert not plt.get_fignums()  # every cell shows its figures
