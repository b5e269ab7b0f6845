"""A query

Ten steps of a query with the channel and without one. The cues are letters with salt-and-pepper noise, 4 episodes of
32. The machine is that of the training step, of width 16, after 200 steps on other letters. The baseline is ten plain
passes of the cues through encoder and decoder, without gradients. The last column shows the decoder passes of a cue so
far and the share of wrong pixels, after each step. With a channel a pass is forward and backward; without one, most
passes are forward only.
"""

import pytest
import torch
from cases import SEED, machine_and_patterns

import pyro_kanerva as pk
from pyro_kanerva.evaluation import entry_error

STEPS = 10
PASSES = f"{STEPS} passes through encoder and decoder"
WEAK, STRONG = pk.SaltAndPepper(0.15), pk.SaltAndPepper(0.3)
CASES = {  # the noise of the cues, and the channel of the query
    PASSES: (WEAK, None),
    "15% noise, with the channel": (WEAK, WEAK),
    "15% noise, without a channel": (WEAK, None),
    "30% noise, with the channel": (STRONG, STRONG),
    "30% noise, without a channel": (STRONG, None),
}


@pytest.fixture(scope="module")
def machine():
    machine, _ = machine_and_patterns(width=16)
    episodes = pk.Episodes(pk.glyphs(), 32, 8, seed=SEED)
    pk.fit(machine, episodes, num_steps=200, learning_rate=6e-3, memory_kl_weight=0.4, progress=False)
    return machine


@pytest.mark.parametrize("case", CASES)
def test_query(case, machine, measure):
    noise, channel = CASES[case]
    patterns = pk.Episodes(pk.glyphs("test"), 32, 4, seed=SEED)[0]
    cues = noise(patterns, torch.Generator().manual_seed(SEED))
    memory = machine.write(patterns)

    @torch.no_grad()
    def pass_through():
        for _ in range(STEPS):
            machine.decode(machine.encode(cues), memory.event_shape)

    group = f"{patterns.shape[:2].numel()} cues"
    if case == PASSES:
        measure(pass_through, group, case)
        return
    by_step = ", ".join(f"{passes:.1f}: {error:.2%}" for passes, error in cost_by_step(memory, patterns, cues, channel))
    measure(
        lambda: memory.query(cues, num_steps=STEPS, channel=channel),
        group,
        case,
        **{"decoder passes of a cue: wrong pixels": by_step},
    )


def cost_by_step(memory, patterns, cues, channel):
    """After each step the decoder passes of a cue so far, and the share of wrong pixels."""
    rows, found = [], []
    handle = memory.machine.decoder.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    for steps in range(1, STEPS + 1):
        rows.clear()
        recalled = memory.query(cues, num_steps=steps, channel=channel).patterns[-1]
        found.append((sum(rows) / cues.shape[:2].numel(), entry_error(recalled, patterns).mean().item()))
    handle.remove()
    return found
