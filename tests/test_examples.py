"""Every example runs, at a tiny size."""

import re
import runpy

import numpy as np
import pytest
import torch
from helpers import ROOT

from pyro_kanerva.cli import main

EXAMPLES = ROOT / "examples"
ARGS = {
    "address_priors.py": "--steps 2 --slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 --lengths 2 4 "
    "--patterns 4 --scales 0.1 --run run --out picture.png",
    "benchmark_recall.py": "--seeds 2 --cues 2 --steps 1 --stored 2 --noise 0.5 --stream 2 --stream-slots 2 "
    "--stream-cues 1 --erase-slots 2 --erase-episodes 1 --erased 1 --lengths 2 --out run",
    "compare_parts.py": "--steps 2 --slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 "
    "--test-episodes 2 --recall-episodes 2 --memory-priors gaussian laplace --address-priors gaussian categorical "
    "--writers blocks slots kanerva-2018 --readers exact slots kanerva-2018 --vae --run run --out picture.png",
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
    "generation.py": "--machines letters --critic-steps 2 --vae-steps 2 --samples 64 --query-steps 1 --out picture.png",
    "vectors.py": "--size 8 --slots 3 --code-size 4 --width 8 --episode-length 3 --batch-size 2 --steps 2 "
    "--test-episodes 2 --out picture.png",
    "tokens.py": "--length 5 --words 20 --slots 3 --code-size 4 --width 8 --episode-length 3 --batch-size 2 --steps 2 "
    "--test-episodes 2",
    "sharded_memory.py": "--slots 3 --code-size 4 --length 5 --blocks 2",
    "recognition.py": "--machines letters --patterns 4 --noise 0.3 --episodes 1 --samples 2",
    "paper_claims.py": "--per-class 4 --longest 16 --episodes 3 --cues 32 --steps 1 --sweeps 0 1 --samples 16 "
    "--out picture.png",
    "smaller_files.py": "--patterns 3 --episodes 2",
    "omniglot_figures.py": "--run a --group-by kind --rate-distortion a b --recall-episodes 2 --stored 3 --samples 2 "
    "--steps 2 --out figures",
}
WRITES = {name: ["picture.png"] for name, arguments in ARGS.items() if "--out picture.png" in arguments}
WRITES["compare_parts.py"] = WRITES["address_priors.py"] = ["picture.png", "run"]
WRITES["benchmark_recall.py"] = ["run"]
WRITES["train_distributed.py"] = ["machine.pt"]
WRITES["omniglot_figures.py"] = ["a", "b", "figures", "images.npz"]
TRAIN = (
    "train --data images.npz --steps 3 --slots 4 --code-size 8 --width 8 --episode-length 4 --batch-size 2 "
    "--recall-episodes 2 --device cpu"
)


def train_runs():
    """Two runs of the command line on labelled images, which omniglot_figures.py reads."""
    images = (np.random.default_rng(0).random((60, 9, 11)) < 0.2).astype(np.uint8) * 255
    labels = {"split": np.repeat([0, 1], 30), "kind": np.arange(60) % 2, "own": np.arange(60)}
    np.savez("images.npz", images=images, **labels)
    for run, weight in (("a", "0.1"), ("b", "1")):
        options = f"--held-out-where split=1 --memory-kl-weight {weight} --run {run}"
        assert main([*TRAIN.split(), *options.split()]) == 0


def test_every_example_is_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(ARGS)


@pytest.mark.parametrize("name", ARGS)
def test_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name == "omniglot_figures.py":
        train_runs()
    example = runpy.run_path(str(EXAMPLES / name))
    example["main"](example["parser"]().parse_args(ARGS[name].split()))
    assert sorted(path.name for path in tmp_path.iterdir() if path.stat().st_size) == WRITES.get(name, [])


