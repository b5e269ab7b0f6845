"""What many tests share: data files, random distributions, and small machines."""

import multiprocessing
import os
import runpy
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from pyro.distributions import MultivariateNormal, Normal, TorchDistribution
from pyro.infer import ELBO
from torch import Tensor, nn
from torch.multiprocessing.spawn import start_processes

from pyro_kanerva import (
    ExactReader,
    GaussianMemory,
    KanervaMachine,
    MatrixNormal,
    Memory,
    MLPDecoder,
    MLPEncoder,
    NormalLikelihood,
)
from pyro_kanerva.conjugate import NaturalParameters

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("PYRO_KANERVA_DATA", ROOT / ".." / "shared"))


def data_file(name: str) -> Path:
    """A file of the data folder, or a skip with the reason."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in {DATA.resolve()}; set PYRO_KANERVA_DATA to the folder that holds it")
    return path


def random_factor(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A random lower Cholesky factor (*shape, shape[-1])."""
    size = shape[-1]
    noise = torch.randn(*shape, 2 * size, dtype=dtype)
    return torch.linalg.cholesky(noise @ noise.mT / (2 * size))


def random_memory(*batch: int, slots: int, size: int, dtype: torch.dtype = torch.float64) -> MatrixNormal:
    return MatrixNormal(torch.randn(*batch, slots, size, dtype=dtype), random_factor(*batch, slots, dtype=dtype))


def random_write(slots: int, size: int, number: int, *batch: int, seed: int = 0) -> tuple[MatrixNormal, Tensor, Tensor]:
    """A random q(M), and ``number`` patterns to write into it: addresses (..., T, K) and codes (..., T, C)."""
    torch.manual_seed(seed)
    posterior = random_memory(*batch, slots=slots, size=size)
    addresses = torch.randn(*batch, number, slots, dtype=torch.float64)
    codes = torch.randn(*batch, number, size, dtype=torch.float64)
    return posterior, addresses, codes


def natural_parameters(posterior: MatrixNormal) -> NaturalParameters:
    """``U^-1`` and ``U^-1 R``, by plain inversion."""
    precision = torch.linalg.inv(posterior.row_covariance)
    return NaturalParameters(precision, precision @ posterior.loc)


