r"""Retrieval as an iterative posterior query with an energy that never rises.

A cue ``c`` is evidence about a pattern ``x`` stored in a memory M, at its posterior mean R or at a draw.
Two steps alternate on the free energy::

    F(q, w) = KL(q(x) || p(x | decoder(M^T w))) - E_q log p(c | x) - log p(w)

x-step: ``q(x) = p(x | c, w)``, exact, entry by entry. After it ``F(w) = -log p(c | w, M) - log p(w)``,
the negative log posterior of the address up to a constant; of an address of another support than R^K, such
as the simplex, w are its real coordinates. w-step: the closed-form address of the code
of E_q[x] is tried as long as it helps; then come steps of L-BFGS, preconditioned with the covariance of
the address posterior. The gradient of F(w) is that of ``-E_q log p(x | w) - log p(w)`` with q from the
x-step (Fisher's identity), so each is a pass forward and backward through the decoder.

Without a channel q is the point at the mode of p(x | w), the energy is ``-log p(x | w) - log p(w)``, and
these are the attractor dynamics of Wu et al. 2018 (arXiv 1811.09556), section 3.4, made to descend: the
closed-form address of e(x), and gradient steps once that would raise the energy.

Of one-hot addresses the w-step tries every slot, and finds the best at once.

Whatever is tried is kept only where the energy does not rise: for every query, every encoder and every
decoder. All queries run in one batch; the networks are spared those that have converged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pyro_kanerva.channels import Channel, fit
from pyro_kanerva.energies import Energy, PointEnergy
from pyro_kanerva.likelihoods import expected_and_mode, joint_mode
from pyro_kanerva.priors import Coordinates, as_distribution, coordinates, point_address

if TYPE_CHECKING:
    from pyro_kanerva.machine import KanervaMachine

_STEPS_OF_LBFGS = 3  # in each w-step of a query with a channel
_NEGLIGIBLE = 0.01  # nats: a converged query whose energy still falls by more goes on
_HISTORY = 8  # pairs of steps and gradient differences that L-BFGS remembers


class Retrieval(NamedTuple):
    """What a query went through, for S steps of B memories with Q cues each.

    ``patterns`` (S + 1, B, Q) + E: the cue first, then the mode of q_n(x). ``energy`` (S + 1, B, Q): in nats,
    never rises along dim 0. ``address`` (S + 1, B, Q, K): of the energy's q(w) the mean. ``converged`` (B, Q),
    bool: in the last step no entry changed, or the energy fell by at most the tolerance; False where NaN or
    infinite values of the networks kept a query from going on. A converged query stands still once its
    energy falls by less than 0.01 nats.
    """

    patterns: Tensor
    energy: Tensor
    address: Tensor
    converged: Tensor


class _Trial(NamedTuple):
    """What the energy is at an address, and the x-step there; tensors that start with (B, Q)."""

    address: Tensor  # (B, Q, n), coordinates in which it is real; most often the address itself
    energy: Tensor  # (B, Q), infinite where it was not computed
    next_energy: Tensor  # (B, Q), after the x-step: without a channel, once the pattern is ``mode``
    gradient: Tensor  # (B, Q, n), of that energy in the address
    expected: Tensor  # (B, Q) + E, E_q[x]
    mode: Tensor  # (B, Q) + E, that of q(x)


def _like(flags: Tensor, tensor: Tensor) -> Tensor:
    return flags.view(flags.shape + (1,) * (tensor.dim() - flags.dim()))


class _Descent:
    """All queries of one machine, memory and set of cues."""

    def __init__(
        self,
        machine: KanervaMachine,
        memory: Tensor,
        cues: Tensor,
        channel: Channel | None,
        observed: Tensor | None,
        energy: Energy,
    ) -> None:
        self.machine, self.memory, self.cues, self.channel, self.energy = machine, memory, cues, channel, energy
        self.observed = torch.ones_like(cues, dtype=torch.bool) if observed is None else observed
        self.clamped = ~self.observed if observed is None else self.observed  # without a channel
        self.prior = as_distribution(machine.address_prior)
        everyone = torch.ones(cues.shape[:2], dtype=torch.bool, device=cues.device)
        self.where = self._coordinates(energy)
        self.scale_tril = self.where.posterior_scale_tril(memory, machine.code_scale)  # (B, n, n), of a covariance
        self.preconditioner = self.scale_tril @ self.scale_tril.mT
        self.deviations = energy.deviations(self.scale_tril, cues.shape[1])
        self.history: list[tuple[Tensor, Tensor, Tensor]] = []  # steps, gradient differences, 1 / their products
        self.curvature = torch.ones_like(everyone, dtype=cues.dtype)  # of the inverse, relative to the preconditioner
        self.step_size = torch.ones_like(self.curvature)
        self.guessing = everyone.clone()  # where the closed-form address still helps
        self.broken = ~everyone  # since the last move there were only values that are NaN or infinite
        self.moved = ~everyone  # in this step
        self.promise = torch.zeros_like(self.curvature)  # nats that the next gradient step should gain, to first order
        self.pattern = cues  # without a channel, the x of the energy
        self.state = self._start(everyone)

    def _coordinates(self, energy: Energy) -> Coordinates:
        return coordinates(self.prior)

    def _start(self, everyone: Tensor) -> _Trial:
        """The address of the cue's code; hidden entries start at the decoder's prediction."""
        cues = self.cues
        center = self._center().expand(*cues.shape[:2], -1)
        other: _Trial | None = None
        if not bool(self.observed.all()):
            other = self.evaluate(center, everyone)
            cues = torch.where(self.observed, cues, other.expected)
            if self.channel is None:
                self.pattern = torch.where(self.observed, cues, other.mode)
            other = other._replace(energy=other.next_energy)  # that of the pattern as it is now
        trial = self.evaluate(self._address_of(cues, everyone), everyone)
        doubtful = (~self.observed).flatten(2).any(-1) | ~trial.energy.isfinite()
        if bool(doubtful.any()):
            other = self.evaluate(center, everyone) if other is None else other
            trial = self._choose(doubtful & ~(trial.energy <= other.energy), other, trial)
        if not bool(trial.energy.isfinite().all()):
            raise ValueError(
                "query(): the energy of a cue is NaN or infinite. The decoder returns extreme values: if training "
                "diverged, lower the learning rate and resume from an earlier checkpoint."
            )
        return trial

    def _center(self) -> Tensor:
        """The coordinates (n,) of an address in the middle of the prior."""
        return self.where.center(self.cues)

    @staticmethod
    def _choose(flags: Tensor, one: _Trial, other: _Trial) -> _Trial:
        if bool(flags.all()):
            return one
        return _Trial(*(torch.where(_like(flags, new), new, old) for new, old in zip(one, other, strict=True)))

    def _address_of(self, patterns: Tensor, active: Tensor) -> Tensor:
        """Where the reader finds ``patterns`` (B, Q) + E, coordinates (B, Q, n); encoded where ``active``."""
        codes = patterns.new_zeros(*active.shape, self.machine.code_size)
        codes[active] = self.machine.encode(patterns[active].unsqueeze(0)).squeeze(0)
        return self._locate(point_address(self.machine.read_codes(codes, self.memory)))

    def _locate(self, address: Tensor) -> Tensor:
        return self.where.inverse(address)

    def _decode(self, addresses: Tensor, active: Tensor) -> Tensor:
        """The decoder's output at ``addresses`` (S, B, Q, K), for the active queries alone: (S, number) + its shape."""
        return self.machine.decoder_output((addresses @ self.memory)[:, active])

    def evaluate(self, address: Tensor, active: Tensor) -> _Trial:
        """The energy at coordinates ``address`` (B, Q, n) and the x-step, decoded where ``active``."""
        shape = tuple(self.cues.shape)
        with torch.enable_grad():
            address = address.detach().requires_grad_()
            points = address + self.deviations  # (S, B, Q, n)
            addresses = self.where.address(points)  # (S, B, Q, K)
            parameters = self._decode(addresses, active)
            # whatever the likelihood, some active row is a legal filling of those that are not decoded
            output = parameters[:, :1].detach().unsqueeze(1).expand(*addresses.shape[:3], *parameters.shape[2:]).clone()
            output[:, active] = parameters
            prediction = self.machine.likelihood_of(output, (addresses.shape[0], *shape))
            divergence = self.energy.divergence(points, self.scale_tril, self.where)
            if self.channel is None:
                with torch.no_grad():
                    mode = torch.where(self.clamped, self.cues, joint_mode(prediction))
                    evidence = prediction.log_prob(self.pattern)
                expected, next_evidence = mode, prediction.log_prob(mode)
            else:
                dims = (0, *range(3, 1 + self.cues.dim()))
                channel = fit(self.channel, self.cues, prediction, self.observed, dims)
                evidence = torch.where(self.observed, channel.log_evidence(self.cues, prediction), 0.0)
                next_evidence = evidence
                with torch.no_grad():
                    posterior = expected_and_mode(channel.posterior(self.cues, prediction))
                    unseen = expected_and_mode(prediction)
                    expected, mode = (torch.where(self.observed, *pair) for pair in zip(posterior, unseen, strict=True))
            energy, next_energy = (divergence - term.flatten(3).sum(-1).mean(0) for term in (evidence, next_evidence))
            gradient = self._gradient(next_energy[active].sum(), address)
        energy = torch.where(active, energy.detach(), torch.inf)
        return _Trial(address.detach(), energy, next_energy.detach(), gradient, expected.detach(), mode)

    def _gradient(self, energy: Tensor, address: Tensor) -> Tensor:
        return torch.autograd.grad(energy, address)[0]

    def move(self, address: Tensor, active: Tensor) -> Tensor:
        """Go to coordinates ``address`` where that does not raise the energy, and tell where, (B, Q)."""
        trial = self.evaluate(address, active)
        lower = trial.energy <= self.state.energy  # False for NaN
        moved = trial.energy < self.state.energy
        self.broken = (self.broken | (active & ~trial.energy.isfinite())) & ~moved
        self.moved |= moved
        self.state = self._choose(lower, trial, self.state)
        return lower

    def settled(self) -> Tensor:
        """Where a step that gained little means that there is little to gain, (B, Q)."""
        return self.moved | (self.promise <= _NEGLIGIBLE)

    def x_step(self, active: Tensor) -> None:
        """Without a channel: the pattern becomes the mode of p(x | w). With one, ``evaluate`` has done it."""
        better = active & (self.state.next_energy <= self.state.energy)
        self.pattern = torch.where(_like(better, self.cues), self.state.mode, self.pattern)
        self.state = self.state._replace(energy=torch.where(better, self.state.next_energy, self.state.energy))

    def attract(self, active: Tensor) -> None:
        """The w-step without a channel."""
        rest = active & ~self.guess(self.pattern, active)
        self.promise = torch.zeros_like(self.promise)
        if not bool(rest.any()):
            return
        direction = self.state.gradient @ self.preconditioner
        promise = self.step_size * (self.state.gradient * direction).sum(-1)
        lower = self.move(self.state.address - self.step_size.unsqueeze(-1) * direction, rest)
        self.step_size = torch.where(rest, self.step_size * torch.where(lower, 1.5, 0.3), self.step_size)
        self.promise = torch.where(rest, promise, 0.0)

    def guess(self, patterns: Tensor, active: Tensor) -> Tensor:
        """Go to the closed-form address where that has always helped, and tell where it does again, (B, Q)."""
        guessing = active & self.guessing
        if not bool(guessing.any()):
            return guessing
        lower = self.move(self._address_of(patterns, guessing), guessing)
        self.guessing &= lower | ~guessing
        return lower

    def search(self, active: Tensor) -> None:
        """The w-step with a channel."""
        self.guess(self.state.expected, active)
        for _ in range(_STEPS_OF_LBFGS):
            old = self.state
            address = old.address + self.step_size.unsqueeze(-1) * self._direction()
            lower = self.move(address, active)
            self._remember(self.state.address - old.address, self.state.gradient - old.gradient)
            self.step_size = torch.where(active & ~lower, self.step_size * 0.4, 1.0)
        gradient = self.state.gradient
        self.promise = self.step_size * (gradient * (gradient @ self.preconditioner)).sum(-1)

    def _direction(self) -> Tensor:
        """The two loops of L-BFGS, for every query, (B, Q, n)."""
        direction, weights = -self.state.gradient, []
        for step, change, inverse in reversed(self.history):
            weights.append(inverse * (step * direction).sum(-1))
            direction = direction - weights[-1].unsqueeze(-1) * change
        direction = self.curvature.unsqueeze(-1) * (direction @ self.preconditioner)
        for (step, change, inverse), weight in zip(self.history, reversed(weights), strict=True):
            direction = direction + (weight - inverse * (change * direction).sum(-1)).unsqueeze(-1) * step
        return direction

    def _remember(self, step: Tensor, change: Tensor) -> None:
        product = (step * change).sum(-1)
        convex = product > 1e-10  # no pair where nothing moved, or along negative curvature
        inverse = torch.where(convex, product, torch.inf).reciprocal()
        scale = (change * (change @ self.preconditioner)).sum(-1)
        self.curvature = torch.where(convex & (scale > 0), product / scale, self.curvature)
        self.history = [*self.history, (step, change, inverse)][-_HISTORY:]


