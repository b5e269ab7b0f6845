"""Queries whose address is one of the slots: the w-step tries every slot, and finds the best at once."""

import torch
from torch import Tensor

from pyro_kanerva.priors import Coordinates
from pyro_kanerva.retrieval.descent import Descent
from pyro_kanerva.retrieval.energy import PointEnergy, QueryEnergy


class SlotEnergy(QueryEnergy):
    """The energy at one-hot addresses; a point is the address itself."""

    def _prepare(self) -> None:
        if not isinstance(self.energy, PointEnergy):
            name = type(self.energy).__name__
            raise ValueError(f"query(): {name} expects real addresses, not slots. Use PointEnergy().")
        self.slots = self.prior.enumerate_support(expand=False)  # (K, K)
        self.outputs = self.parts.decoder_output(self.matrix)  # (B, K) + its shape: the decoder is not needed again
        self.coordinates = Coordinates(None, None, None, self.prior)
        self.scale_tril = self.matrix.new_zeros(())  # a point has no covariance
        self.deviations = self.energy.deviations(self.scale_tril, self.cues.shape[1])

    def center(self) -> Tensor:
        return self.nearest_point(self.prior.mean)

    def nearest_point(self, address: Tensor) -> Tensor:
        return self.slots[address.argmax(-1)]

    def _decode(self, points: Tensor, active: Tensor) -> Tensor:
        slot = points[0].argmax(-1)  # (B, Q)
        episode = torch.arange(len(slot), device=slot.device).unsqueeze(-1).expand_as(slot)
        return self.outputs[episode[active], slot[active]].unsqueeze(0)

    def _gradient(self, energy: Tensor, point: Tensor) -> Tensor:
        return torch.zeros_like(point)


class SlotStep:
    """The w-step: without a channel the best slot for the pattern, or for the clamped entries; else for the cue."""

    def __init__(self, descent: Descent, energy: SlotEnergy) -> None:
        self.descent, self.slots = descent, energy.slots
        self.clamped = energy.channel is None and bool(energy.clamped.any())
        self.predicted_decrease = torch.zeros_like(descent.state.energy)

    def __call__(self, active: Tensor) -> None:
        for slot in self.slots:
            self.descent.take_slot(slot, active, after_x_step=self.clamped)
        if self.clamped:
            self.descent.x_step(active)
