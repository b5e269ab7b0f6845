"""The command ``pyro-kanerva``: train, evaluate, query and generate on images, and a page to play with."""

import argparse
import errno
import json
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_kanerva import _files, plotting, runs
from pyro_kanerva.channels import Channel, Occlusion
from pyro_kanerva.cli import pictures, report
from pyro_kanerva.cli.opening import DEFAULT_RUN, find_device, held_out_images, open_machine
from pyro_kanerva.cli.options import RECIPES, arguments_of, flag, parser, read_config
from pyro_kanerva.datasets import Episodes
from pyro_kanerva.evaluation import (
    RecallControl,
    control_memories,
    entry_error,
    error_text,
    likelihood_metric,
    recall_error,
)
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.playground import write_page
from pyro_kanerva.training import fit
from pyro_kanerva.weights import MIXING_PRIORS, build_machine, export_machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    shown: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in shown:
            print(f"pyro-kanerva: warning: {message}", file=sys.stderr)
        shown.add(str(message))

    try:
        options = parser(COMMANDS).parse_args(arguments)
        with warnings.catch_warnings():
            warnings.showwarning = show
            if options.command is _train and (options.config is not None or options.resume):
                options = parser(COMMANDS).parse_args(["train", *_stored_arguments(options), *arguments[1:]])
            options.command(options)
    except (ValueError, OSError) as error:
        remedy = _REMEDIES.get(error.errno or 0, "") if isinstance(error, OSError) else ""
        print(f"pyro-kanerva: error: {_with_flags(str(error))}{remedy}", file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        reason = str(error).partition("\n")[0]
        if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory|overflow", reason):
            raise
        print(f"pyro-kanerva: error: not enough memory ({reason}). {_SMALLER}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pyro-kanerva: interrupted", file=sys.stderr)
        return 130
    return 0


_SMALLER = "Lower --slots, --code-size, --width, --batch-size or --episode-length, or --samples of generate."


_REMEDIES = dict.fromkeys((errno.ENOSPC, errno.EDQUOT), ". Free some space, or pass a folder on another disk: --run.")
_REMEDIES |= dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ". Change its permissions, or pass another path.")


def _with_flags(message: str) -> str:
    """``message`` with the options of the command line in place of Python's arguments."""
    names = "|".join(name for name in runs.CONFIG if "_" in name)
    return re.sub(rf"(?<![\w/-])({names})(?![\w/-])", lambda match: flag(match[0]), message)


def _stored_arguments(options: argparse.Namespace) -> list[str]:
    """The options of ``train`` in the file of --config, and with --resume those of the run."""
    if options.config is None:
        return arguments_of(runs.load_config(options.run))
    return arguments_of(read_config(options.config, lambda words: parser(COMMANDS).parse_args(["train", *words])))


def _train(options: argparse.Namespace) -> None:
    device = find_device(options.device)
    chosen = {**RECIPES[options.address_prior], **vars(options)}
    chosen.setdefault("likelihood", "normal" if options.color else "bernoulli")
    config = {name: chosen[name] for name in runs.CONFIG}
    if config["data"] != "glyphs":
        if not Path(config["data"]).exists():
            raise ValueError(f"--data {config['data']}: there is no such file or folder.")
        config["data"] = str(Path(config["data"]).resolve())  # valid in other working directories
    if config["writer"] is not None and config["address_prior"] not in MIXING_PRIORS:
        raise ValueError(
            f"--writer {config['writer']} mixes slots, which does not fit --address-prior {config['address_prior']}. "
            f"Leave --writer out, or use --address-prior {' or '.join(MIXING_PRIORS)}."
        )
    train, test = runs.load_split(config)
    if config["data"] != "glyphs":
        config[runs.DIGEST] = runs.digest(train, test)
    _check_control(config, test)  # before training, not after it
    _check_batches(config, train)
    _choose_recall_episodes(options, config)
    machine = build_machine(config, runs.event_shape(train)).to(device)
    num_parameters = sum(parameter.numel() for parameter in machine.parameters())
    print(f"{len(train)} training images, {len(test)} held out; {num_parameters} parameters")
    print(runs.describe(config, train))
    if options.resume:
        stored = runs.load_config(options.run)
        changed = [name for name in runs.CONFIG if config[name] != stored[name]]
        if "data" in changed and stored.get(runs.DIGEST, "unknown") == config.get(runs.DIGEST):
            changed.remove("data")  # the file has moved
        if "steps" in changed and config["steps"] > stored["steps"]:
            changed.remove("steps")  # a run may train longer than planned
        if changed:
            changes = "; ".join(f"{flag(name)} was {stored[name]}, now {config[name]}" for name in changed)
            raise ValueError(f"--resume goes with the options of the run: {changes}. Only --steps may grow.")
        if config.get(runs.DIGEST) != stored.get(runs.DIGEST, config.get(runs.DIGEST)):
            raise ValueError(
                f"--data {config['data']} holds other images than those of the run. Pass those, or train anew."
            )
    elif (options.run / "checkpoint.pt").exists():
        raise ValueError(
            f"--run {options.run} holds a checkpoint already. Continue it with --resume, or pass another folder."
        )
    options.run.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with _files.locked(options.run):
        if not options.resume:
            _write_config(options, config)
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
        _write_config(options, config)  # a resumed run may have more steps than planned
    if result.interrupted:
        print(f"Stopped after step {len(result.losses)}. Go on: pyro-kanerva train --run {options.run} --resume")
        raise KeyboardInterrupt
    print(f"trained in {time.perf_counter() - start:.0f} s")
    _report(options, config, machine, test, device)
    chosen_run = "" if options.run == DEFAULT_RUN else f" --run {options.run}"
    print(f"\nuse it:       pyro-kanerva query{chosen_run} --noise 0.3; also the commands generate, evaluate --curves")
    print(f"in Python:    machine = pyro_kanerva.load_run({str(options.run)!r}).machine")
    print(f"train longer: pyro-kanerva train{chosen_run} --resume --steps {2 * config['steps']}")


