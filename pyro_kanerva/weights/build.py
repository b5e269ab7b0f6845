"""A machine for images from a configuration of plain values, as the command line and files keep it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.networks import ConvDecoder, ConvEncoder, LinearEncoder, MLPDecoder, MLPEncoder, ShortcutDecoder
from pyro_kanerva.priors import (
    CategoricalAddress,
    GaussianAddress,
    GaussianMemory,
    HorseshoeAddress,
    LaplaceAddress,
    MixtureAddress,
    SimplexAddress,
    StudentTAddress,
)

#: Address priors by name, each called with the number of slots.
ADDRESS_PRIORS: dict[str, Callable[[int], nn.Module]] = {
    "mixture": MixtureAddress,
    "slots": CategoricalAddress,
    "gaussian": GaussianAddress,
    "laplace": LaplaceAddress,
    "student-t": StudentTAddress,
    "horseshoe": HorseshoeAddress,
    "simplex": SimplexAddress,
}

#: Networks by name: encoder and decoder, called with event shape, code size and width.
NETWORKS: dict[str, Callable[[Sequence[int], int, int], tuple[nn.Module, nn.Module]]] = {
    "linear": lambda shape, size, width: (LinearEncoder(shape, size), ShortcutDecoder(size, shape, width)),
    "mlp": lambda shape, size, width: (MLPEncoder(shape, size, width), MLPDecoder(size, shape, width)),
    "conv": lambda shape, size, width: (ConvEncoder(shape, size, width), ConvDecoder(size, shape, width)),
}


def build_machine(config: Mapping[str, Any], event_shape: Sequence[int]) -> KanervaMachine:
    """An untrained machine; its parameters depend on ``config["seed"]`` alone.

    :param config: has the keys "network", "width", "code_size", "slots", "memory_scale", "address_prior", "code_scale"
        and "seed". ``machine.config`` keeps it.
    """
    slots, code_size, scale = config["slots"], config["code_size"], config["memory_scale"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        encoder, decoder = NETWORKS[config["network"]](event_shape, code_size, config["width"])
        machine = KanervaMachine(
            encoder,
            decoder,
            memory_prior=GaussianMemory(slots, code_size, None if scale is None else torch.full((slots,), scale)),
            address_prior=ADDRESS_PRIORS[config["address_prior"]](slots),
            code_scale=config["code_scale"],
        )
    machine.config = dict(config)
    return machine