class _Slots(_Descent):
    """Queries whose address is one of the slots: every w-step tries them all."""

    def _coordinates(self, energy: Energy) -> Coordinates:
        if not isinstance(energy, PointEnergy):
            raise ValueError(f"query(): {type(energy).__name__} expects real addresses, not slots. Use PointEnergy().")
        self.slots = self.prior.enumerate_support(expand=False)  # (K, K)
        self.outputs = self.machine.decoder_output(self.memory)  # (B, K) + its shape: all there is to decode
        return Coordinates(None, None, None, self.prior)

    def _center(self) -> Tensor:
        return self._locate(self.prior.mean)

    def _locate(self, address: Tensor) -> Tensor:
        return self.slots[address.argmax(-1)]

    def _decode(self, addresses: Tensor, active: Tensor) -> Tensor:
        number = addresses.argmax(-1)  # (1, B, Q)
        episode = torch.arange(number.shape[1], device=number.device).unsqueeze(-1).expand_as(number[0])
        return self.outputs[episode[active], number[0, active]].unsqueeze(0)

    def _gradient(self, energy: Tensor, address: Tensor) -> Tensor:
        return torch.zeros_like(address)

    def attract(self, active: Tensor) -> None:
        """Without a channel: the best slot for the pattern, or for the observed entries where there are such."""
        clamped = bool(self.clamped.any())
        self._enumerate(active, clamped)
        if clamped:
            self.x_step(active)

    def search(self, active: Tensor) -> None:
        """With a channel: the best slot for the cue, found at once."""
        self._enumerate(active, False)

    def _enumerate(self, active: Tensor, after_x_step: bool) -> None:
        for slot in self.slots:
            trial = self.evaluate(slot.expand_as(self.state.address), active)
            new, old = (part.next_energy if after_x_step else part.energy for part in (trial, self.state))
            lower = active & (new < old)
            self.moved |= lower
            self.state = self._choose(lower, trial, self.state)


