"""L-BFGS for many problems at once, against torch's own on each problem alone."""

import itertools

import pytest
import torch
from helpers import random_factor
from torch.nn.functional import softplus

from pyro_kanerva.retrieval.lbfgs import _HISTORY, BatchedLBFGS

pytestmark = pytest.mark.usefixtures("float64")

B, Q, N = 2, 3, 12
PROBLEMS = [(b, q) for b in range(B) for q in range(Q)]


class Convex:
    """``sum_i 2 log cosh(a_i^T u - b_i) + |u|^2 / 200``, with a and b of its own for each problem.

    Its curvature differs much between directions, so that L-BFGS needs many steps.
    """

    def __init__(self):
        scale = torch.logspace(0, -1.5, N)
        self.design, self.offset = torch.randn(B, Q, 2 * N, N) * scale, torch.randn(B, Q, 2 * N)

    def __call__(self, points):
        z = (self.design @ points.unsqueeze(-1)).squeeze(-1) - self.offset
        return (softplus(2 * z) + softplus(-2 * z)).sum(-1) + 0.005 * points.square().sum(-1)

    def gradient(self, points):
        with torch.enable_grad():
            leaf = points.detach().requires_grad_()
            return torch.autograd.grad(self(leaf).sum(), leaf)[0]


class Wavy(Convex):
    """The same plus waves, so that not every pair of a step and a change has positive curvature."""

    def __call__(self, points):
        return super().__call__(points) + 20 * points.sin().sum(-1)


def run_torch(function, number, factors=None):
    """Points, gradients and directions (B, Q, n) of ``number`` steps of torch's L-BFGS on each problem alone.

    With ``factors`` L (B, n, n) it works in coordinates v of the points, u = L v, and all three are given in u.
    """
    eye = torch.eye(N).expand(B, N, N)
    factors = eye if factors is None else factors
    leaves = {problem: torch.zeros(N).requires_grad_() for problem in PROBLEMS}
    optimizers = {
        problem: torch.optim.LBFGS([leaf], max_iter=1, history_size=_HISTORY, tolerance_grad=0, tolerance_change=0)
        for problem, leaf in leaves.items()
    }

    def points():
        return torch.stack([torch.stack([factors[b] @ leaves[b, q].detach() for q in range(Q)]) for b in range(B)])

    path = []
    for _ in range(number):
        before = points()
        gradient = function.gradient(before)
        direction = torch.empty_like(gradient)
        for (b, q), leaf in leaves.items():
            leaf.grad = factors[b].mT @ gradient[b, q]
            optimizers[b, q].step(lambda value=function(before)[b, q]: value)
            direction[b, q] = factors[b] @ optimizers[b, q].state[leaf]["d"]
        path.append((before, gradient, direction))
    return path


def curvatures(path):
    """``s^T y`` of the steps of a path, (number - 1, B, Q)."""
    pairs = itertools.pairwise(path)
    return torch.stack([((new[0] - old[0]) * (new[1] - old[1])).sum(-1) for old, new in pairs])


def directions_along(path, lbfgs):
    """The directions of ``lbfgs`` at the points and gradients of a path."""
    found = []
    for index, (point, gradient, _) in enumerate(path):
        if index:
            old_point, old_gradient, _ = path[index - 1]
            lbfgs.update(point - old_point, gradient - old_gradient)
        found.append(lbfgs.direction(gradient))
    return torch.stack(found)


def assert_same_directions(found, path):
    expected = torch.stack([direction for _, _, direction in path])
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert error.max() < 1e-8


@pytest.mark.parametrize("number", [1, 2, _HISTORY, 3 * _HISTORY])
def test_directions_are_those_of_torch(number):
    """At each of the same steps, for up to three times as many as are remembered."""
    path = run_torch(Convex(), number)
    assert number == 1 or curvatures(path).min() > 1e-8  # no pair is left out
    eye = torch.eye(N).expand(B, N, N)
    assert_same_directions(directions_along(path, BatchedLBFGS(eye, Q)), path)


def test_a_preconditioner_is_a_change_of_coordinates():
    """Of u = L v for P = L L^T."""
    factors = random_factor(B, N)
    path = run_torch(Convex(), 3 * _HISTORY, factors)
    assert_same_directions(directions_along(path, BatchedLBFGS(factors @ factors.mT, Q)), path)


