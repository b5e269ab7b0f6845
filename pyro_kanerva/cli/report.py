"""The reports of the command line on a trained machine: tables, evaluation.json, and figures in the run's folder."""

import hashlib
import itertools
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_kanerva import _files, evaluation, plotting
from pyro_kanerva.channels import Channel, Damage, Flip, GaussianNoise, Occlusion, SaltAndPepper, UnknownLevel
from pyro_kanerva.cli.pictures import error_name, half, legal_cues
from pyro_kanerva.datasets import Episodes
from pyro_kanerva.evaluation import Curve, RecallControl, RecallError, error_text
from pyro_kanerva.likelihoods import BernoulliLikelihood
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.plotting.style import Axes
from pyro_kanerva.training.checkpoint import read_metrics

_LENGTHS = (4, 8, 16, 32, 64, 128, 256, 512)
_FLIPS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
_NOISE: dict[str, SaltAndPepper | Flip] = {
    "15% salt and pepper": SaltAndPepper(0.15),
    "30% salt and pepper": SaltAndPepper(0.3),
    "5% flips": Flip(0.05),
}
_GAUSSIAN = {f"Gaussian noise of {scale}": GaussianNoise(scale) for scale in (0.15, 0.3)}  # of levels 0 to 1
_CONTROL_HEADER = f"{'cue':>8}{'step 1':>9}{'step 10':>9}{'other':>9}{'empty':>9}{'gain':>7}"
_WORSE = "  worse than the cue"
_KNOWN, _ESTIMATED, _UNKNOWN = "noise known", "noise level estimated", "noise unknown"
_KEY = f"""\
  {_KNOWN}: the query is given the kind and the level of the noise; {_UNKNOWN}: neither of them
  other, empty: step 10 with the memory of another episode, and with an empty one; gain: empty / step 10"""


class HeldOut(NamedTuple):
    """Held-out ``images``, and batches (B, T) + E of episodes of them to recall."""

    recalled: list[Tensor]
    images: Tensor
    episode_length: int
    seed: int


def _is_binary(machine: KanervaMachine) -> bool:
    return isinstance(machine.likelihood, BernoulliLikelihood)


def _noises(machine: KanervaMachine) -> dict[str, SaltAndPepper | Flip] | dict[str, GaussianNoise]:
    """The noise that fits the likelihood, by name; the report shows the first two."""
    return _NOISE if _is_binary(machine) else _GAUSSIAN


def save(axes: Axes, path: Path) -> Path:
    """Write the figure of ``axes``, and close it."""
    import matplotlib.pyplot as plt

    figure: Any = axes.get_figure()
    _files.write_whole(path, lambda file: figure.savefig(file, dpi=150, format=path.suffix[1:] or "png"))
    plt.close(figure)
    return path


