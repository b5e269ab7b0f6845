"""The command ``pyro-kanerva``: train, evaluate, query and generate on images."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_kanerva import _files, plotting
from pyro_kanerva.channels import SaltAndPepper
from pyro_kanerva.cli import report
from pyro_kanerva.cli.options import parser
from pyro_kanerva.cli.run import (
    CONFIG,
    batches_on,
    build_machine,
    find_device,
    held_out_episodes,
    load_config,
    load_split,
    open_run,
)
from pyro_kanerva.datasets import Episodes
from pyro_kanerva.evaluation import recall_error
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.training import fit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = parser(COMMANDS).parse_args(arguments)
    try:
        options.command(options)
    except (ValueError, OSError) as error:
        print(f"pyro-kanerva: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyro-kanerva: interrupted", file=sys.stderr)
        return 130
    return 0


def _train(options: argparse.Namespace) -> None:
    device = find_device(options.device)
    config = {name: getattr(options, name) for name in CONFIG}
    if config["data"] != "glyphs":
        config["data"] = str(Path(config["data"]).resolve())
    train, test = load_split(config)
    machine = build_machine(config, (1, *train.shape[1:]), device)
    held_out_episodes(config, test, options.recall_episodes)  # raise errors before training, not after it
    print(
        f"{len(train)} training images, {len(test)} held out; {sum(p.numel() for p in machine.parameters())} parameters"
    )
    options.run.mkdir(parents=True, exist_ok=True)
    path = options.run / "config.json"
    if options.resume:
        stored = load_config(options.run)
        changed = [name for name, value in config.items() if value != stored[name]]
        if changed:
            changes = "; ".join(f"{name} was {stored[name]}, now {config[name]}" for name in changed)
            raise ValueError(f"--resume goes with the arguments of the run: {changes}. Pass the same.")
    elif not (options.run / "checkpoint.pt").exists():  # else fit raises
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
    config, machine, images, device = open_run(options.run, options.device)
    _report(options, config, machine, images, device)
    data = report.HeldOut(
        recalled=batches_on(device, held_out_episodes(config, images, options.recall_episodes)),
        images=images,
        episode_length=config["episode_length"],
        seed=config["seed"],
    )
    report.all_figures(options.run, machine, data)


def _report(
    options: argparse.Namespace, config: dict[str, Any], machine: KanervaMachine, test: Tensor, device: torch.device
) -> None:
    recalled = batches_on(device, held_out_episodes(config, test, options.recall_episodes))
    every = batches_on(device, held_out_episodes(config, test))
    report.summary(options.run, machine, every, recalled, config["seed"])


def _episode(options: argparse.Namespace, config: dict[str, Any], images: Tensor) -> Tensor:
    episodes = Episodes(images, config["episode_length"], 1, seed=config["seed"])
    if not 0 <= options.episode < len(episodes):
        raise ValueError(f"--episode is {options.episode}; expected 0 to {len(episodes) - 1}.")
    return episodes[options.episode]


def _query(options: argparse.Namespace) -> None:
    config, machine, images, device = open_run(options.run, options.device)
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
    config, machine, images, device = open_run(options.run, options.device)
    patterns = _episode(options, config, images).to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        samples = machine.write(patterns).generate(options.samples, num_steps=options.steps)
    grid = plotting.image_grid(samples[0])
    print(f"picture: {report.save(grid, options.out or options.run / 'samples.png')}")


COMMANDS = {"train": _train, "evaluate": _evaluate, "query": _query, "generate": _generate}
