"""Likelihoods in a machine: Normal of every kind of scale, and 8-bit images, from training to recall."""

import math

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva import (
    DiscretizedLogisticLikelihood,
    Episodes,
    GaussianMemory,
    KanervaMachine,
    MLPDecoder,
    MLPEncoder,
    NormalLikelihood,
    Occlusion,
    fit,
)

SHAPE = (1, 4, 6)


def machine(likelihood):
    return KanervaMachine(
        MLPEncoder(SHAPE, 8, 32), MLPDecoder(8, SHAPE, 32), memory_prior=GaussianMemory(6, 8), likelihood=likelihood
    )


@pytest.mark.parametrize("scale", [0.3, torch.full(SHAPE, 0.3), torch.linspace(0.1, 1, 6)])
def test_normal_scales(scale):
    likelihood = NormalLikelihood(scale)
    output, patterns = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE)
    expected = -0.5 * ((patterns - output) / scale).square() - torch.log(
        torch.as_tensor(scale) * math.sqrt(2 * math.pi)
    )
    torch.testing.assert_close(likelihood(output).log_prob(patterns), expected)
    built = machine(likelihood)
    built.bound(torch.randn(2, 5, *SHAPE)).bound.sum().backward()
    assert likelihood.log_scale.grad.shape == torch.as_tensor(scale).shape
    assert (likelihood.log_scale.grad != 0).all()


def test_a_fixed_scale_stays():
    likelihood = NormalLikelihood(0.5, learned=False)
    fit(machine(likelihood), Episodes(torch.randn(40, *SHAPE), 5, 2), num_steps=3, progress=False)
    assert likelihood.log_scale.item() == pytest.approx(math.log(0.5))


def test_grey_levels():
    """Gradients of 256 grey levels are learned, written, and completed where they are hidden."""
    ramp = torch.linspace(0, 1, 6)
    steepness = torch.rand(64, 1, 1, 1)
    images = (steepness * ramp + 0.2 * torch.linspace(0, 1, 4).unsqueeze(-1)).clamp(0, 1)
    images = (images * 255).round() / 255
    built = machine(DiscretizedLogisticLikelihood())
    before = built.bound(images[:40].view(5, 8, *SHAPE)).bound.mean().item()
    fit(built, Episodes(images, 8, 4), num_steps=400, learning_rate=5e-3, progress=False)
    patterns = images[:8].unsqueeze(0)
    bound = built.bound(patterns).bound.mean().item()
    assert bound > before
    assert -24 * math.log(256) < bound < 0  # better than uniform levels; probabilities, so below zero
    memory = built.write(patterns)
    for channel, observed in ((None, None), (Occlusion(torch.arange(6) < 3), None), (None, torch.arange(6) < 3)):
        retrieval = memory.query(patterns, channel=channel, observed=observed, num_steps=5)
        assert (retrieval.energy.diff(dim=0) <= 0).all()
        levels = retrieval.patterns * 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    blank = (patterns[..., 3:] - 0.5).abs().mean()
    completed = memory.query(patterns, channel=Occlusion(torch.arange(6) < 3)).patterns[-1]
    assert (completed - patterns)[..., 3:].abs().mean() < blank / 2


def test_patterns_that_are_no_levels():
    with pytest.raises(ValueError, match=r"levels 0, 1/255, .*Divide integers from 0 to 255 by 255"):
        machine(DiscretizedLogisticLikelihood()).bound(torch.rand(1, 3, *SHAPE))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormalLikelihood(0.0), "positive standard deviations"),
        (lambda: NormalLikelihood(torch.tensor([1.0, -1.0])), "positive standard deviations"),
        (lambda: DiscretizedLogisticLikelihood(scale=-1), "positive number"),
        (lambda: DiscretizedLogisticLikelihood(num_levels=1), "at least 2"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_any_callable():
    built = machine(lambda output: dist.StudentT(3.0, output, 0.5))
    assert built.bound(torch.randn(2, 5, *SHAPE)).bound.isfinite().all()
