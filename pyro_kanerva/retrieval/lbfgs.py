"""L-BFGS for many small problems at once."""

import torch
from torch import Tensor

from pyro_kanerva._precision import full_precision

_HISTORY = 8  # pairs of steps and gradient changes that are remembered


class BatchedLBFGS:
    """Search directions of limited-memory BFGS for a batch of problems, each with a history of its own.

    ::

        direction = -H g,    H from the last pairs s = x' - x, y = g' - g, starting at H0 = (s^T y / y^T P y) P

    A pair without positive curvature, ``s^T y <= 1e-10``, is left out, also where a problem did not move.

    :param preconditioner: P, a covariance, shape ``(B, n, n)``; one serves all Q problems of a memory.
    :param num_problems: Q.

    Source: Nocedal and Wright 2006, "Numerical Optimization", algorithm 7.4.
    """

    def __init__(self, preconditioner: Tensor, num_problems: int) -> None:
        self.preconditioner = preconditioner
        self.scale = preconditioner.new_ones(len(preconditioner), num_problems)  # of H0, relative to P
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []  # s, y, and 1 / s^T y, which is 0 for a left out pair

    @full_precision
    def precondition(self, gradient: Tensor) -> Tensor:
        """``P g``, (B, Q, n)."""
        return gradient @ self.preconditioner

    def direction(self, gradient: Tensor) -> Tensor:
        """``-H g`` by the two loops, (B, Q, n)."""
        direction, weights = -gradient, []
        for step, change, inverse in reversed(self.pairs):
            weights.append(inverse * (step * direction).sum(-1))
            direction = direction - weights[-1].unsqueeze(-1) * change
        direction = self.scale.unsqueeze(-1) * self.precondition(direction)
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            direction = direction + (weight - inverse * (change * direction).sum(-1)).unsqueeze(-1) * step
        return direction

    def update(self, step: Tensor, change: Tensor) -> None:
        """Remember the steps s and the changes y of the gradients, both (B, Q, n)."""
        product = (step * change).sum(-1)
        convex = product > 1e-10
        inverse = torch.where(convex, product, torch.inf).reciprocal()
        squared = (change * self.precondition(change)).sum(-1)
        self.scale = torch.where(convex & (squared > 0), product / squared, self.scale)
        self.pairs = [*self.pairs, (step, change, inverse)][-_HISTORY:]
