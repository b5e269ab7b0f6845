"""Queries whose address is one of the slots: the w-step tries every slot, and finds the best at once."""

from functools import cached_property

import torch
from torch import Tensor

from pyro_kanerva.priors import Coordinates
from pyro_kanerva.retrieval.descent import Descent
from pyro_kanerva.retrieval.energy import PointEnergy, QueryEnergy


class SlotEnergy(QueryEnergy):
    """The energy at one-hot addresses; a point is the address itself."""

    def _coordinates(self) -> Coordinates:
        if not isinstance(self.energy, PointEnergy):
            name = type(self.energy).__name__
            raise ValueError(f"query(): {name} expects real addresses, not slots. Use PointEnergy().")
        return Coordinates(None, None, None, self.prior)

    @cached_property
    def scale_tril(self) -> Tensor:
        return self.matrix.new_zeros(())  # a slot has no covariance

    @cached_property
    def slots(self) -> Tensor:
        return self.prior.enumerate_support(expand=False)  # all one-hot addresses, (K, K)

    @cached_property
    @torch.no_grad()
    def outputs(self) -> Tensor:
        """The decoder's output for every slot, (B, K) + its shape; a query needs no other."""
        return self.parts.decoder_output(self.matrix)

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
    """The w-step: to the slot of lowest energy. With clamped entries it compares the energies after the x-step."""

    def __init__(self, descent: Descent, energy: SlotEnergy) -> None:
        self.descent, self.slots = descent, energy.slots
        self.clamped = energy.channel is None and bool(energy.clamped.any())
        self.predicted_decrease = torch.zeros_like(descent.state.energy)

    def __call__(self, active: Tensor) -> None:
        for slot in self.slots:
            self.descent.take_slot(slot, active, after_x_step=self.clamped)
        if self.clamped:
            self.descent.x_step(active)