def summary(run: Path, machine: KanervaMachine, all_batches: list[Tensor], recalled: list[Tensor], seed: int) -> None:
    """Bound, recall and its control: tables, evaluation.json, and four pictures."""
    device = machine.log_code_scale.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        bar = tqdm(all_batches, "evaluating: bound", leave=False, unit="batch")
        bound = evaluation.evaluate_bound(machine, bar)
    _progress("recall from damaged cues")
    controls = _recall_controls(machine, recalled, seed)
    kind, noise = next(iter(_noises(machine).items()))
    without_channel = evaluation.evaluate_recall(machine, recalled, legal_cues(machine, noise), channel=None, seed=seed)
    errors = [*itertools.chain(*controls.values()), without_channel]
    never_rose = sum(error.never_rose for error in errors) / len(errors)
    nats = {name: getattr(bound, name).mean().item() for name in ("reconstruction", "address_kl", "memory_kl")}
    nats["negative_bound"] = -bound.bound.mean().item()
    nats["negative_conditional_bound"] = -bound.conditional_bound.mean().item()
    episodes, length = len(bound.memory_kl), recalled[0].shape[1]
    num_recalled = sum(len(patterns) for patterns in recalled)
    print(
        f"\nheld-out data, {episodes} episodes of {length} patterns, nats per pattern; a lower negative bound is better"
    )
    for name, value in nats.items():
        print(f"  {name.replace('_', ' '):<28}{value:8.2f}")
    wrong = error_name(without_channel.metric)
    print(f"\n{wrong}, {num_recalled} episodes\n{_KEY}")
    print(f"  {'':<48}{_CONTROL_HEADER}")
    for name, control in controls.items():
        print(f"  {name:<48}{_control_columns(control)}{_if_worse(control.right)}")
    line = f"{f'{kind}, {_UNKNOWN}':<48}{_error_columns(without_channel)}{'':25}{_if_worse(without_channel)}"
    print(f"  {line.rstrip()}")
    queries = len(errors) * num_recalled * length
    print(f"\nenergies that never rose: {never_rose:.2%}, {round(never_rose * queries)} of {queries} queries")
    content: dict[str, Any] = {**nats, "episodes": episodes, "recall_episodes": num_recalled}
    content |= {"error_noise_unknown": without_channel.steps, "never_rose": never_rose, "seed": seed}
    content["parameters"] = fingerprint(machine)
    content["recall_control"] = {name: _control_content(control) for name, control in controls.items()}
    _files.write_text(run / "evaluation.json", json.dumps(content, indent=2))
    patterns = recalled[0]
    cues = noise(patterns, torch.Generator(device).manual_seed(seed))
    retrieval = machine.write(patterns).query(cues, channel=noise)
    pictures = [
        save(_half_missing(machine, torch.cat(recalled[:2])[:2]), run / "recall.png"),
        save(plotting.recall_strips(retrieval, patterns, ink=_is_binary(machine)), run / "recall_steps.png"),
        save(plotting.energy_descent(retrieval), run / "energy.png"),
    ]
    names = ("step", "negative_bound", "negative_conditional_bound")  # fit() evaluates the bound only now and then
    lines = read_metrics(run / "metrics.jsonl").values()
    columns: list[Any] = [[line[name] for line in lines if line.keys() >= set(names)] for name in names]
    if columns[0]:  # a pretrained machine has none
        pictures.append(save(plotting.training_curve(*columns), run / "training.png"))
    print(f"pictures: {', '.join(map(str, pictures))}")


def fingerprint(machine: KanervaMachine) -> str:
    """A digest of the parameters."""
    digest = hashlib.sha256()
    for name, tensor in machine.state_dict().items():
        digest.update(name.encode() + tensor.numpy(force=True).tobytes())
    return digest.hexdigest()


def _right_half(patterns: Tensor) -> Tensor:
    """A mask of shape E: the right half of an image."""
    return half("right", tuple(patterns.shape[2:])).to(patterns.device)


def _recall_controls(machine: KanervaMachine, recalled: list[Tensor], seed: int) -> dict[str, RecallControl]:
    controls = {}
    for name, noise in itertools.islice(_noises(machine).items(), 2):
        control = evaluation.evaluate_recall_control(machine, recalled, noise, channel=noise, seed=seed)
        controls[f"{name}, {_KNOWN}"] = control
    hidden = _right_half(recalled[0])
    occlusion = Occlusion(~hidden)
    controls["right half missing, error of the missing half"] = evaluation.evaluate_recall_control(
        machine, recalled, occlusion, channel=occlusion, seed=seed, entries=hidden
    )
    return controls


def _progress(part: str) -> None:
    print(f"evaluating: {part} ...", file=sys.stderr, flush=True)


def _if_worse(error: RecallError) -> str:
    return _WORSE if error.steps[-1] > error.cue else ""


def _error_columns(error: RecallError) -> str:
    cue, first, last = (error_text(value, error.metric) for value in (error.cue, error.steps[0], error.steps[-1]))
    return f"{cue:>8}{first:>9}{last:>9}"


def _control_columns(control: RecallControl) -> str:
    """The columns of the header: the errors with the right memory, those of the others after the last step, gain."""
    right, other, empty = control
    others = (error_text(error.steps[-1], error.metric) for error in (other, empty))
    return f"{_error_columns(right)}{''.join(f'{text:>9}' for text in others)}{control.gain:7.2f}"


def _control_content(control: RecallControl) -> dict[str, Any]:
    """For evaluation.json: the error by step with each memory, and the memory gain."""
    errors = {f"{name}_memory": error.steps for name, error in control._asdict().items()}
    metric = {} if control.right.metric == "wrong entries" else {"metric": control.right.metric}
    return {"cue": control.right.cue, **errors, "memory_gain": _gain_content(control), **metric}


def _gain_content(control: RecallControl) -> float | None:
    return control.gain if math.isfinite(control.gain) else None  # JSON has no infinity