def condition(
    loc: Tensor, covariance: Tensor, design: Tensor, value: Tensor, noise_covariance: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean and covariance of a Gaussian vector x, given ``value = design @ x + noise``."""
    joint = design @ covariance @ design.mT + noise_covariance
    gain = torch.linalg.solve(joint, design @ covariance).mT
    return loc + gain @ (value - design @ loc), covariance - gain @ design @ covariance


def small_machine(event_shape=(1, 5, 7), slots=6, code_size=10, output_shape=None, **options) -> KanervaMachine:
    """An untrained machine, by default for small binary patterns, K = 6, C = 10.

    ``output_shape`` is that of the decoder, by default ``event_shape``. ``options`` are those of the machine.
    """
    options.setdefault("memory_prior", GaussianMemory(slots, code_size))
    decoder = MLPDecoder(code_size, event_shape if output_shape is None else output_shape, 32)
    return KanervaMachine(MLPEncoder(event_shape, code_size, 32), decoder, **options)


def with_gain(machine: KanervaMachine, gain: float) -> KanervaMachine:
    """The machine after multiplying the last layer of both its networks, which are MLPs."""
    with torch.no_grad():
        machine.decoder[-2].weight.mul_(gain)
        machine.encoder[-1].weight.mul_(gain)
    return machine


class Identity:
    """A network that returns its input: encoder or decoder of a machine whose codes are the patterns."""

    def __init__(self, *event_shape: int) -> None:
        self.event_shape = event_shape

    def __call__(self, x: Tensor) -> Tensor:
        return x


def linear_machine(slots: int, size: int, noise: float = 0.5, *, machine=KanervaMachine, **options) -> KanervaMachine:
    """``x ~ Normal(M^T w, noise^2 I)``; its codes are the patterns. ``options`` are those of the machine.

    The code scale is by default the noise, so that exact readers and writers are exact.
    """
    if "memory_prior" not in options:
        options["memory_prior"] = GaussianMemory(slots, size)
    options.setdefault("likelihood", NormalLikelihood(noise, learned=False))
    options.setdefault("code_scale", noise)
    options.setdefault("encoder", Identity(size))
    options.setdefault("decoder", Identity(size))
    return machine(**options)


def known_memory_machine(slots: int, size: int, noise: float, **options) -> tuple[KanervaMachine, Tensor]:
    """A :func:`linear_machine` in float64 with a known memory, and that memory M (K, C).

    Draws from its prior differ from M by about 1e-6.
    """
    matrix = torch.randn(slots, size, dtype=torch.float64)
    prior = MatrixNormal(matrix, 1e-6 * torch.eye(slots, dtype=torch.float64))
    return linear_machine(slots, size, noise, memory_prior=prior, **options).double(), matrix


class ScaledReader(ExactReader):
    """A reader whose standard deviations are ``factor`` times the exact ones."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, *args) -> TorchDistribution:
        exact = super().forward(*args)
        return MultivariateNormal(exact.loc, scale_tril=self.factor * exact.scale_tril)


class UnnormalizedReader(nn.Module):
    """The exact reader, with ``constant`` added to its log density."""

    def __init__(self, constant: float) -> None:
        super().__init__()
        self.constant = constant

    def forward(self, codes, matrix, address_prior, code_scale) -> TorchDistribution:
        exact = ExactReader()(codes, matrix, address_prior, code_scale)
        constant = self.constant

        class Unnormalized(MultivariateNormal):
            def log_prob(self, value):
                return super().log_prob(value) + constant

            def expand(self, batch_shape, _instance=None):
                return self

        return Unnormalized(exact.loc, scale_tril=exact.scale_tril, validate_args=False)


def assert_close_posteriors(one: MatrixNormal, other: MatrixNormal, tolerance: float = 1e-4) -> None:
    """Mean and row covariance are equal, relative to the largest entry."""
    for found, expected in ((one.loc, other.loc), (one.row_covariance, other.row_covariance)):
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def assert_same_memory(one: Memory, other: Memory) -> None:
    """Posterior and records are equal to the last bit."""
    assert torch.equal(one.posterior.loc, other.posterior.loc)
    assert torch.equal(one.posterior.scale_tril_row, other.posterior.scale_tril_row)
    assert len(one.records) == len(other.records)
    for found, expected in zip(one.records, other.records, strict=True):
        assert type(found) is type(expected)
        for part, same in zip(found, expected, strict=True):
            assert torch.equal(part, same) if isinstance(part, Tensor) else part == same


def start_group(world: int, path: str, function: str, *arguments: object):
    """Start ``function(rank, *arguments)`` of a test file in ``world`` processes, with the environment of torchrun.

    ``join()`` of what is returned waits for a process to end, and is True once all have ended. It raises the error of
    a process that failed.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # All groups fork from one process, which imports these modules once.
    modules = ["pyro_kanerva.memory.distributed", "torch.distributed.tensor"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
    options = {"nprocs": world, "join": False, "start_method": "forkserver"}
    return start_processes(_call_in_file, (world, port, path, function, *arguments), **options)


def _call_in_file(rank: int, world: int, port: int, path: str, function: str, *arguments: object) -> None:
    """Another process cannot import a test file by name, so this runs the file."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    runpy.run_path(path)[function](rank, *arguments)


def tick_labels(axis, minor: bool = False) -> list[str]:
    """The labels that matplotlib draws along an axis."""
    axis.axes.figure.canvas.draw()
    return [label.get_text() for label in axis.get_ticklabels(minor=minor)]


def legend_labels(ax) -> list[str]:
    """The texts of a legend."""
    return [text.get_text() for text in ax.get_legend().get_texts()]


def random_gaussian(kind: str, size: int) -> TorchDistribution:
    """A random Gaussian of event shape (size,), whose entries are "dependent" or "independent"."""
    if kind == "independent":
        return Normal(torch.randn(size), torch.rand(size) + 0.5).to_event(1)
    root = torch.randn(size, 2 * size)
    return MultivariateNormal(torch.randn(size), root @ root.mT / size)


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters, by name."""
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def unmoved(module: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """The names of the parameters that are still equal to those of :func:`parameters_of`."""
    return [name for name, value in module.named_parameters() if torch.equal(value, before[name])]


def assert_bound_agrees(
    machine: KanervaMachine, patterns: Tensor, elbos: Sequence[type[ELBO]], repetitions: int = 10, deviations: float = 5
) -> None:
    """``bound()`` and each ELBO of ``patterns`` (B, T) + E estimate one number, within standard errors.

    Each of ``repetitions`` estimates is an average over all patterns.
    """
    with torch.no_grad():
        bounds = torch.stack([machine.bound(patterns).bound.mean() for _ in range(repetitions)])
        for elbo in elbos:
            program = elbo(max_plate_nesting=2)
            losses = [program.loss(machine.model, machine.guide, patterns) for _ in range(repetitions)]
            values = -torch.tensor(losses) / (patterns.shape[0] * patterns.shape[1])
            error = ((bounds.var() + values.var()) / repetitions).sqrt()
            assert error < 0.3, elbo  # nats per pattern
            assert (bounds.mean() - values.mean()).abs() < deviations * error, elbo


def flip_bit(content, place, bit):
    """``content``, bytes, with one bit of one byte flipped."""
    return content[:place] + bytes([content[place] ^ (1 << int(bit))]) + content[place + 1 :]
