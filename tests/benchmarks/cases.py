"""What is timed, shared by several files."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_kanerva as pk

SEED = 0


class Goal(NamedTuple):
    """Either ``at_most`` so many times the time of the baseline, or ``at_least`` so many times as fast."""

    at_least: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        return f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"

    def reached(self, ratio: float) -> str:
        reached = ratio <= self.at_most if self.at_least is None else ratio >= self.at_least
        return "yes" if reached else "no"


class Size(NamedTuple):
    """B episodes of T patterns, memories of K slots of code size C."""

    episodes: int
    patterns: int
    slots: int
    code_size: int

    def __str__(self) -> str:
        return f"B = {self.episodes}, T = {self.patterns}, K = {self.slots}, C = {self.code_size}"


PAPER = Size(16, 32, 32, 100)
LARGE = Size(4, 256, 256, 512)


def leaves(size: Size, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Codes drawn from the model, the mean of the memory prior, and the logarithms of its row scales and of sigma."""
    memory_scale = torch.full((size.slots,), size.slots**-0.5, dtype=dtype)
    loc = torch.randn(size.slots, size.code_size, dtype=dtype) * memory_scale.unsqueeze(-1)
    matrix = loc + torch.randn(size.episodes, *loc.shape, dtype=dtype) * memory_scale.unsqueeze(-1)
    codes = torch.randn(size.episodes, size.patterns, size.slots, dtype=dtype) @ matrix
    codes = codes + torch.randn_like(codes)
    return [leaf.requires_grad_() for leaf in (codes, loc, memory_scale.log(), torch.zeros((), dtype=dtype))]


def ours(writer: Callable[..., pk.WriteResult]) -> Callable[..., Tensor]:
    """What ``baselines.write_and_read`` computes, by the library."""

    def write_and_read(codes: Tensor, loc: Tensor, log_row_scale: Tensor, log_noise_scale: Tensor) -> Tensor:
        prior = pk.MatrixNormal(loc, log_row_scale.exp().diag_embed(), validate_args=False)
        address_prior = pk.GaussianAddress(len(loc)).to(loc.dtype)()
        noise_scale = log_noise_scale.exp()
        posterior = writer(codes, prior, noise_scale).memory
        matrix = posterior.rsample()
        q = pk.ExactReader()(codes, matrix, address_prior, noise_scale)
        error = (codes - q.rsample() @ matrix).square().sum()
        return kl_divergence(q, address_prior).sum() + kl_divergence(posterior, prior).sum() + 0.5 * error

    return write_and_read


def gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> tuple[Tensor, ...]:
    """The value of ``function`` at ``inputs``, and its gradients."""
    value = function(*inputs)
    return (value, *torch.autograd.grad(value, inputs))


def machine_and_patterns(width: int) -> tuple[pk.KanervaMachine, Tensor]:
    """A machine of convolutional networks, K = 32, C = 100, and binary images (8, 32, 1, 28, 28)."""
    torch.manual_seed(SEED)
    shape, code_size = (1, 28, 28), 100
    machine = pk.KanervaMachine(
        pk.ConvEncoder(shape, code_size, width),
        pk.ConvDecoder(code_size, shape, width),
        memory_prior=pk.GaussianMemory(32, code_size),
    )
    return machine, (torch.rand(8, 32, *shape) < 0.2).float()


def step_of(loss: Callable[[Tensor], Tensor], machine: pk.KanervaMachine, patterns: Tensor) -> Callable[[], None]:
    """A training step in plain torch: loss, gradients, Adam."""
    optimizer = torch.optim.Adam(machine.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss(patterns).backward()
        optimizer.step()

    return step
