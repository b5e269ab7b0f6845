"""The reports of the command line on a trained machine: tables, evaluation.json, and figures in the run's folder."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_kanerva import _files, evaluation, plotting
from pyro_kanerva.channels import Channel, Flip, Occlusion, SaltAndPepper, UnknownLevel
from pyro_kanerva.datasets import Episodes
from pyro_kanerva.evaluation import Curve
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.plotting.style import Axes

_LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)
_FLIPS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
_NOISE: dict[str, SaltAndPepper | Flip] = {
    "15% salt and pepper": SaltAndPepper(0.15),
    "30% salt and pepper": SaltAndPepper(0.3),
    "5% flips": Flip(0.05),
}


class HeldOut(NamedTuple):
    """Held-out ``images``, and batches (B, T) + E of episodes of them to recall."""

    recalled: list[Tensor]
    images: Tensor
    episode_length: int
    seed: int


def save(axes: Axes, path: Path) -> Path:
    """Write the figure of ``axes``."""
    figure = axes.get_figure()
    _files.write_whole(path, lambda file: figure.savefig(file, dpi=150, format=path.suffix[1:] or "png"))  # type: ignore[union-attr]
    return path


def summary(run: Path, machine: KanervaMachine, all_batches: list[Tensor], recalled: list[Tensor], seed: int) -> None:
    """Bound and recall: tables, evaluation.json, and three pictures."""
    device = machine.log_code_scale.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        bound = evaluation.evaluate_bound(machine, all_batches)
    noise = SaltAndPepper(0.15)
    with_channel = evaluation.evaluate_recall(machine, recalled, noise, channel=noise, seed=seed)
    without_channel = evaluation.evaluate_recall(machine, recalled, noise, channel=None, seed=seed)
    never_rose = (with_channel.never_rose + without_channel.never_rose) / 2
    nats = {name: getattr(bound, name).mean().item() for name in ("reconstruction", "address_kl", "memory_kl")}
    nats["negative_bound"] = -bound.bound.mean().item()
    nats["negative_conditional_bound"] = -bound.conditional_bound.mean().item()
    episodes, length = len(bound.memory_kl), recalled[0].shape[1]
    num_recalled = sum(len(patterns) for patterns in recalled)
    print(f"\nheld-out data, {episodes} episodes of {length} patterns, nats per pattern")
    for name, value in nats.items():
        print(f"  {name.replace('_', ' '):<28}{value:8.2f}")
    print(f"\nwrong pixels, cues with 15% salt-and-pepper noise, {num_recalled} episodes")
    print(f"  {'query':<28}{'cue':>8}{'step 1':>9}{'step 10':>9}")
    for name, error in (("told the channel", with_channel), ("without a channel", without_channel)):
        print(f"  {name:<28}{error.cue:8.2%}{error.steps[0]:9.2%}{error.steps[9]:9.2%}")
    queries = 2 * num_recalled * length  # with and without the channel
    print(f"\nenergies that never rose: {never_rose:.2%}, {round(never_rose * queries)} of {queries} queries")
    content: dict[str, Any] = {**nats, "episodes": episodes, "recall_episodes": num_recalled}
    content |= {"cue_error": with_channel.cue, "error_told_the_channel": with_channel.steps}
    content |= {"error_without_a_channel": without_channel.steps, "never_rose": never_rose, "seed": seed}
    _files.write_text(run / "evaluation.json", json.dumps(content, indent=2))
    patterns = recalled[0]
    cues = noise(patterns, torch.Generator(device).manual_seed(seed))
    retrieval = machine.write(patterns).query(cues, channel=noise)
    pictures = [
        save(plotting.recall_strips(retrieval, patterns), run / "recall.png"),
        save(plotting.energy_descent(retrieval), run / "energy.png"),
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "bound" in line]  # fit() evaluates the bound only now and then
    columns = ([line[name] for line in lines] for name in ("step", "bound", "conditional_bound"))
    pictures.append(save(plotting.training_curve(*columns), run / "training.png"))
    print(f"pictures: {', '.join(map(str, pictures))}")


def all_figures(run: Path, machine: KanervaMachine, data: HeldOut) -> None:
    """Compute and draw all curves, and add them to evaluation.json."""
    content: dict[str, Any] = json.loads((run / "evaluation.json").read_text())

    def keep(name: str, value: Any, axes: Axes | None = None) -> None:
        """Add a value to evaluation.json, and write its figure."""
        content[name] = value
        _files.write_text(run / "evaluation.json", json.dumps(content, indent=2))
        if axes is not None:
            print(f"  picture: {save(axes, run / f'{name}.png')}")

    curves, table = _recall_by_noise(machine, data)
    wrong = "wrong pixels"
    keep("noise", table, plotting.curves(curves, xlabel="step", ylabel=wrong, percent=True, log_y=True))
    keep("baselines", _baselines(machine, data))
    image = data.recalled[0].shape[2:]
    hidden = torch.zeros(image, dtype=torch.bool, device=data.recalled[0].device)
    hidden[..., image[-1] // 2 :] = True  # the right half
    occlusion = Occlusion(~hidden)
    with torch.random.fork_rng():
        torch.manual_seed(data.seed)
        completion = evaluation.evaluate_completion(machine, data.recalled, occlusion, hidden)
        patterns = data.recalled[0][:1]
        cues, memory = occlusion(patterns), machine.write(patterns)
        draws = memory.sample(cues, 40, burn_in=20, channel=occlusion, sample_memory=True)
    print("\nright half missing, wrong pixels of the missing half")
    for name, error in completion.items():
        print(f"  {name:<56}{error:8.2%}")
    keep("completion", completion, plotting.uncertainty(draws, patterns))
    lengths = [length for length in _LENGTHS if length <= len(data.images)]
    noise = SaltAndPepper(0.15)
    capacity = evaluation.evaluate_capacity(machine, data.images, lengths, noise, channel=noise, seed=data.seed)
    print("\npatterns in one memory: wrong pixels after 10 steps, negative bound")
    for i, length in enumerate(lengths):
        print(f"  {length:<6}{capacity['recall'].mean[i]:8.2%}{capacity['negative bound'].mean[i]:9.1f} nats")
    recall = {"15% salt and pepper": capacity.pop("recall")}
    axis = f"patterns in a memory of {machine.num_slots} slots"
    keep("capacity", recall, plotting.curves(recall, xlabel=axis, ylabel=wrong, percent=True, log_x=True))
    keep("capacity_bound", capacity, plotting.curves(capacity, xlabel=axis, ylabel="nats per pattern", log_x=True))
    basins = {
        name: evaluation.evaluate_basins(machine, data.recalled[:1], _FLIPS, with_channel=with_channel, seed=data.seed)
        for name, with_channel in (("told the channel", True), ("without a channel", False))
    }
    print("\nflipped pixels: cues that reach their pattern (below 2% wrong), told the channel / without")
    for i, level in enumerate(_FLIPS):
        print(f"  {level:<6.0%}" + "".join(f"{curve.mean[i]:9.1%}" for curve in basins.values()))
    reach = "cues that reach their pattern"
    keep("basins", basins, plotting.curves(basins, xlabel="flipped pixels of a cue", ylabel=reach, percent=True))
    if len(data.images) >= 2 * data.episode_length:  # half of an episode is stored, half is not
        _recognize(machine, data, 2 * data.episode_length, keep)
    _generate(machine, data, run)


def _recall_by_noise(machine: KanervaMachine, data: HeldOut) -> tuple[dict[str, Curve], dict[str, Any]]:
    print("\nwrong pixels by noise and query; steps until the pattern no longer changes")
    print(f"  {'':<48}{'cue':>8}{'step 1':>9}{'step 10':>9}{'steps':>7}")
    curves, table = {}, {}
    for name, noise in _NOISE.items():
        unknown = UnknownLevel(SaltAndPepper(0.2))
        channels: dict[str, Channel | None] = {"told": noise, "unknown level": unknown, "no channel": None}
        for kind, channel in channels.items():
            error = evaluation.evaluate_recall(machine, data.recalled, noise, channel=channel, seed=data.seed)
            label, steps = f"{name}, {kind}", error.num_steps.mean().item()
            print(f"  {label:<48}{error.cue:8.2%}{error.steps[0]:9.2%}{error.steps[-1]:9.2%}{steps:7.1f}")
            table[label] = {"error": error.curve, "steps": steps, "never_rose": error.never_rose}
            if isinstance(noise, SaltAndPepper):
                curves[label] = error.curve
    return curves, table


def _baselines(machine: KanervaMachine, data: HeldOut) -> dict[str, dict[str, float]]:
    result = {}
    for name, noise in _NOISE.items():
        flips = float(noise.flip_probability)
        result[name] = evaluation.evaluate_baselines(machine, data.recalled, noise, flips, seed=data.seed)
        print(f"\nwrong pixels of baselines, {name}")
        for baseline, error in result[name].items():
            print(f"  {baseline:<56}{error:8.2%}")
    return result


def _recognize(machine: KanervaMachine, data: HeldOut, length: int, keep: Callable[[str, Any, Axes], None]) -> None:
    num_episodes = min(sum(len(patterns) for patterns in data.recalled), len(data.images) // length)
    episodes = Episodes(data.images, length, 1, seed=data.seed)
    batches = [episodes[i].to(machine.log_code_scale.device) for i in range(num_episodes)]
    rocs = evaluation.evaluate_recognition(machine, batches, seed=data.seed)
    print(f"\nrecognition, {len(batches)} episodes: area under the curve")
    for name, roc in rocs.items():
        print(f"  {name:<28}{roc.auc:8.4f}")
    keep("recognition", {name: roc.auc for name, roc in rocs.items()}, plotting.roc_curve(rocs))


def _generate(machine: KanervaMachine, data: HeldOut, run: Path) -> None:
    patterns = data.recalled[0][:1]
    with torch.random.fork_rng():
        torch.manual_seed(data.seed)
        empty = machine.prior_memory()
        samples = {"of the prior": (empty, empty.posterior.sample()), "of an episode": (machine.write(patterns), None)}
        for name, (memory, matrix) in samples.items():
            grid = plotting.image_grid(memory.generate(32, num_steps=10, matrix=matrix)[0])
            path = run / f"samples_{name.replace(' ', '_')}.png"
            print(f"  picture: {save(grid, path)}")
