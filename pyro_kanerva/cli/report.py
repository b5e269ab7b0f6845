"""What the command line reports on a trained machine: tables, evaluation.json, and figures in the run's folder."""

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
    """Held-out ``images``, and ``recalled``, batches (B, T) + E of episodes of some of them."""

    recalled: list[Tensor]
    images: Tensor
    episode_length: int
    seed: int


def save(axes: Axes, path: Path) -> Path:
    """Write the figure of ``axes``, whole or not at all."""
    figure = axes.get_figure()
    _files.write_whole(path, lambda file: figure.savefig(file, dpi=150, format=path.suffix[1:] or "png"))  # type: ignore[union-attr]
    return path


def summary(run: Path, machine: KanervaMachine, all_batches: list[Tensor], recalled: list[Tensor], seed: int) -> None:
    """Bound and recall: a table, evaluation.json, and three pictures."""
    device = machine.log_code_scale.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        bound = evaluation.evaluate_bound(machine, all_batches)
    noise = SaltAndPepper(0.15)
    told = evaluation.evaluate_recall(machine, recalled, noise, channel=noise, seed=seed)
    untold = evaluation.evaluate_recall(machine, recalled, noise, channel=None, seed=seed)
    never_rose = (told.never_rose + untold.never_rose) / 2
    figures = {
        "reconstruction": bound.reconstruction,
        "address_kl": bound.address_kl,
        "memory_kl": bound.memory_kl,
        "negative_bound": -bound.bound,
        "negative_conditional_bound": -bound.conditional_bound,
    }
    nats = {name: terms.mean().item() for name, terms in figures.items()}
    episodes, length = len(bound.memory_kl), recalled[0].shape[1]
    number = sum(len(patterns) for patterns in recalled)
    print(f"\nheld-out data, {episodes} episodes of {length} patterns, nats per pattern")
    for name, value in nats.items():
        print(f"  {name.replace('_', ' '):<28}{value:8.2f}")
    print(f"\nwrong pixels, cues with 15% salt-and-pepper noise, {number} episodes")
    print(f"  {'query':<28}{'cue':>8}{'step 1':>9}{'step 10':>9}")
    for name, error in (("told the channel", told), ("without a channel", untold)):
        print(f"  {name:<28}{error.cue:8.2%}{error.steps[0]:9.2%}{error.steps[9]:9.2%}")
    queries = 2 * number * length
    print(f"\nenergies that never rose: {never_rose:.2%}, {round(never_rose * queries)} of {queries} queries")
    content = {
        **nats,
        "episodes": episodes,
        "recall_episodes": number,
        "cue_error": told.cue,
        "error_told_the_channel": told.steps,
        "error_without_a_channel": untold.steps,
        "never_rose": never_rose,
        "seed": seed,
    }
    _files.write_text(run / "evaluation.json", json.dumps(content, indent=2))
    patterns = recalled[0]
    cues = noise(patterns, torch.Generator(device).manual_seed(seed))
    retrieval = machine.write(patterns).query(cues, channel=noise)
    pictures = [
        save(plotting.recall_strips(retrieval, patterns), run / "recall.png"),
        save(plotting.energy_descent(retrieval), run / "energy.png"),
    ]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "bound" in line]
    columns = ([line[name] for line in lines] for name in ("step", "bound", "conditional_bound"))
    pictures.append(save(plotting.training_curve(*columns), run / "training.png"))
    print(f"pictures: {', '.join(map(str, pictures))}")


def all_figures(run: Path, machine: KanervaMachine, data: HeldOut) -> None:
    """Every curve, added to evaluation.json and drawn."""
    content: dict[str, Any] = json.loads((run / "evaluation.json").read_text())

    def keep(name: str, value: Any, axes: Axes | None = None) -> None:
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
    hidden[..., image[-1] // 2 :] = True
    occlusion = Occlusion(~hidden)
    with torch.random.fork_rng():
        torch.manual_seed(data.seed)
        completion = evaluation.evaluate_completion(machine, data.recalled, occlusion, hidden)
        patterns = data.recalled[0][:1]
        draws = machine.write(patterns).sample(
            occlusion(patterns), 40, burn_in=20, channel=occlusion, sample_memory=True
        )
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
        name: evaluation.evaluate_basins(machine, data.recalled[:1], _FLIPS, with_channel=known, seed=data.seed)
        for name, known in (("told the channel", True), ("without a channel", False))
    }
    print("\nflipped pixels: cues that reach their pattern (below 2% wrong), told the channel / without")
    for i, level in enumerate(_FLIPS):
        print(f"  {level:<6.0%}" + "".join(f"{curve.mean[i]:9.1%}" for curve in basins.values()))
    reach = "cues that reach their pattern"
    keep("basins", basins, plotting.curves(basins, xlabel="flipped pixels of a cue", ylabel=reach, percent=True))
    double = 2 * data.episode_length
    if len(data.images) >= double:
        _recognize(machine, data, double, keep)
    _generate(machine, data, run)


def _recall_by_noise(machine: KanervaMachine, data: HeldOut) -> tuple[dict[str, Curve], dict[str, Any]]:
    print("\nwrong pixels by noise and query; steps until the pattern no longer changes")
    print(f"  {'':<48}{'cue':>8}{'step 1':>9}{'step 10':>9}{'steps':>7}")
    curves, table = {}, {}
    for name, noise in _NOISE.items():
        channels: dict[str, Channel | None] = {
            "told": noise,
            "unknown level": UnknownLevel(SaltAndPepper(0.2)),
            "no channel": None,
        }
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
    number = sum(len(patterns) for patterns in data.recalled)
    device = machine.log_code_scale.device
    episodes = Episodes(data.images, length, 1, seed=data.seed)
    batches = [episodes[i].to(device) for i in range(min(number, len(data.images) // length))]
    rocs = evaluation.evaluate_recognition(machine, batches, seed=data.seed)
    print(f"\nrecognition, {len(batches)} episodes: area under the curve")
    for name, characteristic in rocs.items():
        print(f"  {name:<28}{characteristic.auc:8.4f}")
    keep("recognition", {name: item.auc for name, item in rocs.items()}, plotting.roc_curve(rocs))


def _generate(machine: KanervaMachine, data: HeldOut, run: Path) -> None:
    patterns = data.recalled[0][:1]
    with torch.random.fork_rng():
        torch.manual_seed(data.seed)
        empty = machine.prior_memory()
        samples = {"of the prior": (empty, empty.posterior.sample()), "of an episode": (machine.write(patterns), None)}
        for name, (memory, matrix) in samples.items():
            grid = plotting.image_grid(memory.generate(32, num_steps=10, matrix=matrix)[0])
            print(f"  picture: {save(grid, run / f'samples_{name.replace(chr(32), chr(95))}.png')}")
