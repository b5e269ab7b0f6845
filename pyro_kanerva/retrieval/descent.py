"""The descent of a query: where every query stands, and the w-steps that never raise its energy."""

import torch
from torch import Tensor

from pyro_kanerva._precision import autocast_off
from pyro_kanerva.priors import point_address
from pyro_kanerva.retrieval.energy import QueryEnergy, Trial
from pyro_kanerva.retrieval.lbfgs import BatchedLBFGS

_LBFGS_STEPS = 3  # in each w-step of a query with a channel


def like(flags: Tensor, tensor: Tensor) -> Tensor:
    """``flags`` (B, Q) with singleton dimensions, to broadcast with a tensor that starts with (B, Q)."""
    return flags.view(flags.shape + (1,) * (tensor.dim() - flags.dim()))


class Descent:
    """The state of all queries. A move is kept only where it does not raise the energy.

    ``state`` is the :class:`Trial` where each query stands, ``pattern`` (B, Q) + E the x of the energy in queries
    without a channel. ``improved`` (B, Q) marks queries whose energy fell in this step, and ``not_finite`` those that
    had a NaN or infinite trial since their energy last fell.
    """

    def __init__(self, energy: QueryEnergy) -> None:
        self.energy, self.pattern = energy, energy.cues
        everyone = torch.ones(energy.cues.shape[:2], dtype=torch.bool, device=energy.cues.device)
        self.improved = ~everyone
        self.not_finite = ~everyone
        self.state = self._start(everyone)

    def _start(self, everyone: Tensor) -> Trial:
        """The closed-form address of the cue, whose hidden entries are first predicted at the center of the prior."""
        energy, cues = self.energy, self.energy.cues
        center = energy.center().expand(*cues.shape[:2], -1)
        other: Trial | None = None
        if not bool(energy.observed.all()):
            other = energy.evaluate(center, self.pattern, everyone)
            cues = torch.where(energy.observed, cues, other.expected)
            if energy.channel is None:
                self.pattern = torch.where(energy.observed, cues, other.mode)
            other = other._replace(energy=other.next_energy)  # that of the pattern as it is now
        trial = energy.evaluate(self.closed_form(cues, everyone), self.pattern, everyone)
        component = energy.best_component()
        if component is not None:
            best = energy.evaluate(component, self.pattern, everyone)
            trial = _choose(best.next_energy < trial.next_energy, best, trial)
        doubtful = (~energy.observed).flatten(2).any(-1) | ~trial.energy.isfinite()
        if bool(doubtful.any()):
            other = energy.evaluate(center, self.pattern, everyone) if other is None else other
            trial = _choose(doubtful & ~(trial.energy <= other.energy), other, trial)
        if not bool(trial.energy.isfinite().all()):
            raise ValueError(
                "query(): the energy of a cue is NaN or infinite. The decoder returns extreme values: if training "
                "diverged, lower the learning rate and resume from an earlier checkpoint."
            )
        return trial

    def closed_form(self, patterns: Tensor, active: Tensor) -> Tensor:
        """The reader's point (B, Q, n) for ``patterns`` (B, Q) + E. Points of inactive queries mean nothing."""
        parts = self.energy.parts
        codes = patterns.new_zeros(*active.shape, parts.code_size)
        codes[active] = parts.encode(patterns[active].unsqueeze(0)).squeeze(0)
        return self.energy.nearest_point(point_address(parts.read_codes(codes, self.energy.matrix)))

    def move(self, point: Tensor, active: Tensor) -> Tensor:
        """Go to ``point`` (B, Q, n) where that does not raise the energy. Returns where, (B, Q)."""
        trial = self.energy.evaluate(point, self.pattern, active)
        not_higher = trial.energy <= self.state.energy  # False for NaN
        improved = trial.energy < self.state.energy
        self.not_finite = (self.not_finite | (active & ~trial.energy.isfinite())) & ~improved
        self.improved |= improved
        self.state = _choose(not_higher, trial, self.state)
        return not_higher

    def take_slot(self, slot: Tensor, active: Tensor, after_x_step: bool) -> None:
        """Go to the one-hot address ``slot`` (K,) where the energy, or the one after the x-step, falls."""
        trial = self.energy.evaluate(slot.expand_as(self.state.point), self.pattern, active)
        new, old = (part.next_energy if after_x_step else part.energy for part in (trial, self.state))
        lower = active & (new < old)
        self.improved |= lower
        self.state = _choose(lower, trial, self.state)

    def x_step(self, active: Tensor) -> None:
        """Without a channel, the pattern becomes the mode of p(x | w); with one, ``evaluate`` includes the x-step."""
        better = active & (self.state.next_energy <= self.state.energy)
        self.pattern = torch.where(like(better, self.pattern), self.state.mode, self.pattern)
        self.state = self.state._replace(energy=torch.where(better, self.state.next_energy, self.state.energy))