def test_compare_parts_with_a_vae(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = runpy.run_path(str(EXAMPLES / "compare_parts.py"))

    def compare(arguments):
        parts = "--combinations gaussian/gaussian/blocks/exact gaussian/mixture/mixture/mixture --vae"
        tiny = "--steps 2 --slots 3 --code-size 3 --width 8 --episode-length 3 --batch-size 2 --test-episodes 2"
        return example["main"](example["parser"]().parse_args(f"{parts} {tiny} {arguments}".split()))

    results = {result["parts"]: result for result in compare("--group-by label")}
    assert set(results) == {"gaussian/gaussian/blocks/exact", "gaussian/mixture/mixture/mixture", "VAE, no memory"}
    assert results["gaussian/mixture/mixture/mixture"]["empty memory"] is not None
    vae = results["VAE, no memory"]
    assert np.isfinite(vae["negative bound"])
    assert vae["code KL"] > 0
    assert vae["negative bound"] == pytest.approx(vae["code KL"] - vae["reconstruction"], rel=1e-5)
    assert vae["negative conditional bound"] == vae["negative bound"]
    assert vae["memory KL"] == vae["address KL"] == 0
    assert 0 <= vae["recall error"] <= 1
    assert "| - |" in capsys.readouterr().out

    written = {path: path.stat().st_mtime_ns for path in tmp_path.glob("compare-run/*/*")}
    compare("--group-by label")  # skips what is there
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("compare-run/*/*")} == written
    results = compare("--group-by label --memory-kl-weight 0.5")  # which a VAE does not have
    assert [result["parts"] for result in results].count("VAE, no memory") == 1
    for arguments, message in (
        ("--group-by font", "--group-by is font; expected label, the only one of glyphs."),
        ("--recall-episodes 1", "expected at least 2 test episodes and recall episodes"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            compare(arguments)


def test_the_vae_of_compare_parts_goes_on_from_its_checkpoint(tmp_path):
    example = runpy.run_path(str(EXAMPLES / "compare_parts.py"))
    tiny = "--code-size 3 --width 8 --episode-length 3 --batch-size 2 --steps 203"
    args = example["parser"]().parse_args(tiny.split())
    episodes, batches = example["load"](args)

    class Interrupted:
        fingerprint = episodes.fingerprint

        def __getitem__(self, index):
            if index == 202:  # the checkpoint is of step 200
                raise KeyboardInterrupt
            return episodes[index]

    def fit(episodes, folder):
        vae = example["VAE"](args, batches[0].shape[2:])
        example["fit_vae"](args, vae, episodes, tmp_path / folder)
        return vae

    with pytest.raises(KeyboardInterrupt):
        fit(Interrupted(), "resumed")
    whole, resumed = fit(episodes, "whole").state_dict(), fit(episodes, "resumed").state_dict()
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value)


def test_benchmark_recall_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = (random.random((40, 28, 28)) < 0.2).astype(np.uint8) * 255
    np.savez("images.npz", images=images, split=np.arange(40) % 2)
    np.savez("colors.npz", images=random.integers(0, 256, (20, 8, 8, 3), dtype=np.uint8))
    example = runpy.run_path(str(EXAMPLES / "benchmark_recall.py"))
    options = (
        "--data images.npz --colors colors.npz --protocols uhn --seeds 1 --cues 3 --steps 1 --stored 4 --noise 0.3"
    )
    rows = example["main"](example["parser"]().parse_args(options.split()))
    found = {(row["protocol"], row["damage"], row["row"]): row for row in rows}
    for place in (("uhn", "noise 0.3", "likelihood, zlib"), ("colors", "noise 0.3", "likelihood")):
        assert found[place]["identity"] == (1, 0)
        assert found[place]["mse"] == (0, 0)
    assert found["uhn", "noise 0.3", "nearest, Euclidean"]["time a cue"] == (1, 0)
    assert found["uhn", "noise 0.3", "mean image"]["identity"][0] < 1
    cue, pasted = (found["uhn", "lower half black", name]["mse"][0] for name in ("cue itself", "cue and mean image"))
    assert pasted < cue
    tables = (tmp_path / "comparison" / "tables.md").read_text()
    assert tables.count("\n### ") == 4
    assert "| ours, slots, empty memory | " in tables


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_the_densities_of_benchmark_recall_add_up(x):
    noise = runpy.run_path(str(EXAMPLES / "benchmark_recall.py"))["FoldedNoise"](0.5)
    below = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:-1]
    density = noise.log_density(below, torch.tensor(x)).exp()
    clamped = noise.log_density(torch.tensor([1.0]), torch.tensor(x)).exp()
    assert torch.trapezoid(density, below) + clamped == pytest.approx(1, abs=1e-3)
    drawn = noise(torch.full((100_000,), x), torch.Generator().manual_seed(0))
    assert (drawn == 1).float().mean() == pytest.approx(clamped.item(), abs=0.01)