def _half_missing(machine: KanervaMachine, patterns: Tensor) -> Axes:
    """What the three memories recall of letters whose right half is missing; ``patterns`` are two episodes."""
    hidden = _right_half(patterns)
    occlusion = Occlusion(~hidden)
    cues = occlusion(patterns)
    (memories,) = evaluation.control_memories(machine, [patterns])
    recalled = {
        f"{name} memory": memory.query(cues, channel=occlusion).patterns[-1]
        for name, memory in memories._asdict().items()
    }
    return plotting.recall_comparison(patterns, cues, recalled, hidden=hidden, ink=_is_binary(machine))


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
    binary, metric = _is_binary(machine), evaluation.likelihood_metric(machine, data.recalled[0])
    wrong = error_name(metric)
    keep("noise", table, plotting.curves(curves, xlabel="step", ylabel=wrong, percent=binary, log_y=True))
    if binary:
        keep("baselines", _baselines(machine, data))
    _progress("completion")
    hidden = _right_half(data.recalled[0])
    occlusion = Occlusion(~hidden)
    with torch.random.fork_rng():
        torch.manual_seed(data.seed)
        completion = evaluation.evaluate_completion(machine, data.recalled, occlusion, hidden)
        patterns = data.recalled[0][:1]
        cues, memory = occlusion(patterns), machine.write(patterns)
        draws = memory.sample(cues, 40, burn_in=20, channel=occlusion, sample_memory=True)
    print(f"\nright half missing, {wrong} of the missing half")
    for name, error in completion.items():
        worse = _WORSE if error > completion["blank"] else ""
        print(f"  {name:<56}{error_text(error, metric):>8}{worse}")
    keep("completion", completion, plotting.uncertainty(draws, patterns, ink=binary))
    _progress("capacity")
    lengths = [length for length in _LENGTHS if length <= len(data.images)] or [1]
    noise = next(iter(_noises(machine).values()))
    capacity = evaluation.evaluate_capacity(machine, data.images, lengths, noise, channel=noise, seed=data.seed)
    print(f"\npatterns in one memory: {wrong} after 10 steps with the right, another and an empty memory")
    print(f"  {'':<6}{'right':>9}{'other':>9}{'empty':>9}{'gain':>9}  negative bound")
    by_length = {name: dict(zip(curve.x, curve.mean, strict=True)) for name, curve in capacity.items()}
    memories = ("recall", "recall, other memory", "recall, empty memory")
    for length in lengths:
        # A single episode of this length has no other memory.
        found = [by_length[name].get(length) for name in memories]
        errors = [f"{'-' if error is None else error_text(error, metric):>9}" for error in found]
        gain, bound = by_length["memory gain"][length], by_length["negative bound"][length]
        print(f"  {length:<6}{''.join(errors)}{gain:9.2f}{bound:9.1f} nats")
    recall = {name: capacity.pop(name) for name in memories}
    axis = f"patterns in a memory of {machine.num_slots} slots"
    keep("capacity", recall, plotting.curves(recall, xlabel=axis, ylabel=wrong, percent=binary, log_x=True))
    keep("capacity_gain", capacity.pop("memory gain"))
    nats = "nats per pattern (lower is better)"
    keep("capacity_bound", capacity, plotting.curves(capacity, xlabel=axis, ylabel=nats, log_x=True))
    if binary:
        _basins(machine, data, keep)
        keep("attractors", _attractors(machine, data))
    if len(data.images) >= 2 * data.episode_length:  # half of an episode is stored, half is not
        _recognize(machine, data, 2 * data.episode_length, keep)
    _generate(machine, data, run)


def _basins(machine: KanervaMachine, data: HeldOut, keep: Callable[[str, Any, Axes], None]) -> None:
    _progress("basins of attraction")
    basins = {
        name: evaluation.evaluate_basins(machine, data.recalled[:1], _FLIPS, with_channel=with_channel, seed=data.seed)
        for name, with_channel in ((_KNOWN, True), (_UNKNOWN, False))
    }
    print(f"\nflipped pixels: cues that reach their pattern (below 2% wrong), {_KNOWN} / {_UNKNOWN}")
    for i, level in enumerate(_FLIPS):
        print(f"  {level:<6.0%}" + "".join(f"{curve.mean[i]:9.1%}" for curve in basins.values()))
    reach = "cues that reach their pattern"
    keep("basins", basins, plotting.curves(basins, xlabel="flipped pixels of a cue", ylabel=reach, percent=True))


