"""Results of the library that the page computes again: its self-test compares them."""

from typing import Any

import torch
from torch import Tensor

from pyro_kanerva.channels import SaltAndPepper
from pyro_kanerva.distributions import GaussianMixture
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.retrieval import Energy, PointEnergy, VariationalEnergy
from pyro_kanerva.retrieval.query import query_energy

NOISE = 0.3  # salt and pepper of the cue
_SAMPLES = 4  # of the variational energy


@torch.no_grad()
def golden_vectors(machine: KanervaMachine, patterns: Tensor) -> dict[str, Any]:
    """Tensors and lists by name, computed in the dtype of ``machine``.

    The memory holds the first 8 of ``patterns`` (N,) + E. The cue is the first pattern with noise, and where pixels are
    hidden, with its right half hidden. ``queries`` have the energies in nats (11,) and the last pattern E.
    """
    stored = patterns[None, :8]
    memory, channel = machine.write(stored), SaltAndPepper(NOISE)
    cue = channel(stored[:, :1], torch.Generator(stored.device).manual_seed(0))
    matrix, visible = memory.posterior.loc, torch.arange(stored.shape[-1]) < stored.shape[-1] // 2
    erased, continued = memory.erase(memory.records[0], 0), memory.write(patterns[None, :2])
    q = machine.read_codes(machine.encode(cue), matrix)
    assert isinstance(q, GaussianMixture)
    points = torch.stack(
        [q.heaviest_mean[0, 0], q.mean[0, 0], q.mean[0, 0].new_full(q.event_shape, 1 / q.event_shape[0])]
    )
    observed = {False: None, True: visible}
    energies = {
        name: memory.energy(points[None], cue, channel=channel if known else None, observed=observed[hidden])[0]
        for name, known, hidden in (("channel", True, False), ("masked", True, True), ("none", False, False))
    }
    variational = VariationalEnergy(_SAMPLES)
    scale_tril = query_energy(machine, matrix, cue, channel, None, variational).scale_tril
    queries = []
    for known, hidden, kind in (
        (True, False, "point"), (False, False, "point"), (True, True, "point"), (False, True, "point"),
        (True, False, "variational"), (False, False, "variational"),
    ):  # fmt: skip
        energy: Energy = PointEnergy() if kind == "point" else variational
        path = memory.query(cue, channel=channel if known else None, observed=observed[hidden], energy=energy)
        result = {"energies": path.energy[:, 0, 0], "pattern": path.patterns[-1, 0, 0]}
        queries.append({"channel": known, "hidden": hidden, "kind": kind, **result})
    return {
        "noise": NOISE,
        "cue": cue[0, 0],
        "visible": visible.expand(stored.shape[2:]),
        "code": machine.encode(stored)[0, 0],
        "logits": machine.decoder_output(machine.encode(stored))[0, 0],
        "memory_loc": matrix[0],
        "memory_variance": memory.posterior.row_covariance[0].diagonal(),
        "erased_variance": erased.posterior.row_covariance[0].diagonal(),
        "continued_variance": continued.posterior.row_covariance[0].diagonal(),
        "full_variance": machine.write(patterns[None]).posterior.row_covariance[0].diagonal(),
        "address_weights": q.weights[0, 0],
        "address": q.heaviest_mean[0, 0],
        "points": points,
        "energies": energies,
        "deviations": variational.deviations(scale_tril, 1)[:, 0, 0],
        "queries": queries,
    }