def _write_config(options: argparse.Namespace, config: dict[str, Any]) -> None:
    _files.write_text(options.run / "config.json", json.dumps(config, indent=2))


def _evaluate(options: argparse.Namespace) -> None:
    opened = open_machine(options)
    images, config, machine = held_out_images(options, opened), opened.config, opened.machine
    _choose_recall_episodes(options, config)
    recalled = _report(options, config, machine, images, machine.log_code_scale.device)
    if options.curves:
        data = report.HeldOut(recalled, images, config["episode_length"], config["seed"])
        report.all_figures(options.run, machine, data)


def _choose_recall_episodes(options: argparse.Namespace, config: dict[str, Any]) -> None:
    if options.recall_episodes is None:
        options.recall_episodes = 2 if config["likelihood"] == "logistic" else 16


def _report(
    options: argparse.Namespace, config: dict[str, Any], machine: KanervaMachine, images: Tensor, device: torch.device
) -> list[Tensor]:
    """Report a summary on the held-out ``images``; returns the batches of episodes that were recalled."""
    _check_control(config, images)
    recalled = runs.batches_on(device, runs.held_out_episodes(config, images, options.recall_episodes))
    all_batches = runs.batches_on(device, runs.held_out_episodes(config, images))
    runs.save_episodes(options.run, torch.cat(recalled[:2])[:2])
    report.summary(options.run, machine, all_batches, recalled, config["seed"])
    return recalled


def _check_control(config: dict[str, Any], images: Tensor) -> None:
    """:raises ValueError: if there is no other episode, whose memory the control of recall queries."""
    length, most = config["episode_length"], len(images) // 2
    if length > most:
        raise ValueError(
            f"--episode-length {length}: {len(images)} held-out images make no two episodes, and the control of recall "
            f"queries the memory of another episode. {f'Use at most {most}, or hold' if most else 'Hold'} out more "
            "images."
        )


def _check_batches(config: dict[str, Any], images: Tensor) -> None:
    """:raises ValueError: if there are too few images for a batch of training."""
    length, size = config["episode_length"], config["batch_size"]
    if len(images) < length:
        raise ValueError(f"--episode-length {length}: there are {len(images)} training images. Use at most that many.")
    if len(images) < length * size:
        raise ValueError(
            f"--batch-size {size}: {len(images)} training images make {len(images) // length} episodes of {length}. "
            "Use at most that many, or a smaller --episode-length."
        )


def _episodes(options: argparse.Namespace, opened: runs.Run) -> tuple[Tensor, Tensor]:
    """The episode (1, T) + E that the options choose, and another one."""
    if options.episode is None and opened.episodes is not None:
        return opened.episodes[:1], opened.episodes[1:]
    images, device = held_out_images(options, opened), opened.machine.log_code_scale.device
    episodes = Episodes(images, opened.config["episode_length"], 1, seed=opened.config["seed"])
    chosen = 0 if options.episode is None else options.episode
    if not 0 <= chosen < len(episodes):
        raise ValueError(f"--episode is {chosen}; expected 0 to {len(episodes) - 1}.")
    return episodes[chosen].to(device), episodes[(chosen + 1) % len(episodes)].to(device)