def query(
    machine: KanervaMachine,
    memory: Tensor,
    cues: Tensor,
    num_steps: int,
    channel: Channel | None,
    observed: Tensor | None,
    tolerance: float,
    energy: Energy,
) -> Retrieval:
    """The iterative posterior query behind :meth:`pyro_kanerva.Memory.query`.

    :param memory: M, shape (B, K, C).
    :param cues: (B, Q) + E.
    :raises ValueError: if the arguments do not fit, or the first energy is NaN or infinite.
    """
    _check(num_steps, channel, tolerance)
    if observed is not None:
        observed = check_observed(observed, cues)
    with torch.inference_mode(False), torch.no_grad():
        memory, cues = memory.clone(), cues.clone()  # tensors of inference mode would have no gradients
        slots = as_distribution(machine.address_prior).has_enumerate_support
        descent = (_Slots if slots else _Descent)(machine, memory, cues, channel, observed, energy)
        patterns, energies, addresses = [cues], [descent.state.energy], [descent.state.address]
        converged = torch.zeros(cues.shape[:2], dtype=torch.bool, device=cues.device)
        active = ~converged
        for _ in range(num_steps):
            if bool(active.any()):
                descent.moved.zero_()
                if channel is None:
                    descent.x_step(active)
                    descent.attract(active)
                else:
                    descent.search(active)
            pattern = descent.pattern if channel is None else descent.state.mode
            patterns.append(torch.where(_like(active, cues), pattern, patterns[-1]))
            energies.append(descent.state.energy)
            addresses.append(descent.state.address)
            fall = energies[-2] - energies[-1]
            same = (patterns[-1] == patterns[-2]).flatten(2).all(-1)
            # those that stand still keep their last verdict
            converged = torch.where(active, (same | (fall <= tolerance)) & ~descent.broken, converged)
            still = converged & descent.settled() & (fall <= max(tolerance, _NEGLIGIBLE))
            if len(patterns) == 2:  # what a cue shows in hidden entries means nothing
                still &= descent.observed.flatten(2).all(-1)
            active &= ~still
        address = descent.where.address(torch.stack(addresses))
        return Retrieval(torch.stack(patterns), torch.stack(energies), address, converged)