def _choose(flags: Tensor, one: Trial, other: Trial) -> Trial:
    if bool(flags.all()):
        return one
    return Trial(*(torch.where(like(flags, new), new, old) for new, old in zip(one, other, strict=True)))


class WStep:
    """A w-step: it lowers the energy by changing the address, in real coordinates.

    ``predicted_decrease`` (B, Q): nats that a gradient step should gain, to first order. Without a channel it is the
    step just tried, with a channel the next one.
    """

    def __init__(self, descent: Descent, energy: QueryEnergy) -> None:
        self.descent = descent
        with autocast_off(energy.scale_tril):
            covariance = energy.scale_tril @ energy.scale_tril.mT  # of the address posterior
        self.lbfgs = BatchedLBFGS(covariance, energy.cues.shape[1])
        self.step_size = torch.ones_like(descent.state.energy)
        self.predicted_decrease = torch.zeros_like(self.step_size)
        self.closed_form_helps = torch.ones_like(descent.improved)

    def try_closed_form(self, patterns: Tensor, active: Tensor) -> Tensor:
        """Go to the closed-form address of ``patterns`` where it has always helped. Returns where it does, (B, Q)."""
        trying = active & self.closed_form_helps
        if not bool(trying.any()):
            return trying
        lower = self.descent.move(self.descent.closed_form(patterns, trying), trying)
        self.closed_form_helps &= lower | ~trying
        return lower


class AttractorStep(WStep):
    """Without a channel: the closed-form address of e(x), the paper's rule, then preconditioned gradient steps."""

    def __call__(self, active: Tensor) -> None:
        descent = self.descent
        rest = active & ~self.try_closed_form(descent.pattern, active)
        self.predicted_decrease = torch.zeros_like(self.predicted_decrease)
        if not bool(rest.any()):
            return
        gradient = descent.state.gradient
        direction = self.lbfgs.precondition(gradient)
        predicted_decrease = self.step_size * (gradient * direction).sum(-1)
        lower = descent.move(descent.state.point - self.step_size.unsqueeze(-1) * direction, rest)
        self.step_size = torch.where(rest, self.step_size * torch.where(lower, 1.5, 0.3), self.step_size)
        self.predicted_decrease = torch.where(rest, predicted_decrease, 0.0)


class ChannelStep(WStep):
    """With a channel: the closed-form address of the code of E_q[x] while it helps, then steps of L-BFGS."""

    def __call__(self, active: Tensor) -> None:
        descent = self.descent
        self.try_closed_form(descent.state.expected, active)
        for _ in range(_LBFGS_STEPS):
            old = descent.state
            lower = descent.move(old.point + self.step_size.unsqueeze(-1) * self.lbfgs.direction(old.gradient), active)
            self.lbfgs.update(descent.state.point - old.point, descent.state.gradient - old.gradient)
            self.step_size = torch.where(active & ~lower, self.step_size * 0.4, 1.0)
        gradient = descent.state.gradient
        self.predicted_decrease = self.step_size * (gradient * self.lbfgs.precondition(gradient)).sum(-1)
