"""The command ``pyro-kanerva``: train, evaluate, query and generate on images."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_kanerva import _files, report
from pyro_kanerva.channels import SaltAndPepper
from pyro_kanerva.datasets import Episodes, glyphs, load_images
from pyro_kanerva.evaluation import recall_error
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.networks import ConvDecoder, ConvEncoder
from pyro_kanerva.priors import GaussianMemory
from pyro_kanerva.training import fit, load_state
from pyro_kanerva.writers import OnlineWriter

_DESCRIPTION = """\
A generative memory: store an episode of images in a memory matrix by Bayesian inference, and recall
them from damaged cues.

  pyro-kanerva train                        learn on letters of many scripts, a few minutes
  pyro-kanerva train --data images.npz      learn on your own images
  pyro-kanerva query --noise 0.3            store an episode, recall it from cues with 30% noise
  pyro-kanerva generate                     store an episode, and dream of it

Every command reads and writes one folder, the run: --run kanerva-run.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"pyro-kanerva: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyro-kanerva: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pyro-kanerva", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text + ".", formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(command=command)
        sub.add_argument("--run", type=Path, default=Path("kanerva-run"), help="folder of the run")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda, ...; auto takes a GPU where there is one")
        return sub

    train = add("train", _train, "train a machine, evaluate it on held-out images, and draw what it recalls")
    data = train.add_argument_group("data")
    data.add_argument("--data", default="glyphs", help="glyphs (embedded), or an .npz, .npy, IDX file or folder")
    data.add_argument(
        "--held-out", type=int, help="images held out for the evaluation, a random split; default: a quarter"
    )
    data.add_argument(
        "--held-out-where",
        metavar="NAME=VALUE",
        help="hold out the images of an .npz file whose integer label NAME is VALUE, for example split=1",
    )
    data.add_argument("--episode-length", type=int, default=32, help="patterns stored in one memory, T")
    data.add_argument("--batch-size", type=int, default=8, help="episodes in a training step, B")
    machine = train.add_argument_group("machine")
    machine.add_argument("--slots", type=int, default=32, help="rows of the memory, K")
    machine.add_argument("--code-size", type=int, default=100, help="columns of the memory, C")
    machine.add_argument("--width", type=int, default=32, help="channels of the networks' first stage")
    machine.add_argument("--block-size", type=int, default=8, help="patterns written at once")
    machine.add_argument("--sweeps", type=int, default=1, help="coordinate-ascent sweeps after writing")
    machine.add_argument("--code-scale", type=float, default=1.0, help="start of the learned code noise, sigma")
    training = train.add_argument_group("training")
    training.add_argument("--steps", type=int, default=400, help="training steps")
    training.add_argument("--learning-rate", type=float, default=6e-3, help="largest learning rate of Adam")
    training.add_argument("--autoencoder-weight", type=float, default=1.0, help="weight of the autoencoder term")
    training.add_argument("--memory-kl-weight", type=float, default=0.4, help="weight of the memory's KL in the loss")
    training.add_argument("--seed", type=int, default=0, help="of parameters, data, noise and evaluation")
    training.add_argument("--checkpoint-every", type=int, default=200, help="steps between two checkpoints")
    training.add_argument("--resume", action="store_true", help="go on from the checkpoint of the run")

    evaluate = add("evaluate", _evaluate, "draw every curve of a trained machine on held-out images; takes minutes")
    evaluate.add_argument(
        "--group-by",
        metavar="NAME",
        help="integer label of an .npz file: recognition and generation take episodes of one group",
    )
    evaluate.add_argument(
        "--rate-distortion", metavar="RUN", nargs="+", type=Path, default=[], help="runs on the same data to compare"
    )
    for sub in (train, evaluate):
        sub.add_argument_group("evaluation").add_argument(
            "--recall-episodes", type=int, default=16, help="held-out episodes that are recalled from damaged cues"
        )

    query = add("query", _query, "store an episode of held-out images, and recall it from damaged cues")
    query.add_argument("--noise", type=float, default=0.15, help="salt-and-pepper noise of the cues")
    query.add_argument("--steps", type=int, default=10, help="steps of the query")
    query.add_argument("--no-channel", action="store_true", help="do not tell the query about the noise")
    generate = add("generate", _generate, "store an episode of held-out images, and draw new ones from its memory")
    generate.add_argument("--samples", type=int, default=32, help="images to draw")
    generate.add_argument("--steps", type=int, default=0, help="steps of the dynamics that sharpen them")
    for sub, name in ((query, "query"), (generate, "samples")):
        sub.add_argument("--episode", type=int, default=0, help="which held-out episode to store")
        sub.add_argument("--seed", type=int, default=0, help="of the noise")
        sub.add_argument("--out", type=Path, help=f"picture to write; default: {name}.png in the run's folder")
    return parser