def _check(num_steps: int, channel: Channel | None, tolerance: float) -> None:
    if num_steps < 0:
        raise ValueError(f"query(): num_steps is {num_steps}; expected 0 or more.")
    if not tolerance >= 0:
        raise ValueError(f"query(): tolerance is {tolerance}; expected nats, 0 or more.")
    check_channel(channel, "query()")


def check_channel(channel: object, caller: str) -> None:
    """:raises ValueError: if ``channel`` is neither None nor a channel."""
    if isinstance(channel, type) or not (channel is None or isinstance(channel, Channel)):
        raise ValueError(
            f"{caller}: channel is {channel!r}; expected None, a channel such as Flip(p) or GaussianNoise(scale), or "
            "an object with the methods posterior and log_evidence."
        )


def check_observed(observed: Tensor, cues: Tensor) -> Tensor:
    """``observed`` as large as ``cues``.

    :raises ValueError: if it is not bool, or does not broadcast.
    """
    if observed.dtype != torch.bool:
        raise ValueError(f"observed has dtype {observed.dtype}; expected torch.bool.")
    try:
        return observed.to(cues.device).expand(cues.shape)
    except RuntimeError:
        raise ValueError(
            f"observed has shape {tuple(observed.shape)}, which does not broadcast to the cues' shape "
            f"{tuple(cues.shape)}."
        ) from None