def test_pairs_without_positive_curvature_are_left_out():
    """As in torch's own; here by different problems at different steps."""
    path = run_torch(Wavy(), _HISTORY)
    left_out = (curvatures(path) <= 0).sum(0)
    assert (left_out > 0).any()
    assert (left_out < _HISTORY - 1).all()
    eye = torch.eye(N).expand(B, N, N)
    assert_same_directions(directions_along(path, BatchedLBFGS(eye, Q)), path)


def test_a_problem_that_does_not_move_keeps_its_direction():
    function, lbfgs = Convex(), BatchedLBFGS(torch.eye(N).expand(B, N, N), Q)
    path = run_torch(function, 4)
    before = directions_along(path, lbfgs)[-1]
    step = torch.randn(B, Q, N)
    step[0, 1] = 0.0
    lbfgs.update(step, torch.rand(B, Q, N) * step)
    after = lbfgs.direction(path[-1][1])
    assert torch.equal(after[0, 1], before[0, 1])
    assert not torch.equal(after[1, 1], before[1, 1])


def test_problems_do_not_influence_each_other():
    """Each problem has the directions that it has alone, also beside a problem that is NaN."""
    path = run_torch(Convex(), 2 * _HISTORY)
    factors = random_factor(B, N)
    covariances = factors @ factors.mT
    together = directions_along(path, BatchedLBFGS(covariances, Q))
    for b, q in PROBLEMS:
        alone = [tuple(part[b : b + 1, q : q + 1] for part in step) for step in path]
        found = directions_along(alone, BatchedLBFGS(covariances[b : b + 1], 1))
        torch.testing.assert_close(found, together[:, b : b + 1, q : q + 1], rtol=1e-10, atol=1e-12)
    for _, gradient, _ in path[3:]:
        gradient[1, 2] = torch.nan
    broken = directions_along(path, BatchedLBFGS(covariances, Q))
    assert broken[3:, 1, 2].isnan().all()
    others = torch.ones(B, Q, dtype=torch.bool)
    others[1, 2] = False
    assert torch.equal(broken[:, others], together[:, others])


def descend(function, preconditioner, number=300):
    """Points (B, Q, n) after steps of L-BFGS, each shortened until it does not raise the function."""
    lbfgs = BatchedLBFGS(preconditioner, Q)
    point, length = torch.zeros(B, Q, N), torch.ones(B, Q)
    for _ in range(number):
        gradient = function.gradient(point)
        trial = point + length.unsqueeze(-1) * lbfgs.direction(gradient)
        lower = function(trial) <= function(point)
        length = torch.where(lower, 1.0, 0.4 * length)
        trial = torch.where(lower.unsqueeze(-1), trial, point)
        lbfgs.update(trial - point, function.gradient(trial) - gradient)
        point = trial
    return point


@pytest.mark.parametrize("preconditioned", [False, True])
def test_it_finds_the_minimum(preconditioned):
    """Within 1e-7 of the value that torch's L-BFGS with a line search finds for each problem alone."""
    function = Convex()
    factors = random_factor(B, N) if preconditioned else torch.eye(N).expand(B, N, N)
    found = descend(function, factors @ factors.mT)
    assert (function(found) < function(torch.zeros(B, Q, N)) - 1).all()
    for b, q in PROBLEMS:
        leaf = torch.zeros(N).requires_grad_()
        optimizer = torch.optim.LBFGS([leaf], max_iter=500, line_search_fn="strong_wolfe", tolerance_change=1e-14)

        def closure(b=b, q=q, leaf=leaf, optimizer=optimizer):
            optimizer.zero_grad()
            value = function(leaf.expand(B, Q, N))[b, q]
            value.backward()
            return value

        optimizer.step(closure)
        assert abs(function(found)[b, q] - closure()) < 1e-7


def test_the_gradient_is_preconditioned():
    factors = random_factor(B, N)
    covariance = factors @ factors.mT
    gradient = torch.randn(B, Q, N)
    lbfgs = BatchedLBFGS(covariance, Q)
    expected = torch.einsum("bij,bqj->bqi", covariance, gradient)
    torch.testing.assert_close(lbfgs.precondition(gradient), expected)
    torch.testing.assert_close(lbfgs.direction(gradient), -expected)  # with no pairs yet
