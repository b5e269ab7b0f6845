"""The guide of a Kanerva machine: it writes the episode, then reads every address."""

from collections.abc import Callable

import pyro
from torch import Tensor

from pyro_kanerva._checks import check_tensor
from pyro_kanerva._precision import autocast_off
from pyro_kanerva.model.generative_model import matrix_of_site, sample_address, weighted
from pyro_kanerva.model.parts import Parts


def variational_guide(
    parts: Parts,
    patterns: Tensor | None,
    *,
    autoencoder_weight: float = 0.0,
    memory_kl_weight: float = 1.0,
    cue_channel: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """``M ~ writer(z_1 ... z_T)``, ``w_t ~ reader(z_t, M)`` with the codes ``z_t = encoder(x_t)``.

    The options are those of :meth:`pyro_kanerva.KanervaMachine.training_pair`.
    """
    if patterns is None:
        raise ValueError(
            "guide(): patterns is None; expected the patterns from which memory and addresses are inferred. Only the "
            "model draws patterns: Predictive(machine.model, num_samples=S)(None), without a guide."
        )
    patterns = parts.check_patterns(patterns, "guide()")
    codes = parts.encode(patterns)
    cue_codes = codes if cue_channel is None else parts.encode(_damaged(cue_channel, patterns))
    posterior = parts.write_codes(codes).memory
    with pyro.plate("episode", patterns.shape[0], dim=-2):
        with weighted(memory_kl_weight):
            memory = pyro.sample("memory", posterior.unsqueeze(-1))  # (B, 1, K, C)
        with pyro.plate("pattern_plate", patterns.shape[1], dim=-1):
            with autocast_off(codes):
                sample_address(parts.read_codes(cue_codes, matrix_of_site(memory, patterns.shape[0])))
                if parts.code_posterior is not None:
                    pyro.sample("code", parts.read_code_posterior(codes))
            if autoencoder_weight:
                log_prob = parts.decode(codes, tuple(patterns.shape[2:])).log_prob(patterns)
                pyro.factor("autoencoder", -autoencoder_weight * log_prob, has_rsample=True)


def _damaged(cue_channel: Callable[[Tensor], Tensor], patterns: Tensor) -> Tensor:
    cues = cue_channel(patterns)
    check_tensor(
        "training_pair(): cue_channel", cues, f"damaged copies of the patterns, a tensor {tuple(patterns.shape)}"
    )
    if cues.shape != patterns.shape:
        raise ValueError(
            f"training_pair(): cue_channel returned shape {tuple(cues.shape)}; expected that of the patterns, "
            f"{tuple(patterns.shape)}."
        )
    return cues
