"""A training step

Loss, gradients and Adam for 8 episodes of 32 binary images of 28 x 28 pixels, with `ConvEncoder` and `ConvDecoder`,
K = 32, C = 100. The baseline is the same mathematics by hand: the same networks and writer, no Pyro. Assertions check
that its loss agrees to 1e-5 and its gradients to 1e-3. Pyro's validation is on by default;
`pyro.enable_validation(False)` switches it off. `fit` uses the ELBO as a module, with torch's Adam.
"""

import pyro
import pytest
import torch
from baselines import training_loss
from cases import Goal, machine_and_patterns, step_of
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO

ELBOS = {"closed-form divergences": TraceMeanField_ELBO, "estimated divergences": Trace_ELBO}
CASES = ("by hand", "ELBO as a module, no validation", "`SVI.step`, no validation", "`SVI.step`")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("divergences", ELBOS)
@pytest.mark.parametrize("width", [16, 32])
def test_step(case, divergences, width, measure):
    machine, patterns = machine_and_patterns(width)
    elbo = ELBOS[divergences](max_plate_nesting=2)
    group = f"width {width}, {divergences}: `{type(elbo).__name__}`"

    def by_hand(patterns):
        return training_loss(machine, patterns, closed_form=elbo.__class__ is TraceMeanField_ELBO)

    with pyro.validation_enabled("no validation" not in case):
        if case == "by hand":
            check_agreement(machine, patterns, by_hand, elbo(*machine.training_pair()))
            measure(step_of(by_hand, machine, patterns), group, case)
        elif "SVI" in case:
            svi = SVI(*machine.training_pair(), pyro.optim.Adam({"lr": 1e-3}), elbo)
            measure(lambda: svi.step(patterns), group, case, Goal(at_most=1.2))
        else:
            measure(step_of(elbo(*machine.training_pair()), machine, patterns), group, case, Goal(at_most=1.2))


def check_agreement(machine, patterns, *losses):
    results = []
    for loss in losses:
        machine.zero_grad()
        torch.manual_seed(1)
        value = loss(patterns)
        value.backward()
        gradients = [parameter.grad.clone() for parameter in machine.parameters()]
        results.append((value.detach(), gradients))
    (first, expected), (second, found) = results
    torch.testing.assert_close(second, first, rtol=1e-5, atol=0)
    for own, by_hand in zip(found, expected, strict=True):
        torch.testing.assert_close(own, by_hand, rtol=1e-3, atol=1e-3 * by_hand.abs().max().item())
