"""A machine for images from a configuration of plain values, as the command line and files keep it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pyro_kanerva.likelihoods import BernoulliLikelihood, DiscretizedLogisticLikelihood, NormalLikelihood
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
from pyro_kanerva.writers import AmortizedWriter, FrameWriter, OnlineWriter, PseudoInverseWriter

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

#: Writers by name, called with the memory prior, number of slots and code size. They mix all slots.
WRITERS: dict[str, Callable[[nn.Module, int, int], nn.Module]] = {
    "online": lambda prior, slots, size: OnlineWriter(),
    "frame": lambda prior, slots, size: FrameWriter(prior),
    "pseudo-inverse": lambda prior, slots, size: PseudoInverseWriter(slots),
    "amortized": lambda prior, slots, size: AmortizedWriter(MLPEncoder((size,), slots, width=2 * max(size, slots))),
}

#: The address priors on all of R^K, which the writers above fit.
MIXING_PRIORS = ("gaussian", "laplace", "student-t", "horseshoe")

#: Values of keys that configurations of earlier versions lack.
ADDED_KEYS: dict[str, Any] = {"writer": None, "likelihood": "bernoulli", "color": False, "invert": False}

#: Likelihoods by name, for images: binary ones, 256 levels, and real numbers around 0 to 1.
LIKELIHOODS: dict[str, Callable[[], nn.Module]] = {
    "bernoulli": BernoulliLikelihood,
    "logistic": DiscretizedLogisticLikelihood,
    "normal": lambda: NormalLikelihood(0.2),
}


def build_machine(config: Mapping[str, Any], event_shape: Sequence[int]) -> KanervaMachine:
    """An untrained machine; its parameters depend on ``config["seed"]`` alone.

    :param config: has the keys "network", "width", "code_size", "slots", "memory_scale", "address_prior", "code_scale"
        and "seed"; "likelihood" is a key of ``LIKELIHOODS``, "writer" one of ``WRITERS``, or None for the one that fits
        the address prior. ``machine.config`` keeps it.
    :param event_shape: E, (channels, height, width).
    """
    config = {**ADDED_KEYS, **config}
    slots, code_size, scale = config["slots"], config["code_size"], config["memory_scale"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        encoder, decoder = NETWORKS[config["network"]](event_shape, code_size, config["width"])
        memory_prior = GaussianMemory(slots, code_size, None if scale is None else torch.full((slots,), scale))
        writer = None if config["writer"] is None else WRITERS[config["writer"]](memory_prior, slots, code_size)
        machine = KanervaMachine(
            encoder,
            decoder,
            memory_prior=memory_prior,
            address_prior=ADDRESS_PRIORS[config["address_prior"]](slots),
            likelihood=LIKELIHOODS[config["likelihood"]](),
            writer=writer,
            code_scale=config["code_scale"],
        )
    machine.config = dict(config)
    return machine