def _recall_by_noise(machine: KanervaMachine, data: HeldOut) -> tuple[dict[str, Curve], dict[str, Any]]:
    wrong = error_name(evaluation.likelihood_metric(machine, data.recalled[0]))
    print(f"\n{wrong} by noise and query; steps until the pattern no longer changes")
    print(f"{_KEY}\n  {_ESTIMATED}: the query is given the kind of the noise")
    print(f"  {'':<48}{_CONTROL_HEADER}{'steps':>7}")
    curves: dict[str, Curve] = {}
    table: dict[str, dict[str, Any]] = {}
    for name, noise in _noises(machine).items():
        unknown = UnknownLevel(SaltAndPepper(0.2) if _is_binary(machine) else GaussianNoise(0.2))
        channels: dict[str, Channel | None] = {_KNOWN: noise, _ESTIMATED: unknown, _UNKNOWN: None}
        for kind, channel in channels.items():
            damage = legal_cues(machine, noise) if channel is None else noise
            control = evaluation.evaluate_recall_control(
                machine, data.recalled, damage, channel=channel, seed=data.seed
            )
            error = control.right
            label, steps = f"{name}, {kind}", error.num_steps.mean().item()
            print(f"  {label:<48}{_control_columns(control)}{steps:7.1f}{_if_worse(error)}")
            never_rose = sum(part.never_rose for part in control) / len(control)
            table[label] = {"error": error.curve, "steps": steps, "never_rose": never_rose}
            table[label] |= {"error_other_memory": control.other.curve, "error_empty_memory": control.empty.curve}
            table[label]["memory_gain"] = _gain_content(control)
            if type(noise) is not Flip:
                curves[label] = error.curve
    return curves, table


def _baselines(machine: KanervaMachine, data: HeldOut) -> dict[str, dict[str, float]]:
    result = {}
    for name, noise in _NOISE.items():
        flips = float(noise.flip_probability)
        result[name] = evaluation.evaluate_baselines(machine, data.recalled, noise, flips, seed=data.seed)
        print(f"\nwrong pixels of baselines, {name}")
        for baseline, error in result[name].items():
            print(f"  {baseline:<56}{error:8.2%}{_WORSE if error > flips else ''}")
    return result


def _attractors(machine: KanervaMachine, data: HeldOut) -> dict[str, dict[str, Any]]:
    """Where queries end, by the number of patterns in a memory and the start; for evaluation.json."""
    slots, noise = machine.num_slots, SaltAndPepper(0.3)
    starts: dict[str, tuple[Damage, Channel | None]] = {
        f"30% salt and pepper, {_KNOWN}": (noise, noise),
        f"30% salt and pepper, {_UNKNOWN}": (noise, None),
        "random starts": (evaluation.random_start, None),
    }
    print("\nwhere queries end after 30 steps, by T patterns in K slots; fixed: stored patterns that are fixed points;")
    print("empty: ends at the own, and at any stored pattern, with an empty memory")
    columns = ("own", "other", "mixture", "elsewhere", "converged", "fixed", "empty own", "empty any")
    print(f"  {'T / K':<7}{'start':<40}" + "".join(f"{column:>11}" for column in columns))
    table = {}
    for length in sorted({max(1, slots // 2), slots, 2 * slots}):
        if length > len(data.images):
            continue
        # Other functions of this report take fewer episodes; shares of queries need many.
        episodes = Episodes(data.images, length, min(16, len(data.images) // length), seed=data.seed)
        patterns = episodes[0].to(machine.log_code_scale.device)
        for name, (damage, channel) in starts.items():
            found = evaluation.evaluate_attractors(machine, [patterns], damage, channel=channel, seed=data.seed)
            shares = (*found.right, found.converged, found.stored_fixed_points, found.empty.own, found.empty.stored)
            print(f"  {length / slots:<7.2f}{name:<40}" + "".join(f"{share:11.1%}" for share in shares))
            content = found._asdict() | {"right": found.right._asdict(), "empty": found.empty._asdict()}
            table[f"{length} patterns in {slots} slots, {name}"] = {"episodes": len(patterns), **content}
    return table


def _recognize(machine: KanervaMachine, data: HeldOut, length: int, keep: Callable[[str, Any, Axes], None]) -> None:
    _progress("recognition")
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
            samples_of_memory = memory.generate(32, num_steps=10, matrix=matrix)[0]
            grid = plotting.image_grid(samples_of_memory, ink=_is_binary(machine))
            path = run / f"samples_{name.replace(' ', '_')}.png"
            print(f"  picture: {save(grid, path)}")
