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

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_kanerva.channels import Channel
from pyro_kanerva.conjugate import address_posterior
from pyro_kanerva.priors import as_distribution, gaussian_address

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine

_POLISHING_STEPS = 3  # gradient steps on the address in each w-step
_LARGEST_STEP = 1e3  # relative to a Newton step of the linear-Gaussian surrogate


class Retrieval(NamedTuple):
    """What a query went through, for S steps of B memories with Q cues each.

    ``patterns`` (S + 1, B, Q) + E: the cue first, then the mode of q_n(x). ``energy`` (S + 1, B, Q): in nats,
    never rises along dim 0. ``address`` (S + 1, B, Q, K). ``converged`` (B, Q), bool: the last step changed no
    entry, or lowered the energy by at most the tolerance.
    """

    patterns: Tensor
    energy: Tensor
    address: Tensor
    converged: Tensor


class _State(NamedTuple):
    """Where every query stands: tensors that start with (B, Q)."""

    address: Tensor  # (B, Q, K)
    energy: Tensor  # (B, Q)
    gradient: Tensor  # (B, Q, K), of the energy in the address
    mean: Tensor  # (B, Q) + E, E_q[x] after the x-step at this address
    mode: Tensor  # (B, Q) + E


class _Descent:
    """The w-step of all queries at once, for one machine, memory and set of cues."""

    def __init__(
        self,
        machine: KanervaMachine,
        memory_loc: Tensor,
        cues: Tensor,
        channel: Channel | None,
        observed: Tensor | None,
    ) -> None:
        self.machine, self.memory_loc, self.cues = machine, memory_loc, cues
        self.channel, self.observed = channel, observed
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
            prediction = self.machine.predict(address @ self.memory_loc, tuple(self.cues.shape[2:]))
            if not isinstance(prediction, dist.Bernoulli):
                raise ValueError(
                    f"query(): the likelihood is {type(prediction).__name__}; expected Bernoulli, the only one that "
                    "queries know so far. read() works with every likelihood."
                )
            if self.channel is None:
                evidence = prediction.log_prob(patterns)
            else:
                evidence = self.channel.log_evidence(self.cues, prediction)
                if self.observed is not None:
                    evidence = torch.where(self.observed, evidence, 0.0)
            energy = -evidence.flatten(2).sum(-1) - self.prior.log_prob(address)
            (gradient,) = torch.autograd.grad(energy.sum(), address)
        return _State(address.detach(), energy.detach(), gradient, *self.recall(prediction))

    def recall(self, prediction: dist.TorchDistribution) -> tuple[Tensor, Tensor]:
        """The x-step: mean and mode of q(x); without a channel both are the mode."""
        logits = prediction.logits.detach()
        mode = (logits > 0).to(logits.dtype)  # torch's own mode is NaN at logit 0
        if self.channel is None:
            mode = mode if self.observed is None else torch.where(self.observed, self.cues, mode)
            return mode, mode
        posterior = self.channel.posterior(self.cues, prediction).logits.detach()
        logits = posterior if self.observed is None else torch.where(self.observed, posterior, logits)
        return logits.sigmoid(), (logits > 0).to(logits.dtype)

    def propose(self, state: _State, address: Tensor, patterns: Tensor) -> tuple[_State, Tensor]:
        """``state`` moved to ``address`` where the energy does not rise, and where that was."""
        new = self.evaluate(address, patterns)
        lower = new.energy <= state.energy  # (B, Q); False for NaN
        kept = (torch.where(_like(lower, old), trial, old) for trial, old in zip(new, state, strict=True))
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
            self.step_size = self.step_size.clamp(max=_LARGEST_STEP)
        return state


def query(
    machine: KanervaMachine,
    memory_loc: Tensor,
    cues: Tensor,
    num_steps: int,
    channel: Channel | None,
    observed: Tensor | None,
    tolerance: float,
) -> Retrieval:
    """The iterative posterior query behind :meth:`pyro_kanerva.Memory.query`.

    :param memory_loc: the memory R, shape (B, K, C).
    :param cues: (B, Q) + E.
    :raises ValueError: if the arguments do not fit, or the first energy is NaN or infinite.
    """
    _check(num_steps, channel, tolerance)
    if observed is not None:
        observed = _check_observed(observed, cues)
    with torch.inference_mode(False), torch.no_grad():
        memory_loc, cues = memory_loc.clone(), cues.clone()  # tensors of inference mode would have no gradients
        descent = _Descent(machine, memory_loc, cues, channel, observed)
        target = cues
        state = descent.evaluate(descent.address, target)
        if not bool(state.energy.isfinite().all()):
            raise ValueError(
                "query(): the energy of a cue is NaN or infinite. The decoder returns extreme values: if training "
                "diverged, lower the learning rate and resume from an earlier checkpoint."
            )
        patterns, energies, addresses = [cues], [state.energy], [state.address]
        for _ in range(num_steps):
            if channel is None:
                better, lower = descent.propose(state, state.address, state.mode)
                target = torch.where(_like(lower, cues), state.mode, target)
                state = better
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


def _like(flags: Tensor, tensor: Tensor) -> Tensor:
    return flags.view(flags.shape + (1,) * (tensor.dim() - 2))


def _check(num_steps: int, channel: Channel | None, tolerance: float) -> None:
    if num_steps < 0:
        raise ValueError(f"query(): num_steps is {num_steps}; expected 0 or more.")
    if not tolerance >= 0:
        raise ValueError(f"query(): tolerance is {tolerance}; expected nats, 0 or more.")
    if channel is not None and not isinstance(channel, Channel):
        raise ValueError(
            f"query(): channel is {channel!r}; expected None, Flip(p), SaltAndPepper(p), or an object with the methods "
            "of Channel."
        )


def _check_observed(observed: Tensor, cues: Tensor) -> Tensor:
    if observed.dtype != torch.bool:
        raise ValueError(f"query(): observed has dtype {observed.dtype}; expected torch.bool.")
    try:
        return observed.to(cues.device).expand(cues.shape)
    except RuntimeError:
        raise ValueError(
            f"query(): observed has shape {tuple(observed.shape)}, which does not broadcast to the cues' shape "
            f"{tuple(cues.shape)}."
        ) from None
