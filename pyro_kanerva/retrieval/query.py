r"""The loop of a query: x-step and w-step alternate, and the energy never rises.

The x-step sets ``q(x) = p(x | c, w)``, see :mod:`pyro_kanerva.retrieval.energy`, and the w-step lowers the energy in
the address, see :mod:`pyro_kanerva.retrieval.descent`. A trial is kept only where the energy does not rise: for every
query, every encoder and every decoder. All queries run in one batch; those that have converged skip the networks.
Without a channel these are the attractor dynamics of Wu et al. 2018 (arXiv 1811.09556), section 3.4, with descent
enforced.
"""

import torch
from torch import Tensor

from pyro_kanerva._checks import check_at_least, check_dense, check_number
from pyro_kanerva.channels import Channel
from pyro_kanerva.model import Parts
from pyro_kanerva.priors import as_distribution
from pyro_kanerva.retrieval.base import Energy, Retrieval, check_energy
from pyro_kanerva.retrieval.descent import AttractorStep, ChannelStep, Descent, like
from pyro_kanerva.retrieval.energy import QueryEnergy
from pyro_kanerva.retrieval.slots import SlotEnergy, SlotStep

_NEGLIGIBLE = 0.01  # nats: a converged query goes on while its energy falls by more


@torch.inference_mode(False)
def query_energy(
    parts: Parts, matrix: Tensor, cues: Tensor, channel: Channel | None, observed: Tensor | None, energy: Energy
) -> QueryEnergy:
    """The energy of cues (B, Q) + E in M (B, K, C): over slots for one-hot addresses, else over real coordinates."""
    check_energy(energy)
    # tensors of inference mode have no gradients, but their clones do
    matrix, cues = (tensor.clone() if tensor.is_inference() else tensor for tensor in (matrix, cues))
    observed = None if observed is None else check_observed(observed, cues)
    discrete = as_distribution(parts.address_prior).has_enumerate_support
    return (SlotEnergy if discrete else QueryEnergy)(parts, matrix, cues, channel, observed, energy)


def query(function: QueryEnergy, num_steps: int, tolerance: float) -> Retrieval:
    """The iterative posterior query behind :meth:`pyro_kanerva.Memory.query`, for the energy of its cues.

    :raises ValueError: if a number is out of range, or the first energy is NaN or infinite.
    """
    check_at_least("query()", 0, num_steps=num_steps)
    check_number("query(): tolerance", tolerance, "nats, 0 or more")
    if not tolerance >= 0:
        raise ValueError(f"query(): tolerance is {tolerance}; expected nats, 0 or more.")
    with torch.inference_mode(False), torch.no_grad():
        descent, channel, cues = Descent(function), function.channel, function.cues
        w_step: SlotStep | AttractorStep | ChannelStep
        if isinstance(function, SlotEnergy):
            w_step = SlotStep(descent, function)
        else:
            w_step = (AttractorStep if channel is None else ChannelStep)(descent, function)
        patterns, energies, points = [cues], [descent.state.energy], [descent.state.point]
        converged = torch.zeros(cues.shape[:2], dtype=torch.bool, device=cues.device)
        active = ~converged
        for _ in range(num_steps):
            if bool(active.any()):
                descent.improved.zero_()
                if channel is None:
                    descent.x_step(active)
                w_step(active)
            pattern = descent.pattern if channel is None else descent.state.mode
            patterns.append(torch.where(like(active, cues), pattern, patterns[-1]))
            energies.append(descent.state.energy)
            points.append(descent.state.point)
            fall = energies[-2] - energies[-1]
            same = (patterns[-1] == patterns[-2]).flatten(2).all(-1)
            # Inactive queries keep their previous `converged` flag.
            converged = torch.where(active, (same | (fall <= tolerance)) & ~descent.not_finite, converged)
            # A failed trial is no sign of convergence while the gradient still predicts a fall.
            trusted = descent.improved | (w_step.predicted_decrease <= _NEGLIGIBLE)
            done = converged & trusted & (fall <= max(tolerance, _NEGLIGIBLE))
            if len(patterns) == 2:  # hidden entries of the cue are arbitrary: their change says nothing
                done &= function.observed.flatten(2).all(-1)
            active &= ~done
        address = function.coordinates.address(torch.stack(points))
        level = function.level(descent.state.point)
        result = Retrieval(torch.stack(patterns), torch.stack(energies), address, converged)
        result.level = level
        return result


def check_observed(observed: Tensor, cues: Tensor) -> Tensor:
    """``observed``, checked to be bool and as large as ``cues``."""
    check_dense("observed", observed, torch.bool)
    try:
        return observed.to(cues.device).expand(cues.shape)
    except RuntimeError:
        raise ValueError(
            f"observed has shape {tuple(observed.shape)}, which does not broadcast to the cues' shape "
            f"{tuple(cues.shape)}."
        ) from None
