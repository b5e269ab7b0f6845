"""The options of the command ``pyro-kanerva``, and their defaults."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pyro_kanerva._files import read_json
from pyro_kanerva.cli.opening import DEFAULT_RUN
from pyro_kanerva.cli.option_types import (
    LARGEST,
    folder,
    integer,
    new_file,
    positive,
    positive_or_none,
    probability,
    weight,
)
from pyro_kanerva.cli.pictures import NOISE, SIDES
from pyro_kanerva.runs import CONFIG, DIGEST
from pyro_kanerva.weights import ADDRESS_PRIORS, LIKELIHOODS, MIXING_PRIORS, NAMES, NETWORKS, WRITERS

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
  pyro-kanerva train --resume --steps 6000  train the same machine longer
  pyro-kanerva query --noise 0.3            store an episode, recall it from cues with 30% noise
  pyro-kanerva generate                     store an episode, and draw new images from its memory

  pyro-kanerva query --pretrained letters   the same with a trained machine of the package
  pyro-kanerva query --pretrained letters --image mine.png --occlude right
                                            store your own image, recall it from its left half
  pyro-kanerva playground                   write a web page to play with the machine
  pyro-kanerva export --out FILE            write your machine to a small file, for --pretrained FILE

Every command reads and writes one folder, the run: --run kanerva-run. With --pretrained it is kanerva-NAME.
"""


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Appends the default, except for a switch, and for an option whose help says what is done without it."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 or action.default in (None, ""):
            return action.help
        return super()._get_help_string(action)


def flag(name: str) -> str:
    """The option of a key of config.json."""
    return f"--{name.replace('_', '-')}"


def arguments_of(config: Mapping[str, Any]) -> list[str]:
    """The options of ``train`` that set the values of a configuration."""
    # No option but --memory-scale has the text None: without a value they are None already.
    given = {name: config[name] for name in CONFIG if name in config}
    given = {name: value for name, value in given.items() if value is not None or name == "memory_scale"}
    switches = [flag(name) if value else f"--no-{name}" for name, value in given.items() if isinstance(value, bool)]
    return switches + [f"{flag(name)}={value}" for name, value in given.items() if not isinstance(value, bool)]


def read_config(path: Path, parse: Callable[[list[str]], argparse.Namespace]) -> dict[str, Any]:
    """The options in a file such as config.json of a run, which may leave options out.

    :param parse: the options of ``train`` from its arguments.
    :raises ValueError: if the file is no JSON mapping, or has an unknown key or a value of another type.
    """
    try:
        config = read_json(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"--config {path} is no JSON file of options. {error} Pass the config.json of a run."
        ) from error
    config.pop(DIGEST, None)  # of the images of that run
    unknown = [name for name in config if name not in CONFIG]
    if unknown:
        raise ValueError(
            f"--config {path} has the unknown key {unknown[0]!r}; expected keys as in config.json of a run."
        )
    parsed = parse(arguments_of(config))
    for name, value in config.items():
        if vars(parsed).get(name, "nothing") != value:  # such as the text "32", or None
            kind = type(value).__name__
            raise ValueError(f"--config {path}: {name} is {value!r}, of type {kind}; expected a value of {flag(name)}.")
    return config


