"""bfloat16 and compilation

A training step as above, ELBO as a module and validation on: in float32; with the forward pass in
`torch.autocast("cpu", dtype=torch.bfloat16)`, where the networks run in bfloat16 and the algebra stays in float32; and
after `machine.compile("writer", "reader")` and `machine.compile()`, whose first step compiles.
"""

import time

import pytest
import torch
from cases import machine_and_patterns, step_of
from pyro.infer import TraceMeanField_ELBO


@pytest.mark.filterwarnings("default")  # those of the compiler
@pytest.mark.parametrize("case", ["float32", "bfloat16 autocast", "writer and reader compiled", "all compiled"])
@pytest.mark.parametrize("width", [16, 32])
def test_precision(case, width, measure, tmp_path, monkeypatch):
    machine, patterns = machine_and_patterns(width)
    loss = TraceMeanField_ELBO(max_plate_nesting=2)(*machine.training_pair())
    if "compiled" in case:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        torch.compiler.reset()
        machine.compile(*(["writer", "reader"] if "reader" in case else []))

    def loss_in_precision(patterns):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "bfloat16 autocast"):
            return loss(patterns)

    step = step_of(loss_in_precision, machine, patterns)
    started = time.perf_counter()
    step()
    first = time.perf_counter() - started
    measure(step, f"width {width}", case, speed=True, **{"first step, s": f"{first:.1f}"})
