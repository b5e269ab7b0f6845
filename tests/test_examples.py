"""Every example runs, at a tiny size."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ARGS = {
    "energy_landscape.py": "--size 4 --code-size 3 --width 8 --batch-size 2 --train-steps 2 --query-steps 2 "
    "--resolution 5 --out picture.png",
    "query_with_pyro.py": "--training-steps 2 --slots 3 --patterns 3 --cues 1 --steps 2 --draws 2",
}
WRITES = {"energy_landscape.py": ["picture.png"]}


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGS)


@pytest.mark.parametrize("name", ARGS)
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(EXAMPLES / name))
    example["main"](example["parser"]().parse_args(ARGS[name].split()))
    assert sorted(path.name for path in tmp_path.iterdir() if path.stat().st_size) == WRITES.get(name, [])
