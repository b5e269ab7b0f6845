"""What the options of the command line open: a run, or a trained machine."""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from pyro_kanerva.runs import Run, check_size, images_of, load_run, missing_data
from pyro_kanerva.weights import pretrained, pretrained_card

#: The folder of a run, where ``--run`` is not given.
DEFAULT_RUN = Path("kanerva-run")


def find_device(name: str) -> torch.device:
    """The device ``name``; "auto" is a GPU if there is one.

    :raises ValueError: if the device is not available.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
        torch.zeros((), device=device).item()  # which "meta", a device without data, cannot do
        return device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}). Try auto.") from error


def open_machine(options: argparse.Namespace) -> Run:
    """The run, or with ``--pretrained`` a trained machine, with held-out letters or the images of ``--data``."""
    device = find_device(options.device)
    if options.pretrained is None:
        if options.data_where is not None:
            raise ValueError("--data-where goes with --pretrained; a run knows which images it held out.")
        if options.invert:
            raise ValueError("--invert goes with --pretrained and --data; a run inverts images as train did.")
        return load_run(options.run, options.data, device)
    # The card says whether the images of training were inverted; --invert says it of those of --data.
    config = {"episode_length": 32, **pretrained_card(options.pretrained)["config"], "invert": options.invert}
    machine = pretrained(options.pretrained).to(device)
    images = images_of(config, options.data or "glyphs", options.data_where)
    check_size(images, machine, options.pretrained)
    if options.run == DEFAULT_RUN:
        options.run = Path(f"kanerva-{Path(options.pretrained).stem}")
    if (options.run / "config.json").exists():
        raise ValueError(f"{options.run} holds a run of its own; pass another folder with --run for the pictures.")
    options.run.mkdir(parents=True, exist_ok=True)
    return Run(machine, config, images, None)


def held_out_images(options: argparse.Namespace, opened: Run) -> Tensor:
    """The held-out images, or a ``ValueError`` that says which data are missing."""
    if opened.held_out is None:
        raise ValueError(missing_data(options.run, opened.config))
    return opened.held_out