def test_smaller_files_of_a_part_of_the_images(tmp_path):
    """The errors of float16 are close to those of float32, and its files are smaller."""
    images = (np.random.default_rng(0).random((40, 28, 28)) < 0.2).astype(np.uint8) * 255
    np.savez(tmp_path / "images.npz", images=images, split=np.arange(40) % 2)
    example = runpy.run_path(str(EXAMPLES / "smaller_files.py"))
    options = f"--data {tmp_path / 'images.npz'} --data-where split=1 --patterns 4 --episodes 2"
    args = example["parser"]().parse_args(options.split())
    assert torch.equal(example["load"](args), torch.from_numpy(images[1::2]))
    whole, half, _, eighth = example["main"](args)
    assert whole[2] > half[2] > eighth[2]
    assert whole[3] > half[3] > eighth[3]
    assert half[5:] == pytest.approx(whole[5:], abs=0.02)


def test_the_episodes_of_paper_claims():
    """Equally many different drawings of each of some characters; held-out images alone."""
    example = runpy.run_path(str(EXAMPLES / "paper_claims.py"))
    groups = example["load"](example["parser"]().parse_args(["--per-class", "8"]))
    assert min(map(len, groups)) >= 8
    patterns = example["draw"](groups, 4, 16, 3, seed=0)
    assert patterns.shape == (3, 16, 1, 28, 28)
    for episode in patterns:
        counts = [sum(bool((group == drawing).flatten(1).all(1).any()) for drawing in episode) for group in groups]
        assert sum(counts) == 16
        assert [count for count in counts if count] == [4] * 4
    nearest = example["nearest_class"](torch.stack([group[0] for group in groups[:5]]), groups)
    assert nearest.tolist() == list(range(5))


def test_paper_claims_of_a_file(tmp_path, monkeypatch):
    """Only what the machine was not trained on: the first drawings of the order of its run."""
    monkeypatch.chdir(tmp_path)
    images = (np.random.default_rng(0).random((9000, 28, 28)) < 0.1).astype(np.uint8) * 255
    np.savez("images.npz", images=images, kind=np.arange(9000) % 30)
    example = runpy.run_path(str(EXAMPLES / "paper_claims.py"))
    options = "--machine omniglot-gaussian --data images.npz --labels kind --per-class 4"
    groups = example["load"](example["parser"]().parse_args(options.split()))
    order = torch.randperm(9000, generator=torch.Generator().manual_seed(0))
    unseen = torch.from_numpy(images[order[:8070]] > 127).float()
    assert sum(map(len, groups)) == 8070
    assert torch.cat(groups).sum() == unseen.sum()


def test_omniglot_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train_runs()
    assert "30 training images, 30 held out" in capsys.readouterr().out
    for run, options in (("other", "--held-out-where split=0"), ("random", "--held-out 30")):
        assert main([*TRAIN.split(), *options.split(), "--run", run]) == 0
    example = runpy.run_path(str(EXAMPLES / "omniglot_figures.py"))

    def figures(arguments):
        return example["main"](example["parser"]().parse_args(arguments.split()))

    areas, curve = figures("--run a --group-by kind --rate-distortion a b --recall-episodes 2")
    assert set(areas) == {"evidence", "evidence ratio", "familiarity"}
    assert len(curve.x) == 2
    assert curve.x == sorted(curve.x)
    for name in ("recognition.png", "samples_of_one_group.png", "rate_distortion.png"):
        assert (tmp_path / "a" / name).read_bytes()[:4] == b"\x89PNG"
    for arguments, message in (
        ("--run a --group-by kind --rate-distortion other", "other was trained on other data than a."),
        ("--run random --group-by kind", "--group-by goes with a run that was trained with --held-out-where."),
        ("--run a --group-by labels", "images.npz holds no labels; expected an array labels."),
        ("--run a --group-by own", "the largest group has 1 images; expected one of at least 8, two episodes."),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            figures(arguments)
