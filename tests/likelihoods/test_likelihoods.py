"""Likelihoods: their densities, the patterns that they allow, and 8-bit images from training to recall."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import small_machine

from pyro_kanerva import (
    BernoulliLikelihood,
    CategoricalLikelihood,
    DiscretizedLogisticLikelihood,
    Episodes,
    NormalLikelihood,
    Occlusion,
    fit,
)
from pyro_kanerva.likelihoods.base import ChecksPatterns

SHAPE = (1, 4, 6)


def machine(likelihood):
    return small_machine(SHAPE, code_size=8, likelihood=likelihood)


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


LEGAL = {
    "bernoulli": (BernoulliLikelihood(), [0.0, 1.0]),
    "levels": (DiscretizedLogisticLikelihood(num_levels=5), [0.0, 0.25, 0.5, 0.75, 1.0]),
    "levels of 8 bits": (DiscretizedLogisticLikelihood(), [0.0, 1 / 255, 100 / 255, 1.0]),
    "classes": (CategoricalLikelihood(3), [0.0, 1.0, 2.0]),
}
ILLEGAL = [
    ("bernoulli", 0.5, r"entries other than 0 and 1; .*Binarize them, for example \(patterns > 0.5\).float\(\)"),
    ("bernoulli", -1.0, "entries other than 0 and 1"),
    ("bernoulli", 2.0, "entries other than 0 and 1"),
    ("bernoulli", math.nan, "entries other than 0 and 1"),
    (
        "levels",
        0.3,
        r"entries other than the levels 0, 1/4, ..., 1 of the likelihood. Divide integers from 0 to 4 by 4",
    ),
    ("levels", -0.25, "entries other than the levels"),
    ("levels", 1.25, "entries other than the levels"),
    ("levels of 8 bits", 0.3333, "entries other than the levels 0, 1/255, .*Divide integers from 0 to 255 by 255"),
    ("levels of 8 bits", 255.0, "entries other than the levels"),
    ("classes", 0.5, r"entries other than the classes 0 \.\.\. 2 of the likelihood"),
    ("classes", -1.0, "entries other than the classes"),
    ("classes", 3.0, "entries other than the classes"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", LEGAL)
def test_legal_patterns(kind, dtype):
    """Those of the support; the likelihood gives each of them a finite density."""
    likelihood, values = LEGAL[kind]
    assert isinstance(likelihood, ChecksPatterns)
    patterns = torch.tensor(values, dtype=dtype)
    likelihood.check_patterns(patterns.expand(2, 3, -1), "patterns")
    output = torch.zeros(len(values), 3) if kind == "classes" else torch.zeros(len(values))
    assert likelihood(output.to(dtype)).log_prob(patterns).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "value", "message"), ILLEGAL)
def test_illegal_patterns(kind, value, message, dtype):
    """A single entry is enough, and the message begins with the label."""
    likelihood, values = LEGAL[kind]
    patterns = torch.tensor(values, dtype=dtype).repeat(2, 3, 1)
    patterns[1, 2, 0] = value
    with pytest.raises(ValueError, match=rf"^write\(\): cues have {message}"):
        likelihood.check_patterns(patterns, "write(): cues")


def test_every_finite_pattern_is_legal_without_a_check():
    assert not isinstance(NormalLikelihood(), ChecksPatterns)
    built = machine(NormalLikelihood())
    assert built.bound(100 * torch.randn(2, 5, *SHAPE)).bound.isfinite().all()
    with pytest.raises(ValueError, match=r"bound\(\): patterns have NaN or infinite entries"):
        built.bound(torch.full((2, 5, *SHAPE), math.inf))


def test_machines_ask_their_likelihood():
    with pytest.raises(ValueError, match=r"bound\(\): patterns have entries other than the levels"):
        machine(DiscretizedLogisticLikelihood()).bound(torch.rand(1, 3, *SHAPE))


def test_logits_of_another_number_of_classes():
    with pytest.raises(ValueError, match=r"output has shape \(2, 4\); expected logits of 3 classes"):
        CategoricalLikelihood(3)(torch.zeros(2, 4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NormalLikelihood(0.0), "NormalLikelihood: scale is 0.0; expected a positive number"),
        (lambda: NormalLikelihood(-1.0), "NormalLikelihood: scale is -1.0; expected a positive number"),
        (lambda: NormalLikelihood(math.inf), "NormalLikelihood: scale is inf; expected a positive number"),
        (
            lambda: NormalLikelihood(torch.tensor([1.0, -1.0])),
            "NormalLikelihood: scale is .* expected a positive number",
        ),
        (lambda: DiscretizedLogisticLikelihood(scale=-1), "scale is -1; expected a positive number"),
        (lambda: DiscretizedLogisticLikelihood(num_levels=1), "num_levels is 1; expected at least 2"),
        (lambda: CategoricalLikelihood(1), "CategoricalLikelihood: num_classes is 1; expected at least 2"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_any_callable():
    built = machine(lambda output: dist.StudentT(3.0, output, 0.5))
    assert built.bound(torch.randn(2, 5, *SHAPE)).bound.isfinite().all()