# ---------------------------------------------------------------------- parts of a run

_CONFIG = (
    *(
        "data",
        "held_out",
        "held_out_where",
        "episode_length",
        "batch_size",
        "slots",
        "code_size",
        "width",
        "block_size",
        "sweeps",
    ),
    *("code_scale", "steps", "learning_rate", "autoencoder_weight", "memory_kl_weight", "seed"),
)


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}). Try auto.") from error


def _images(config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Training and held-out images."""
    if config["data"] == "glyphs":
        if config["held_out"] is not None or config["held_out_where"] is not None:
            raise ValueError("--held-out goes with --data PATH; the glyphs are split by character.")
        return glyphs("train").images, glyphs("test").images
    if config["held_out_where"] is not None:
        return _split_by_label(config["data"], config["held_out_where"], config["held_out"])
    images = load_images(config["data"]).images
    held_out = len(images) // 4 if config["held_out"] is None else config["held_out"]
    if not 0 < held_out < len(images):
        raise ValueError(f"--held-out is {held_out}; expected 1 to {len(images) - 1}, fewer than there are images.")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config["seed"]))
    return images[order[held_out:]], images[order[:held_out]]


def _split_by_label(data: str, where: str, held_out: int | None) -> tuple[Tensor, Tensor]:
    if held_out is not None:
        raise ValueError("--held-out and --held-out-where are two ways to hold images out; pass one of them.")
    name, _, value = where.partition("=")
    if not value.lstrip("-").isdigit():
        raise ValueError(f"--held-out-where is {where}; expected NAME=VALUE with an integer VALUE, as in split=1.")
    images, labels = load_images(data, name)
    chosen = torch.zeros(0, dtype=torch.bool) if labels is None else labels == int(value)
    if not 0 < int(chosen.sum()) < len(images):
        raise ValueError(f"--held-out-where {where} holds out {int(chosen.sum())} of {len(images)} images.")
    return images[~chosen], images[chosen]


def _held_out(config: dict[str, Any], images: Tensor, most: int | None = None) -> Episodes:
    """One epoch of held-out episodes, in batches of some 16; all of them, or at most ``most``."""
    length = config["episode_length"]
    number = len(images) // length if most is None else min(most, len(images) // length)
    if number < 1:
        raise ValueError(f"{len(images)} held-out images make no episode of {length}; raise --held-out.")
    batch_size = max(size for size in range(1, 17) if number % size == 0)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config["seed"] + 1))
    return Episodes(images[order[: number * length]], length, batch_size, seed=config["seed"])


def _build(config: dict[str, Any], event_shape: Sequence[int], device: torch.device) -> KanervaMachine:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        machine = KanervaMachine(
            ConvEncoder(event_shape, config["code_size"], config["width"]),
            ConvDecoder(config["code_size"], event_shape, config["width"]),
            memory_prior=GaussianMemory(config["slots"], config["code_size"]),
            writer=OnlineWriter(config["block_size"], config["sweeps"]),
            code_scale=config["code_scale"],
        )
    return machine.to(device)


def _config(run: Path) -> dict[str, Any]:
    path = run / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError:
        config = {}
    except FileNotFoundError:
        raise ValueError(f"{run} holds no run; make one with: pyro-kanerva train --run {run}") from None
    if set(config) != set(_CONFIG):
        raise ValueError(f"{path} is broken or of another version; restore it, or train anew in another folder.")
    return config


def _open(options: argparse.Namespace) -> tuple[dict[str, Any], KanervaMachine, Tensor, torch.device]:
    """Configuration, trained machine, held-out images and device of a run."""
    device = _device(options.device)
    config = _config(options.run)
    images = _images(config)[1]
    machine = _build(config, (1, *images.shape[1:]), device)
    path = options.run / "checkpoint.pt"
    load_state(machine, _files.load(path, "checkpoint", device)[1]["machine"], path)
    return config, machine, images, device


# ---------------------------------------------------------------------- commands


def _train(options: argparse.Namespace) -> None:
    device = _device(options.device)
    config = {name: getattr(options, name) for name in _CONFIG}
    if config["data"] != "glyphs":
        config["data"] = str(Path(config["data"]).resolve())
    train, test = _images(config)
    machine = _build(config, (1, *train.shape[1:]), device)
    _held_out(config, test, options.recall_episodes)  # complain before training, not after it
    print(
        f"{len(train)} training images, {len(test)} held out; {sum(p.numel() for p in machine.parameters())} parameters"
    )
    options.run.mkdir(parents=True, exist_ok=True)
    path = options.run / "config.json"
    if options.resume:
        stored = _config(options.run)
        changed = [name for name, value in config.items() if value != stored[name]]
        if changed:
            told = "; ".join(f"{name} was {stored[name]}, now {config[name]}" for name in changed)
            raise ValueError(f"--resume goes with the arguments of the run: {told}. Pass the same.")
    elif not (options.run / "checkpoint.pt").exists():  # else fit complains
        _files.write_text(path, json.dumps(config, indent=2))
    start = time.perf_counter()
    result = fit(
        machine,
        Episodes(train, config["episode_length"], config["batch_size"], seed=config["seed"]),
        num_steps=config["steps"],
        learning_rate=config["learning_rate"],
        autoencoder_weight=config["autoencoder_weight"],
        memory_kl_weight=config["memory_kl_weight"],
        seed=config["seed"],
        folder=options.run,
        resume=options.resume,
        checkpoint_every=options.checkpoint_every,
    )
    if result.interrupted:
        print(f"Stopped after step {len(result.losses)}; go on with the same command and --resume.")
        return
    print(f"trained in {time.perf_counter() - start:.0f} s")
    _report(options, config, machine, test, device)


def _evaluate(options: argparse.Namespace) -> None:
    config, machine, images, device = _open(options)
    others = []
    for run in options.rate_distortion:
        other, other_machine, _, _ = _open(argparse.Namespace(run=run, device=options.device))
        if (other["data"], other["held_out"], other["held_out_where"]) != (
            config["data"],
            config["held_out"],
            config["held_out_where"],
        ):
            raise ValueError(f"--rate-distortion: {run} was trained on other data than {options.run}.")
        others.append((other["memory_kl_weight"], other_machine))
    groups = None
    if options.group_by is not None:
        groups = _held_out_labels(config, options.group_by)
    _report(options, config, machine, images, device)
    data = report.HeldOut(
        all_batches=_batches(_held_out(config, images), device),
        recalled=_batches(_held_out(config, images, options.recall_episodes), device),
        images=images,
        groups=groups,
        episode_length=config["episode_length"],
        seed=config["seed"],
    )
    report.full(options.run, machine, data, others)


def _batches(episodes: Episodes, device: torch.device) -> list[Tensor]:
    return [patterns.to(device) for patterns in episodes]


def _held_out_labels(config: dict[str, Any], name: str) -> Tensor:
    """The integer label ``name`` of every held-out image."""
    if config["held_out_where"] is None:
        raise ValueError("--group-by goes with a run that was trained with --held-out-where.")
    labels = load_images(config["data"], name).labels
    where, _, value = config["held_out_where"].partition("=")
    chosen = load_images(config["data"], where).labels
    if labels is None or chosen is None:
        raise ValueError(f"--group-by: {config['data']} holds no labels; it must be an .npz file with an array {name}.")
    groups = labels[chosen == int(value)]
    largest = int(groups.unique(return_counts=True)[1].max())
    if largest < 2 * config["episode_length"]:
        raise ValueError(
            f"--group-by {name}: the largest group has {largest} images; expected one of at least "
            f"{2 * config['episode_length']}, two episodes."
        )
    return groups


def _report(
    options: argparse.Namespace, config: dict[str, Any], machine: KanervaMachine, test: Tensor, device: torch.device
) -> None:
    """The table and figures on held-out data."""
    recalled = _batches(_held_out(config, test, options.recall_episodes), device)
    report.brief(options.run, machine, _batches(_held_out(config, test), device), recalled, config["seed"])


def _episode(options: argparse.Namespace, config: dict[str, Any], images: Tensor) -> Tensor:
    episodes = Episodes(images, config["episode_length"], 1, seed=config["seed"])
    if not 0 <= options.episode < len(episodes):
        raise ValueError(f"--episode is {options.episode}; expected 0 to {len(episodes) - 1}.")
    return episodes[options.episode]


def _query(options: argparse.Namespace) -> None:
    from pyro_kanerva import plotting

    config, machine, images, device = _open(options)
    patterns = _episode(options, config, images).to(device)
    noise = SaltAndPepper(options.noise)
    cues = noise(patterns, torch.Generator(device).manual_seed(options.seed))
    memory = machine.write(patterns)
    retrieval = memory.query(cues, num_steps=options.steps, channel=None if options.no_channel else noise)
    error = recall_error(patterns, retrieval)
    print(f"wrong pixels: cue {error.cue:.2%}, " + ", ".join(f"{n}: {e:.2%}" for n, e in enumerate(error.steps, 1)))
    strips = plotting.recall_strips(retrieval, patterns, num_cues=12)
    print(f"picture: {report.save(strips, options.out or options.run / 'query.png')}")


def _generate(options: argparse.Namespace) -> None:
    from pyro_kanerva import plotting

    config, machine, images, device = _open(options)
    patterns = _episode(options, config, images).to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        samples = machine.write(patterns).generate(options.samples, num_steps=options.steps)
    grid = plotting.image_grid(samples[0])
    print(f"picture: {report.save(grid, options.out or options.run / 'samples.png')}")