def _query(options: argparse.Namespace) -> None:
    opened = open_machine(options)
    machine, device = opened.machine, opened.machine.log_code_scale.device
    if opened.held_out is not None:
        _check_control(opened.config, opened.held_out)
    patterns, other = _episodes(options, opened)
    own = options.image
    if len(own) > patterns.shape[1]:
        raise ValueError(f"--image has {len(own)} files; expected at most {patterns.shape[1]}, those of an episode.")
    if own:
        patterns = patterns.clone()
        patterns[0, : len(own)] = pictures.own_pictures(opened.config, own, tuple(patterns.shape[2:]))
    damage, hidden = _damage(options, opened.config, patterns)
    make_cues = pictures.legal_cues(machine, damage) if options.no_channel else damage
    cues = make_cues(patterns, torch.Generator(device).manual_seed(options.seed))
    memories = control_memories(machine, [patterns, other])[0]._asdict()
    channel: Channel | None = None if options.no_channel else damage
    observed = ~hidden if options.no_channel and hidden is not None else None
    retrievals = {
        name: memory.query(cues, num_steps=options.steps, channel=channel, observed=observed)
        for name, memory in memories.items()
    }
    metric = likelihood_metric(machine, patterns)
    control = RecallControl(*(recall_error(patterns, retrieval, hidden, metric) for retrieval in retrievals.values()))
    where = "" if hidden is None else f" of the hidden half ({options.occlude})"
    print(f"{pictures.error_name(metric)}{where}: cue {error_text(control.right.cue, metric)}")
    for name, error in control._asdict().items():
        steps = (f"{n}: {error_text(e, metric)}" for n, e in enumerate(error.steps, 1))
        print(f"  {name} memory, by step: " + ", ".join(steps))
    print(f"memory gain, the error with the empty memory over that with the right one: {control.gain:.2f}")
    recalled = {f"{name} memory": retrieval.patterns[-1] for name, retrieval in retrievals.items()}
    for index, path in enumerate(own):
        one = slice(index, index + 1)
        errors = {
            name: entry_error(x[:, one], patterns[:, one], hidden, metric).item()
            for name, x in {"cue": cues, **recalled}.items()
        }
        print(f"{path}: " + ", ".join(f"{name} {error_text(e, metric)}" for name, e in errors.items()))
    ink = runs.is_binary(opened.config)
    picture = plotting.recall_comparison(patterns, cues, recalled, hidden=hidden, num_cues=12, ink=ink)
    print(f"picture: {report.save(picture, options.out or options.run / 'query.png')}")


def _damage(
    options: argparse.Namespace, config: dict[str, Any], patterns: Tensor
) -> tuple[pictures.Noise | Occlusion, Tensor | None]:
    """The damage that the options choose, and the entries that it hides, a mask of shape E."""
    if "occlude" not in options:
        return pictures.noise_of(config, getattr(options, "noise_kind", None), getattr(options, "noise", 0.15)), None
    if "noise" in options or "noise_kind" in options:
        raise ValueError("--occlude hides half of the cues in place of noise; leave --noise and --noise-kind out.")
    hidden = pictures.half(options.occlude, tuple(patterns.shape[2:])).to(patterns.device)
    return Occlusion(~hidden), hidden


def _generate(options: argparse.Namespace) -> None:
    opened = open_machine(options)
    machine, device = opened.machine, opened.machine.log_code_scale.device
    patterns, _ = _episodes(options, opened)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(options.seed)
        samples = machine.write(patterns).generate(options.samples, num_steps=options.steps)
    grid = plotting.image_grid(samples[0], ink=runs.is_binary(opened.config))
    print(f"picture: {report.save(grid, options.out or options.run / 'samples.png')}")


def _playground(options: argparse.Namespace) -> None:
    opened = open_machine(options)
    images, machine = held_out_images(options, opened), opened.machine
    number = min(len(images), max(8, machine.num_slots * 3 // 2))  # more than slots, to overload the memory
    patterns = Episodes(images, number, 1, seed=opened.config["seed"])[0][0]
    path, name = options.out or options.run / "playground.html", Path(options.pretrained or options.run).name
    write_page(path, machine, patterns.to(machine.log_code_scale.device), name)
    print(f"page: {path}, {path.stat().st_size / 1e6:.2f} MB; open it in a browser")


def _export(options: argparse.Namespace) -> None:
    opened = runs.load_run(options.run, options.data, find_device(options.device))
    machine, config = opened.machine, opened.config
    if config["data"] is not None:
        config["data"] = Path(config["data"]).name  # a path means nothing on another computer
    path = options.run / "evaluation.json"
    content = _files.read_json(path) if path.exists() else {}
    if content.get("parameters") != report.fingerprint(machine):
        raise ValueError(
            f"{path} is not an evaluation of these parameters, which the card needs. Run: pyro-kanerva evaluate --run "
            f"{options.run}"
        )
    card = {"license": options.license, "source": options.source, "evaluation": content}
    assert machine.event_shape is not None  # load_run() built the machine
    export_machine(options.out, machine, config, machine.event_shape, card)
    print(f"machine: {options.out}, {options.out.stat().st_size / 1e6:.2f} MB")


COMMANDS = {
    "train": _train, "evaluate": _evaluate, "query": _query, "generate": _generate, "playground": _playground,
    "export": _export,
}  # fmt: skip
