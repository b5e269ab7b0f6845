"""bfloat16

A training step as above, with the ELBO as a module and validation on. The baseline runs in float32. In the other case
the forward pass runs in `torch.autocast("cpu", dtype=torch.bfloat16)`: the networks run in bfloat16, the algebra stays
in float32.
"""

import pytest
import torch
from cases import machine_and_patterns, step_of
from pyro.infer import TraceMeanField_ELBO


@pytest.mark.parametrize("case", ["float32", "bfloat16 autocast"])
@pytest.mark.parametrize("width", [16, 32])
def test_precision(case, width, measure):
    machine, patterns = machine_and_patterns(width)
    loss = TraceMeanField_ELBO(max_plate_nesting=2)(*machine.training_pair())

    def loss_in_precision(patterns):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=case == "bfloat16 autocast"):
            return loss(patterns)

    measure(step_of(loss_in_precision, machine, patterns), f"width {width}", case, speed=True)
