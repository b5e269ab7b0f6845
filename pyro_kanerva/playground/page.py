"""The page: sources and a machine in one HTML file, which needs no network and no other file."""

import base64
import copy
import html
import json
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pyro_kanerva import _files
from pyro_kanerva._files import PathLike
from pyro_kanerva.likelihoods import BernoulliLikelihood
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.networks import LinearEncoder, ShortcutDecoder
from pyro_kanerva.playground.golden import golden_vectors
from pyro_kanerva.priors import GaussianMemory, MixtureAddress
from pyro_kanerva.readers import MixtureReader
from pyro_kanerva.writers import MixtureWriter

_FOLDER = Path(__file__).parent
_SCRIPTS = (
    "linear_algebra.js", "algebra.js", "retrieval.js", "baselines.js", "drawing.js", "views.js", "playground.js",
    "tests.js",
)  # fmt: skip
_SMALL = 1024  # tensors of fewer entries stay in float32, as in files of trained machines

_SUPPORTED: dict[str, type] = {
    "encoder": LinearEncoder,
    "decoder": ShortcutDecoder,
    "memory_prior": GaussianMemory,
    "address_prior": MixtureAddress,
    "likelihood": BernoulliLikelihood,
    "writer": MixtureWriter,
    "reader": MixtureReader,
}


def write_page(path: PathLike, machine: KanervaMachine, patterns: Tensor, name: str = "") -> None:
    """Write the :func:`build_page` of a machine to a file, whole or not at all.

    :raises ValueError: as :func:`build_page`.
    """
    _files.write_text(path, build_page(machine, patterns, name))


def build_page(machine: KanervaMachine, patterns: Tensor, name: str = "") -> str:
    """A self-contained web page on which one writes, recalls and erases patterns with ``machine``.

    The page computes in JavaScript what the library computes: writing by :class:`MixtureWriter`, the exact address
    posterior, and the query whose energy never rises. It holds the parameters in float16, and results of the library
    for the same parameters, with which its self-test compares its own.

    :param machine: one of the default command line: :class:`LinearEncoder`, :class:`ShortcutDecoder`,
        :class:`GaussianMemory` with independent slots, :class:`MixtureAddress` and :class:`BernoulliLikelihood`.
    :param patterns: binary pictures to choose from, which training did not use, (N,) + E with N >= 8.
    :param name: of the machine, shown on the page.
    :raises ValueError: if the machine has another part, a parameter is beyond the range of float16, or the patterns
        do not fit it.
    """
    _check_machine(machine)
    patterns = machine.check_patterns(patterns, "playground")[0]
    if len(patterns) < 8:
        raise ValueError(f"playground: there are {len(patterns)} patterns; expected 8 or more. Pass more.")
    rounded: Any = _rounded(machine)  # its parts are those of _SUPPORTED
    content = {
        "name": name,
        "version": sys.modules["pyro_kanerva"].__version__,  # an import of the whole package would be a circle
        "height": patterns.shape[-2],
        "width": patterns.shape[-1],
        "tensors": {key: _packed(value) for key, value in _parameters(rounded).items()},
        "code_scale": rounded.code_scale.item(),
        "address_scale": rounded.address_prior.scale_tril[0, 0].item(),
        "sweeps": rounded.writer.sweeps,
        "patterns": [_bits(pattern) for pattern in patterns],
        "golden": _plain(golden_vectors(rounded, patterns.double())),
    }
    script = "\n".join((_FOLDER / part).read_text(encoding="utf-8") for part in _SCRIPTS)
    text = json.dumps(content).replace("<", "\\u003c")  # "</script>" would end the script
    result = (_FOLDER / "playground.html").read_text(encoding="utf-8")
    result = result.replace("{{name}}", html.escape(name))
    result = result.replace("/*{{style}}*/", (_FOLDER / "playground.css").read_text(encoding="utf-8"))
    return result.replace("/*{{script}}*/", f'"use strict";\nconst MACHINE = {text};\n{script}')


def _check_machine(machine: KanervaMachine) -> None:
    for part, kind in _SUPPORTED.items():
        found = getattr(machine, part)
        if not isinstance(found, kind):
            raise ValueError(
                f"playground: the {part} is {type(found).__name__}; expected {kind.__name__}. The page supports "
                "machines of LinearEncoder, ShortcutDecoder, GaussianMemory, MixtureAddress and BernoulliLikelihood, "
                "as pyro-kanerva train builds them by default. Use one of these, or pretrained('letters')."
            )
    shape = machine.event_shape
    if shape is None or len(shape) != 3 or shape[0] != 1:
        raise ValueError(f"playground: patterns have event shape {shape}; expected pictures, (1, height, width).")
    full = getattr(machine.memory_prior, "scale_below_diagonal", None) is not None
    if full or machine.code_posterior is not None:
        raise ValueError(
            "playground: the memory prior has a full row covariance, or codes are latent; expected independent slots, "
            "GaussianMemory(num_slots, code_size), and no code_posterior."
        )


def _rounded(machine: KanervaMachine) -> KanervaMachine:
    """A copy in float64 on the CPU, with the values that the page will have."""
    machine = copy.deepcopy(machine).cpu()
    for name, parameter in machine.named_parameters():
        values = parameter.detach()
        rounded = values.half().float() if values.numel() >= _SMALL else values.float()
        if not bool(rounded.isfinite().all()):
            raise ValueError(
                f"playground: parameter {name} is NaN, infinite or beyond the range of float16. Train anew."
            )
        parameter.data = rounded
    return machine.double()


def _parameters(machine: Any) -> dict[str, Tensor]:
    """The tensors of the page by the names that algebra.js uses."""
    layers = [layer for layer in machine.decoder.layers if isinstance(layer, nn.Linear)]
    linear = {"encoder": machine.encoder[1], "first": layers[0], "second": layers[1], "third": layers[2]}
    tensors = {f"{name}.weight": layer.weight for name, layer in linear.items()}
    tensors |= {f"{name}.bias": layer.bias for name, layer in linear.items()}
    prior = machine.memory_prior
    tensors |= {"shortcut.weight": machine.decoder.shortcut.weight, "prior.loc": prior.loc}
    return {**tensors, "prior.log_scale": prior.log_scale.expand(machine.num_slots)}


def _packed(values: Tensor) -> dict[str, Any]:
    """Shape, type and little-endian content in base64."""
    kind = "float16" if values.numel() >= _SMALL else "float32"
    numbers = values.detach().numpy().astype(f"<f{2 if kind == 'float16' else 4}")
    return {"shape": list(values.shape), "type": kind, "data": base64.b64encode(numbers.tobytes()).decode()}


def _bits(pattern: Tensor) -> str:
    """A binary picture as a text of 0 and 1, row by row."""
    return "".join("1" if value else "0" for value in pattern.flatten().tolist())


def _plain(value: Any) -> Any:
    """Tensors as lists of numbers of 9 digits, binary pictures as texts of 0 and 1."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 3 and bool(((value == 0) | (value == 1)).all()):
        return _bits(value)
    return [float(f"{number:.9g}") for number in value.flatten().tolist()]
