"""Every example runs, at a tiny size."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
ARGS = {
    "compare_parts.py": "--steps 2 --slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 "
    "--test-episodes 2 --recall-episodes 1 --memory-priors gaussian laplace --address-priors gaussian categorical "
    "--writers blocks slots kanerva-2018 --readers exact slots kanerva-2018 --run run --out picture.png",
    "energy_landscape.py": "--size 4 --code-size 3 --width 8 --batch-size 2 --train-steps 2 --query-steps 2 "
    "--resolution 5 --out picture.png",
    "svi_script.py": "--slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 --steps 2 --out picture.png",
    "your_own_prior.py": "--slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 --steps 2 "
    "--test-batches 1 --no-check --out picture.png",
    "swap_memory_prior.py": "--slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 --steps 2 "
    "--test-batches 1 --out picture.png",
    "swap_address_prior.py": "--slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 --steps 2 "
    "--test-batches 1 --out picture.png",
    "slot_memory.py": "--slots 3 --code-size 3 --width 8 --letters 2 --fonts 2 --batch-size 2 --steps 2 --samples 2 "
    "--out picture.png",
    "nuts_vs_guide.py": "--draws 10 --guide-draws 40 --out picture.png",
    "calibrate.py": "--patterns 2 --simulations 20 --draws 7 --bins 4 --out picture.png",
    "kanerva_2018_vs_dynamic.py": "--slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 --steps 2 "
    "--noise 0.1 0.2 --test-batches 1 --out picture.png",
    "query_with_pyro.py": "--training-steps 2 --slots 3 --patterns 3 --cues 1 --steps 2 --draws 2",
    "train_distributed.py": "--slots 3 --code-size 3 --width 8 --length 3 --episodes 2 --steps 2 --test-episodes 2 "
    "--out machine.pt",
    "erase_and_merge.py": "--slots 3 --code-size 3 --width 8 --episode-length 4 --erased 2 --batch-size 2 --steps 2 "
    "--test-episodes 2 --parts 1 2 --out picture.png",
    "sharded_memory.py": "--slots 3 --code-size 4 --length 5 --blocks 2",
}
WRITES = {name: ["picture.png"] for name, arguments in ARGS.items() if "--out picture.png" in arguments}
WRITES["compare_parts.py"] = ["picture.png", "run"]
WRITES["train_distributed.py"] = ["machine.pt"]


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGS)


@pytest.mark.parametrize("name", ARGS)
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(EXAMPLES / name))
    example["main"](example["parser"]().parse_args(ARGS[name].split()))
    assert sorted(path.name for path in tmp_path.iterdir() if path.stat().st_size) == WRITES.get(name, [])
