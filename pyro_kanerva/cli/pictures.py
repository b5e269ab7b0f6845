"""Pictures of one's own, damage that fits a likelihood, and errors in words."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_kanerva.channels import Damage, Flip, GaussianNoise, SaltAndPepper
from pyro_kanerva.datasets import binarize
from pyro_kanerva.datasets.files import read_picture
from pyro_kanerva.likelihoods import DiscretizedLogisticLikelihood
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.runs import image_mode, is_binary, prepare

Noise = SaltAndPepper | Flip | GaussianNoise

#: Noise by name, called with its level.
NOISE: dict[str, Callable[[float], Noise]] = {
    "salt-and-pepper": SaltAndPepper, "flip": Flip, "gaussian": GaussianNoise,
}  # fmt: skip

SIDES = ("left", "right", "top", "bottom")


def own_pictures(config: Mapping[str, Any], paths: Sequence[Path], shape: tuple[int, ...]) -> Tensor:
    """Pictures as patterns (N,) + E, resized to E. In binary ones the smaller share of light and dark pixels is ink."""
    patterns = []
    for path in paths:
        picture = torch.tensor(read_picture(path, image_mode(config)))
        size, wanted = tuple(picture.shape[:2]), (shape[-2], shape[-1])
        notes = []
        if size != wanted:
            picture = torch.tensor(read_picture(path, image_mode(config), wanted))
            notes.append(f"resized from {size[0]} x {size[1]} to {wanted[0]} x {wanted[1]} (height x width)")
        picture = picture.movedim(-1, 0) if picture.dim() == 3 else picture.unsqueeze(0)
        if is_binary(config):
            dark_ink = bool((picture > 127).double().mean() > 0.5)
            pattern = binarize((255 - picture if dark_ink else picture).unsqueeze(0))[0]
            notes.append(f"{'dark' if dark_ink else 'light'} pixels are ink, {pattern.mean():.0%} of all")
            if not pattern.any():
                raise ValueError(
                    f"--image {path} is blank after binarizing at 128. Use a picture with thicker or stronger strokes."
                )
        else:
            pattern = prepare(config, picture.unsqueeze(0))[0]
        patterns.append(pattern)
        print(f"{path}: {'; '.join(notes) or 'taken as it is'}")
    return torch.stack(patterns)


def noise_of(config: Mapping[str, Any], kind: str | None, level: float) -> Noise:
    """The noise ``kind``, by default the one that fits the likelihood.

    :raises ValueError: if the noise does not fit the likelihood, or the level is out of range.
    """
    fitting = ("salt-and-pepper", "flip") if is_binary(config) else ("gaussian",)
    kind = fitting[0] if kind is None else kind
    if kind not in fitting:
        raise ValueError(
            f"--noise-kind {kind} does not fit the likelihood {config['likelihood']}; expected {' or '.join(fitting)}."
        )
    return NOISE[kind](level)


def legal_cues(machine: KanervaMachine, damage: Damage) -> Damage:
    """``damage`` for queries without a channel, whose cues must be legal patterns: levels are rounded."""
    if not isinstance(machine.likelihood, DiscretizedLogisticLikelihood):
        return damage
    top = machine.likelihood.num_levels - 1

    def rounded(patterns: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return (damage(patterns, generator).clamp(0, 1) * top).round() / top

    return rounded


def half(side: str, shape: tuple[int, ...]) -> Tensor:
    """A mask of ``shape`` E, True in the half of an image on one of :data:`SIDES`."""
    mask = torch.zeros(shape, dtype=torch.bool)
    rows, columns = shape[-2] // 2, shape[-1] // 2
    part = {
        "left": (slice(None), slice(columns)),
        "right": (slice(None), slice(columns, None)),
        "top": (slice(rows), slice(None)),
        "bottom": (slice(rows, None), slice(None)),
    }[side]
    mask[(..., *part)] = True
    return mask


def error_name(metric: str) -> str:
    """What an error of images is called."""
    return "wrong pixels" if metric == "wrong entries" else "RMSE"
