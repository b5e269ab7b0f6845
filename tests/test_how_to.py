"""Every section of the how-to guide runs alone: its Python blocks, and its lines that begin with ``pyro-kanerva``."""

import re
import shlex

import matplotlib.pyplot as plt
import pytest
from helpers import ROOT

from pyro_kanerva.cli import main

PAGE = ROOT / "docs" / "how_to.md"
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE))


@pytest.mark.parametrize("title", SECTIONS)
def test_section_runs(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(python|bash)\n(.*?)^```", SECTIONS[title], re.DOTALL | re.MULTILINE)
    assert blocks
    namespace: dict = {}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, f"{PAGE}: {title}", "exec"), namespace)
            continue
        for line in block.replace("\\\n", " ").splitlines():
            command, *arguments = shlex.split(line, comments=True)
            assert command == "pyro-kanerva"
            assert main(arguments) == 0, line
    plt.close("all")
