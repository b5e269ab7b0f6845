r"""Retrieval as an iterative posterior query with an energy that never rises.

A cue ``c`` is evidence about a pattern ``x`` stored in a memory of mean R. Two steps alternate on the
free energy::

    F(q, w) = KL(q(x) || p(x | decoder(R^T w))) - E_q log p(c | x) - log p(w)

x-step: ``q(x) = p(x | c, w)``, exact, entry by entry. After it ``F(w) = -log p(c | w, R) - log p(w)``,
the negative log posterior of the address up to a constant. w-step: the closed-form address of the code
of E_q[x] is tried first and kept only where the energy falls; then gradient steps, preconditioned with
the covariance of the address posterior, again kept only where the energy falls. The gradient of F(w) is
that of ``-E_q log p(x | w) - log p(w)`` with q from the x-step (Fisher's identity).

Without a channel q is the point at the mode of p(x | w), the energy is ``-log p(x | w) - log p(w)``, and
these are the attractor dynamics of Wu et al. 2018 (arXiv 1811.09556), section 3.4, made to descend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel, Flip
from pyro_kanerva.conjugate import address_posterior
from pyro_kanerva.likelihoods import BernoulliLikelihood
from pyro_kanerva.priors import as_distribution, gaussian_address

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine

_POLISHING_STEPS = 3  # gradient steps on the address in each w-step


class Retrieval(NamedTuple):
    """What a query went through, for S steps of B memories with Q cues each."""

    patterns: Tensor  # (S + 1, B, Q) + E, the cue first, then the mode of q_n(x)
    energy: Tensor  # (S + 1, B, Q), nats; never rises along dim 0
    address: Tensor  # (S + 1, B, Q, K)
    converged: Tensor  # (B, Q) bool: the last step changed no entry, or lowered the energy by at most tolerance


class _State(NamedTuple):
    """Where every query stands: tensors that start with (B, Q)."""

    address: Tensor  # (B, Q, K)
    energy: Tensor  # (B, Q)
    gradient: Tensor  # (B, Q, K), of the energy in the address
    mean: Tensor  # (B, Q) + E, E_q[x] after the x-step at this address
    mode: Tensor  # (B, Q) + E


class _Descent:
    """The w-step of all queries at once, for one machine, memory and set of cues."""

    def __init__(self, machine: KanervaMachine, memory_loc: Tensor, cues: Tensor, channel: Channel | None) -> None:
        self.machine, self.memory_loc, self.cues, self.channel = machine, memory_loc, cues, channel
        self.prior = as_distribution(machine.address_prior)
        precision = gaussian_address(self.prior)[1]
        codes = machine.encode(cues)
        self.address = machine.read_codes(codes, memory_loc).mean
        factor = address_posterior(codes, memory_loc, machine.code_scale, prior_precision=precision).scale_tril
        self.preconditioner = factor @ factor.mT  # (B, K, K), a covariance
        self.step_size = torch.ones_like(self.address[..., :1])  # (B, Q, 1)

    def evaluate(self, address: Tensor, patterns: Tensor) -> _State:
        """The energy and its gradient at ``address``; without a channel that of ``patterns``."""
        with torch.enable_grad():
            address = address.detach().requires_grad_()
            prediction = self.machine.predict(address @ self.memory_loc)
            if self.channel is None:
                evidence = prediction.log_prob(patterns)
            else:
                evidence = self.channel.log_evidence(self.cues, prediction)
            energy = -evidence.flatten(2).sum(-1) - self.prior.log_prob(address)
            (gradient,) = torch.autograd.grad(energy.sum(), address)
        q = prediction if self.channel is None else self.channel.posterior(self.cues, prediction)
        mode = (q.logits.detach() > 0).to(patterns.dtype)  # torch's own mode is NaN at logit 0
        mean = mode if self.channel is None else q.mean.detach()
        return _State(address.detach(), energy.detach(), gradient, mean, mode)

    def propose(self, state: _State, address: Tensor, patterns: Tensor) -> tuple[_State, Tensor]:
        """``state`` moved to ``address`` where the energy does not rise, and where that was."""
        new = self.evaluate(address, patterns)
        lower = new.energy <= state.energy  # (B, Q); False for NaN
        kept = (
            torch.where(lower.view(lower.shape + (1,) * (b.dim() - 2)), a, b) for a, b in zip(new, state, strict=True)
        )
        return _State(*kept), lower

    def step(self, state: _State, patterns: Tensor) -> _State:
        """One w-step."""
        guess = self.machine.read_codes(self.machine.encode(state.mean), self.memory_loc).mean
        old = state.address
        state, lower = self.propose(state, guess, patterns)
        if not bool(lower.all()):
            halfway = torch.where(lower.unsqueeze(-1), state.address, 0.5 * (old + guess))
            state, _ = self.propose(state, halfway, patterns)
        for _ in range(_POLISHING_STEPS):
            address = state.address - self.step_size * (state.gradient @ self.preconditioner)
            state, lower = self.propose(state, address, patterns)
            self.step_size = self.step_size * torch.where(lower, 1.5, 0.4).unsqueeze(-1)
        return state


def query(
    machine: KanervaMachine,
    memory_loc: Tensor,
    cues: Tensor,
    *,
    num_steps: int = 10,
    channel: Channel | None = None,
    tolerance: float = 0.0,
) -> Retrieval:
    """The iterative posterior query; see :meth:`pyro_kanerva.Memory.query`, which checks its arguments.

    :param memory_loc: the memory R, shape (B, K, C).
    :param cues: (B, Q) + E.
    """
    with torch.no_grad():
        descent = _Descent(machine, memory_loc, cues, channel)
        state = descent.evaluate(descent.address, cues)
        patterns, energies, addresses = [cues], [state.energy], [state.address]
        for _ in range(num_steps):
            target = cues
            if channel is None:
                target = state.mode
                state = descent.evaluate(state.address, target)
            state = descent.step(state, target)
            patterns.append(target if channel is None else state.mode)
            energies.append(state.energy)
            addresses.append(state.address)
        if num_steps == 0:
            converged = torch.zeros(cues.shape[:2], dtype=torch.bool, device=cues.device)
        else:
            same = (patterns[-1] == patterns[-2]).flatten(2).all(-1)
            converged = same | (energies[-2] - energies[-1] <= tolerance)
        return Retrieval(torch.stack(patterns), torch.stack(energies), torch.stack(addresses), converged)


def check_query(machine: KanervaMachine, num_steps: int, channel: Channel | None, tolerance: float) -> None:
    """:raises ValueError: if a query cannot be made with these arguments."""
    if num_steps < 0:
        raise ValueError(f"query(): num_steps is {num_steps}; expected 0 or more.")
    if not tolerance >= 0:
        raise ValueError(f"query(): tolerance is {tolerance}; expected nats, 0 or more.")
    if not isinstance(machine.likelihood, BernoulliLikelihood):
        raise ValueError(
            f"query(): the machine has likelihood {type(machine.likelihood).__name__}; expected BernoulliLikelihood, "
            "the only one that queries know so far. read() works with every likelihood."
        )
    if channel is not None and not isinstance(channel, Flip):
        raise ValueError(f"query(): channel is {channel!r}; expected None, Flip(p) or SaltAndPepper(p).")