def parser(commands: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of the command line; its option ``command`` is one of ``commands``."""
    result = argparse.ArgumentParser(
        prog="pyro-kanerva", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    version = sys.modules["pyro_kanerva"].__version__  # an import of the whole package would be a circle
    result.add_argument("--version", action="version", version=f"pyro-kanerva {version}")
    subparsers = result.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text + ".", formatter_class=_Help)
        sub.set_defaults(command=commands[name])
        sub.add_argument("--run", type=folder, default=DEFAULT_RUN, help="folder of the run")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda, ...; auto is a GPU if there is one")
        return sub

    train = add("train", "train a machine, evaluate it on held-out images, and draw what it recalls")
    options = "file with options of train, such as config.json of another run; options of the command override it"
    train.add_argument("--config", type=Path, metavar="FILE", help=options)
    data = train.add_argument_group("data")
    sources = "glyphs, which are letters from matplotlib's fonts; an .npz, .npy or IDX file; or a folder of pictures. "
    sources += "Images become grey, and are binarized at 128: ink is above; see --invert, --likelihood and --color"
    data.add_argument("--data", default="glyphs", help=sources)
    invert = "invert the images of --data: for dark ink on a light ground"
    data.add_argument("--invert", action=argparse.BooleanOptionalAction, default=False, help=invert)
    color = "keep the colors of --data, as three channels"
    data.add_argument("--color", action=argparse.BooleanOptionalAction, default=False, help=color)
    held_out = "number of images held out for evaluation, chosen at random; default: a quarter"
    data.add_argument("--held-out", type=integer(1), help=held_out)
    where = (
        "hold out the images of an .npz file whose integer label NAME is VALUE, for example split=1; default: images "
        "chosen at random"
    )
    data.add_argument("--held-out-where", metavar="NAME=VALUE", help=where)
    data.add_argument("--episode-length", type=integer(1, LARGEST), default=32, help="patterns stored in one memory, T")
    data.add_argument("--batch-size", type=integer(1, LARGEST), default=8, help="episodes in a training step, B")
    machine = train.add_argument_group("machine")
    machine.add_argument("--slots", type=integer(1, LARGEST), default=32, help="rows of the memory, K")
    kinds = "mixture, a Gaussian around each slot; slots, one pattern in each; gaussian, the paper's; or another one"
    machine.add_argument("--address-prior", choices=RECIPES, default="mixture", help=kinds)
    writers = (
        f"how q(M) is computed, for the address priors {', '.join(MIXING_PRIORS)}; online is the paper's rule; "
        "default: the writer that fits the address prior"
    )
    machine.add_argument("--writer", choices=WRITERS, help=writers)
    likelihoods = "bernoulli for binary images, logistic for 256 levels, normal for real levels from 0 to 1; default: "
    likelihoods += "bernoulli, with --color normal"
    machine.add_argument("--likelihood", choices=LIKELIHOODS, default=argparse.SUPPRESS, help=likelihoods)
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
    add_recipe(machine, "width", integer(1, LARGEST), "units of a hidden layer, or channels of the first stage of conv")
    add_recipe(machine, "code-size", integer(1, LARGEST), "columns of the memory, C")
    add_recipe(machine, "code-scale", positive, "initial scale of the learned code noise, sigma")
    add_recipe(
        machine,
        "memory-scale",
        positive_or_none,
        "initial standard deviation of the memory prior; None: 1 / sqrt(slots)",
    )
    add_recipe(training, "steps", integer(1), "training steps")
    add_recipe(training, "learning-rate", positive, "largest learning rate of Adam")
    add_recipe(training, "memory-kl-weight", weight, "weight of the memory's KL in the loss")
    training.add_argument("--autoencoder-weight", type=weight, default=1.0, help="weight of the autoencoder term")
    seed = integer(0, 2**32 - 1)
    training.add_argument("--seed", type=seed, default=0, help="seed of parameters, data, noise and evaluation")
    training.add_argument("--checkpoint-every", type=integer(1), default=200, help="steps between two checkpoints")
    resume = "continue the run from its checkpoint, with its options; --steps N trains it longer, to N steps in all"
    training.add_argument("--resume", action="store_true", help=resume)

    evaluate = add("evaluate", "bound and recall of a trained machine on held-out images, as at the end of train")
    evaluate.add_argument("--curves", action="store_true", help="all curves and tables, which takes minutes")
    for sub in (train, evaluate):
        sub.add_argument_group("evaluation").add_argument(
            "--recall-episodes",
            type=integer(2),
            help="held-out episodes to recall from damaged cues; default: 16, and 2 for logistic, whose recall is slow",
        )

    export = add("export", "write a trained machine to one small file, with a card, for --pretrained")
    export.add_argument("--out", type=new_file, required=True, help="file to write, for example letters.safetensors")
    export.add_argument("--source", default="", help="for the card: where the data come from")
    export.add_argument("--license", default="", help="for the card: the license of data and machine")
    query = add("query", "store an episode of held-out images, and recall it from damaged cues")
    pictures = "picture files to store beside the episode, in place of its first images, and to recall; they are "
    pictures += "resized, and of light and dark pixels the fewer are ink"
    query.add_argument("--image", type=Path, nargs="+", default=[], metavar="FILE", help=pictures)
    noise = "level of the noise of the cues, for gaussian a standard deviation; default: 0.15"
    query.add_argument("--noise", type=probability, default=argparse.SUPPRESS, help=noise)
    kind = "default: salt-and-pepper for binary images, else gaussian"
    query.add_argument("--noise-kind", choices=NOISE, default=argparse.SUPPRESS, help=kind)
    occlude = "hide this half of the cues in place of noise; errors are of the hidden half"
    query.add_argument("--occlude", choices=SIDES, default=argparse.SUPPRESS, help=occlude)
    query.add_argument("--steps", type=integer(1), default=10, help="steps of the query")
    query.add_argument("--no-channel", action="store_true", help="query without a channel, by attractor dynamics")
    generate = add("generate", "store an episode of held-out images, and draw new ones from its memory")
    generate.add_argument("--samples", type=integer(1, 10_000), default=32, help="images to draw")
    generate.add_argument("--steps", type=integer(0), default=10, help="steps of the dynamics that sharpen them")
    for sub, name in ((query, "query"), (generate, "samples")):
        episode = "which held-out episode to store; default: the one in the pictures of the run, else 0"
        sub.add_argument("--episode", type=integer(0), help=episode)
        sub.add_argument("--seed", type=seed, default=0, help="seed of the noise")
        sub.add_argument("--out", type=new_file, help=f"picture to write; default: {name}.png in the run's folder")
    playground = add("playground", "write a web page, one file without a network, to play with the memory of a machine")
    playground.add_argument("--out", type=new_file, help="page to write; default: playground.html in the run's folder")
    moved = "where the data of the run are, if they have moved"
    export.add_argument("--data", metavar="PATH", help=moved)
    for sub in (evaluate, query, generate, playground):
        sub.add_argument(
            "--data", metavar="PATH", help=f"{moved}; with --pretrained: images, default: held-out letters"
        )
        trained = (
            f"use a trained machine instead of a run: {', '.join(NAMES)}, or a file that export wrote; default: the run"
        )
        sub.add_argument("--pretrained", metavar="NAME", help=trained)
        where = "with --pretrained and --data: only images whose integer label NAME is VALUE; default: all images"
        sub.add_argument("--data-where", metavar="NAME=VALUE", help=where)
        invert = "with --data: invert the images, for dark ink on a light ground"
        sub.add_argument("--invert", action="store_true", help=invert)
    return result
