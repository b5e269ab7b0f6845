"""The options of the command ``pyro-kanerva``, and their defaults."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyro_kanerva.cli.run import DEFAULT_RUN
from pyro_kanerva.weights import ADDRESS_PRIORS, NAMES, NETWORKS

Command = Callable[[argparse.Namespace], None]

#: Defaults for address priors that say "one of these slots".
SLOTS: dict[str, Any] = {
    "network": "linear", "width": 448, "code_size": 200, "code_scale": 0.1, "memory_scale": 1.0,
    "steps": 3000, "learning_rate": 2e-3, "memory_kl_weight": 0.0,
}  # fmt: skip

#: Defaults for address priors on all of R^K or on the simplex, which mix slots.
PAPER: dict[str, Any] = {
    "network": "conv", "width": 32, "code_size": 100, "code_scale": 1.0, "memory_scale": None,
    "steps": 400, "learning_rate": 6e-3, "memory_kl_weight": 0.4,
}  # fmt: skip

RECIPES = {name: SLOTS if name in ("mixture", "slots") else PAPER for name in ADDRESS_PRIORS}

_DESCRIPTION = """\
A generative memory: store an episode of images in a memory matrix by Bayesian inference, and recall
them from damaged cues.

  pyro-kanerva train                        train on letters of many scripts, a few minutes
  pyro-kanerva train --data images.npz      train on your own images
  pyro-kanerva query --noise 0.3            store an episode, recall it from cues with 30% noise
  pyro-kanerva generate                     store an episode, and draw new images from its memory

  pyro-kanerva query --pretrained letters   the same with a trained machine of the package
  pyro-kanerva export --out FILE            write your machine to a small file, for --pretrained FILE

Every command reads and writes one folder, the run: --run kanerva-run. With --pretrained it is kanerva-NAME.
"""


def _float_or_none(text: str) -> float | None:
    return None if text == "None" else float(text)


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of the command line; its option ``command`` is one of ``commands``."""
    result = argparse.ArgumentParser(
        prog="pyro-kanerva", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subparsers = result.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(
            name, help=text, description=text + ".", formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(command=commands[name])
        sub.add_argument("--run", type=Path, default=DEFAULT_RUN, help="folder of the run")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda, ...; auto is a GPU if there is one")
        return sub

    train = add("train", "train a machine, evaluate it on held-out images, and draw what it recalls")
    data = train.add_argument_group("data")
    sources = "glyphs, which are letters from matplotlib's fonts; an .npz, .npy or IDX file; or a folder of pictures"
    data.add_argument("--data", default="glyphs", help=sources)
    held_out = "number of images held out for evaluation, chosen at random; default: a quarter"
    data.add_argument("--held-out", type=int, help=held_out)
    where = "hold out the images of an .npz file whose integer label NAME is VALUE, for example split=1"
    data.add_argument("--held-out-where", metavar="NAME=VALUE", help=where)
    data.add_argument("--episode-length", type=int, default=32, help="patterns stored in one memory, T")
    data.add_argument("--batch-size", type=int, default=8, help="episodes in a training step, B")
    machine = train.add_argument_group("machine")
    machine.add_argument("--slots", type=int, default=32, help="rows of the memory, K")
    kinds = "mixture, a Gaussian around each slot; slots, one pattern in each; gaussian, the paper's; or another one"
    machine.add_argument("--address-prior", choices=RECIPES, default="mixture", help=kinds)
    training = train.add_argument_group("training")

    def add_recipe(
        group: argparse._ArgumentGroup, name: str, kind: Callable[[str], Any], text: str, **more: Any
    ) -> None:
        """An option whose default depends on the address prior."""
        defaults = [recipe[name.replace("-", "_")] for recipe in (SLOTS, PAPER)]
        text += f" (default: {defaults[0]} for mixture and slots, {defaults[1]} for other address priors)"
        group.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text, **more)

    networks = "linear encoder and decoder with a shortcut, mlp, or conv"
    add_recipe(machine, "network", str, networks, choices=NETWORKS)
    add_recipe(machine, "width", int, "units of a hidden layer, or channels of the first stage of conv")
    add_recipe(machine, "code-size", int, "columns of the memory, C")
    add_recipe(machine, "code-scale", float, "initial scale of the learned code noise, sigma")
    add_recipe(
        machine, "memory-scale", _float_or_none, "initial standard deviation of the memory prior; None: 1 / sqrt(slots)"
    )
    add_recipe(training, "steps", int, "training steps")
    add_recipe(training, "learning-rate", float, "largest learning rate of Adam")
    add_recipe(training, "memory-kl-weight", float, "weight of the memory's KL in the loss")
    training.add_argument("--autoencoder-weight", type=float, default=1.0, help="weight of the autoencoder term")
    training.add_argument("--seed", type=int, default=0, help="seed of parameters, data, noise and evaluation")
    training.add_argument("--checkpoint-every", type=int, default=200, help="steps between two checkpoints")
    training.add_argument(
        "--resume", action="store_true", help="continue from the checkpoint of the run; --steps may grow"
    )

    evaluate = add("evaluate", "bound and recall of a trained machine on held-out images, as at the end of train")
    evaluate.add_argument("--curves", action="store_true", help="all curves and tables, which takes minutes")
    for sub in (train, evaluate):
        sub.add_argument_group("evaluation").add_argument(
            "--recall-episodes", type=int, default=16, help="held-out episodes to recall from damaged cues"
        )

    export = add("export", "write a trained machine to one small file, with a card, for --pretrained")
    export.add_argument("--out", type=Path, required=True, help="file to write, for example letters.safetensors")
    export.add_argument("--source", default="", help="for the card: where the data come from")
    export.add_argument("--license", default="", help="for the card: the license of data and machine")
    query = add("query", "store an episode of held-out images, and recall it from damaged cues")
    query.add_argument("--noise", type=float, default=0.15, help="salt-and-pepper noise of the cues")
    query.add_argument("--steps", type=int, default=10, help="steps of the query")
    query.add_argument("--no-channel", action="store_true", help="query without a channel, by attractor dynamics")
    generate = add("generate", "store an episode of held-out images, and draw new ones from its memory")
    generate.add_argument("--samples", type=int, default=32, help="images to draw")
    generate.add_argument("--steps", type=int, default=10, help="steps of the dynamics that sharpen them")
    for sub, name in ((query, "query"), (generate, "samples")):
        sub.add_argument("--episode", type=int, default=0, help="which held-out episode to store")
        sub.add_argument("--seed", type=int, default=0, help="seed of the noise")
        sub.add_argument("--out", type=Path, help=f"picture to write; default: {name}.png in the run's folder")
    for sub in (evaluate, query, generate):
        trained = f"use a trained machine instead of a run: {', '.join(NAMES)}, or a file that export wrote"
        sub.add_argument("--pretrained", metavar="NAME", help=trained)
        sub.add_argument("--data", help="with --pretrained: images, as for train; default: the held-out letters")
        where = "with --data: only the images whose integer label NAME is VALUE, for example split=1"
        sub.add_argument("--data-where", metavar="NAME=VALUE", help=where)
    return result
