"""Gaussian noise that stays in [0, 1]: against sums over a fine grid, in float64 and float32."""

import math

import pyro.distributions as dist
import pytest
import torch
from helpers import known_memory_machine, small_machine
from hypothesis import given
from hypothesis import strategies as st

from pyro_kanerva import (
    ClampedGaussianNoise,
    DiscretizedLogisticLikelihood,
    Memory,
    NormalLikelihood,
    Occlusion,
    UnknownLevel,
    Where,
    retrieval_model,
)
from pyro_kanerva.distributions import DiscretizedLogistic, MatrixNormal
from pyro_kanerva.priors import as_distribution

FOLDED = pytest.mark.parametrize("folded", [False, True], ids=["clamped", "folded"])
CUES = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0.0, 1.0))


def double(*numbers):
    return torch.tensor(numbers, dtype=torch.float64)


def phi(z):
    return (-0.5 * z**2).exp() / math.sqrt(2 * math.pi)


def likelihood(cue, x, scale, folded):
    """p(c | x), from the definition of the channel: not a logarithm, and with erfc."""
    upper, lower = (0.5 * torch.erfc((1 - sign * x) / (scale * math.sqrt(2))) for sign in (1, -1))
    if cue == 1:
        return upper + lower if folded else upper
    if cue == 0 and not folded:
        return 0.5 * torch.erfc(x / (scale * math.sqrt(2)))
    density = phi((cue - x) / scale) / scale
    return density + phi((-cue - x) / scale) / scale if folded else density


@FOLDED
@pytest.mark.parametrize("pattern", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("scale", [0.1, 0.8, 5.0])
def test_point_masses_and_density_against_a_grid_of_noise(scale, pattern, folded):
    """P(c <= b) from all values of e: a step of the grid is 1e-5 scale."""
    e = scale * torch.linspace(-9, 9, 1_800_001, dtype=torch.float64)
    weight = phi(e / scale) * 1e-5
    noisy = pattern + e
    cues = (noisy.abs() if folded else noisy).clamp(0, 1)
    channel, known = ClampedGaussianNoise(scale, folded), dist.Delta(double(pattern))
    for end in (0.0, 1.0):
        found = channel.log_evidence(double(end), known).exp().item()
        share = weight[cues == end].sum().item()
        if folded and end == 0:  # a density, no point mass
            found, share = found * 1e-3, weight[cues <= 1e-3].sum().item()
        assert abs(found - share) < 1e-4 * max(share, 0.1)
    between = torch.linspace(0.2, 0.7, 10_001, dtype=torch.float64)
    density = channel.log_evidence(between, dist.Delta(double(pattern).expand_as(between))).exp()
    share = weight[(cues > 0.2) & (cues <= 0.7)].sum()
    assert abs(torch.trapezoid(density, between) - share) < 2e-4 * share


def normal(loc, scale):
    return dist.Normal(double(loc), double(scale))


def bernoulli(loc, _scale):
    return dist.Bernoulli(logits=double(loc))


def grey(loc, scale):
    return DiscretizedLogistic(double(loc), double(scale), 40)


def known(loc, _scale):
    return dist.Delta(double(min(max(loc, 0.0), 1.0)))


@FOLDED
@pytest.mark.parametrize("make", [normal, bernoulli, grey, known])
@pytest.mark.parametrize("scale", [0.05, 0.5, 5.0])
def test_total_probability_is_one(make, scale, folded):
    """Point masses at the ends and the integral between them."""
    channel, prediction = ClampedGaussianNoise(scale, folded), make(0.3, 0.2)
    cues = torch.linspace(0, 1, 20_001, dtype=torch.float64)[1:-1]
    between = channel.log_evidence(cues, prediction.expand(cues.shape)).exp()
    total = torch.trapezoid(between, cues) + 0.5 * (between[0] + between[-1]) * 5e-5
    total += 0.5 * (between[0] + between[-1]) * 5e-5  # the first and the last step of the grid
    ends = [channel.log_evidence(double(end), prediction).exp().item() for end in ((1.0,) if folded else (0.0, 1.0))]
    assert abs(total.item() + sum(ends) - 1) < 2e-4


@FOLDED
@given(
    loc=st.floats(-1, 2), cue=CUES, log_prediction=st.floats(-4.0, 0.7), log_noise=st.floats(-4.0, 1.5), data=st.data()
)
def test_bayes_rule_of_a_normal_prediction(folded, loc, cue, log_prediction, log_noise, data):
    """Evidence, mean, variance and mode against a grid of x that covers all of the prior that matters."""
    tau, scale = math.exp(log_prediction), math.exp(log_noise)
    prediction, cues = normal(loc, tau), double(cue)
    posterior = ClampedGaussianNoise(scale, folded).posterior(cues, prediction)
    width = 9 * tau
    centers = [
        posterior.mean.item(),
        loc,
        *(loc + tau**2 / (tau**2 + scale**2) * (y - loc) for y in (cue, -cue, 1, -1)),
    ]
    x = torch.linspace(min(centers) - width, max(centers) + width, 200_001, dtype=torch.float64)
    joint = phi((x - loc) / tau) / tau * likelihood(cue, x, scale, folded)
    evidence = torch.trapezoid(joint, x)
    if evidence < 1e-200:
        return
    mean = torch.trapezoid(x * joint, x) / evidence
    variance = torch.trapezoid((x - mean) ** 2 * joint, x) / evidence
    log_evidence = ClampedGaussianNoise(scale, folded).log_evidence(cues, prediction)
    torch.testing.assert_close(log_evidence[0], evidence.log(), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(posterior.mean[0], mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(posterior.variance[0], variance, rtol=1e-5, atol=1e-9)
    at = data.draw(st.integers(0, 200_000))
    if joint[at] > 1e-200:
        torch.testing.assert_close(posterior.log_prob(x[at])[0], (joint[at] / evidence).log(), rtol=1e-7, atol=1e-7)
    assert posterior.log_prob(posterior.mode)[0] >= (joint.max() / evidence).log() - 1e-6


@FOLDED
@given(cue=CUES, log_noise=st.floats(-3, 1.5), loc=st.floats(-0.5, 1.5), logit=st.floats(-8, 8))
def test_bayes_rule_of_bits_and_grey_levels(folded, cue, log_noise, loc, logit):
    """All values of x, one by one."""
    scale, cues = math.exp(log_noise), double(cue)
    channel = ClampedGaussianNoise(scale, folded)
    bits = dist.Bernoulli(logits=double(logit))
    levels = DiscretizedLogistic(double(loc), double(0.07), 70)
    for prediction, values in ((bits, double(0, 1)), (levels, torch.arange(70, dtype=torch.float64) / 69)):
        prior = prediction.log_prob(values.unsqueeze(-1)).squeeze(-1).exp()
        joint = prior * torch.stack([likelihood(cue, value, scale, folded) for value in values])
        if joint.sum() < 1e-200:
            continue
        torch.testing.assert_close(channel.log_evidence(cues, prediction)[0], joint.sum().log(), rtol=1e-8, atol=1e-8)
        posterior = channel.posterior(cues, prediction)
        torch.testing.assert_close(posterior.mean[0], (joint * values).sum() / joint.sum(), rtol=1e-8, atol=1e-10)
        if prediction is levels:
            assert joint[(values - posterior.mode).abs().argmin()] >= joint.max() * (1 - 1e-9)
            torch.testing.assert_close(posterior.log_prob(values).exp(), joint / joint.sum(), rtol=1e-6, atol=1e-12)


@FOLDED
@pytest.mark.parametrize("scale", [1e-3, 0.03, 0.5, 10.0])
@pytest.mark.parametrize("tau", [0.01, 0.3])
def test_float32_agrees_with_float64(tau, scale, folded):
    """For cues at the ends, next to them and between, and predictions far off."""
    grid = torch.cartesian_prod(
        torch.tensor([-0.5, 0.0, 0.2, 1.0, 1.5]), torch.tensor([0.0, 1e-4, 0.4, 1.0 - 1e-4, 1.0])
    )
    loc, cues = grid.unbind(-1)
    results = []
    for dtype in (torch.float32, torch.float64):
        m = loc.to(dtype).requires_grad_()
        prediction, channel = dist.Normal(m, torch.full_like(m, tau)), ClampedGaussianNoise(scale, folded)
        evidence = channel.log_evidence(cues.to(dtype), prediction)
        (gradient,) = torch.autograd.grad(evidence.sum(), m)
        with torch.no_grad():
            posterior = channel.posterior(cues.to(dtype), prediction)
            results.append((evidence, gradient, posterior.mean, posterior.mode, posterior.sample((20,)).mean(0)))
    for single, exact in zip(results[0][:-1], results[1][:-1], strict=True):
        # The gradient of torch's log_ndtr has a relative error of 2e-4, at -150 deviations.
        torch.testing.assert_close(single.double(), exact, rtol=2e-3 if single is results[0][1] else 2e-5, atol=2e-5)
    assert results[0][-1].isfinite().all()


@FOLDED
@pytest.mark.parametrize("make", [bernoulli, grey])
@pytest.mark.parametrize("scale", [1e-3, 0.5, 10.0])
def test_gradients_of_sums_are_finite_and_right(scale, make, folded):
    channel = ClampedGaussianNoise(scale, folded)
    for cue in (0.0, 0.4, 1.0):
        for loc in (-0.5, 0.3, 1.5):
            point = double(loc).requires_grad_()
            prediction = grey(0, 0.1) if make is grey else None

            def evidence(value, cue=cue, prediction=prediction):
                if prediction is None:
                    return channel.log_evidence(double(cue), dist.Bernoulli(logits=value)).sum()
                levels = DiscretizedLogistic(value, prediction.scale, 40, validate_args=False)
                return channel.log_evidence(double(cue), levels).sum()

            (gradient,) = torch.autograd.grad(evidence(point), point)
            high, low = (evidence(point.detach() + shift) for shift in (1e-6, -1e-6))
            torch.testing.assert_close(gradient[0], (high - low) / 2e-6, rtol=1e-4, atol=1e-4)


@FOLDED
@pytest.mark.parametrize(("cue", "loc"), [(0.0, 0.4), (0.0, 60.0), (0.3, 0.1), (1.0, 0.4), (1.0, -0.2), (1.0, -60.0)])
def test_samples_of_a_normal_posterior(folded, cue, loc):
    """Mean, and share below three points of the distribution function, within 5 standard errors."""
    number, tau, scale = 40_000, 0.5, 0.7
    posterior = ClampedGaussianNoise(scale, folded).posterior(double(cue), normal(loc, tau))
    draws = posterior.sample((number,)).squeeze(-1)
    mean, deviation = posterior.mean.item(), posterior.variance.sqrt().item()
    # Beyond 30 deviations, the tail is drawn with a relative error of 1e-3 of its own width.
    assert abs(draws.mean().item() - mean) < 5 * deviation / math.sqrt(number) + 1e-4
    x = torch.linspace(mean - 9 * deviation, mean + 9 * deviation, 100_001, dtype=torch.float64)
    density = posterior.log_prob(x).exp()
    below = torch.cumulative_trapezoid(density, x)
    assert abs(below[-1].item() - 1) < 1e-6
    for share in (0.1, 0.5, 0.9):
        bound = x[1:][below >= share][0]
        found = (draws <= bound).double().mean().item()
        assert abs(found - share) < 5 * math.sqrt(share * (1 - share) / number) + 1e-3


@FOLDED
def test_damage(folded):
    """Shares at the ends within 5 standard errors; every cue is legal; the generator decides."""
    number, pattern, scale = 40_000, 0.3, 0.5
    channel, patterns = ClampedGaussianNoise(scale, folded), torch.full((40_000,), 0.3)
    cues = channel(patterns)
    assert ((cues >= 0) & (cues <= 1)).all()
    for end in (0.0, 1.0):
        rate = 0.0 if folded and end == 0 else likelihood(end, double(pattern), scale, folded).item()
        share = (cues == end).double().mean().item()
        assert abs(share - rate) <= 5 * math.sqrt(rate * (1 - rate) / number)
    draws = [channel(patterns, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@FOLDED
def test_a_cue_outside_of_the_unit_interval_counts_as_the_nearest_end(folded):
    channel = ClampedGaussianNoise(0.3, folded)
    for make in (normal, bernoulli, grey, known):
        prediction = make(0.4, 0.2)
        for outside, end in ((-0.2, 0.0), (1.3, 1.0)):
            pair = [channel.log_evidence(double(cue), prediction) for cue in (outside, end)]
            assert torch.equal(*pair)
            pair = [channel.posterior(double(cue), prediction).mean for cue in (outside, end)]
            assert torch.equal(*pair)


def test_little_noise_returns_the_cue_and_much_noise_the_prediction():
    """Folded, the mode is the pattern although x = -c explains the cue as well; the mean is between both."""
    cues, prediction = double(0.5), normal(0.1, 0.5)
    posterior = ClampedGaussianNoise(1e-3, folded=True).posterior(cues, prediction)
    assert abs(posterior.mode.item() - 0.5) < 1e-4
    assert abs(posterior.mean.item() - 0.5 * math.tanh(0.5 * 0.1 / 0.25)) < 1e-4
    for folded in (False, True):
        flat = ClampedGaussianNoise(1e3, folded).posterior(cues, prediction)
        torch.testing.assert_close(flat.mean, double(0.1), atol=1e-3, rtol=0)
        torch.testing.assert_close(flat.mode, double(0.1), atol=1e-3, rtol=0)


@FOLDED
def test_unknown_level_of_grey_levels(folded):
    """EM reaches the maximum of the likelihood, and no iteration lowers it."""
    torch.manual_seed(0)
    prediction = DiscretizedLogistic(torch.rand(1, 2, 60).double(), double(0.1), 9)
    cues = ClampedGaussianNoise(0.4, folded)(prediction.sample())
    seen = torch.ones_like(cues, dtype=torch.bool)

    def total(channel):
        return channel.log_evidence(cues, prediction).sum(-1)

    start = ClampedGaussianNoise(1.5, folded)
    found = [UnknownLevel(start, n).resolve(cues, prediction, seen, (2,)) for n in (1, 5, 20, 200)]
    assert all(channel.folded == folded for channel in found)
    values = torch.stack([total(channel) for channel in (start, *found)])
    assert (values.diff(dim=0) >= -1e-9).all()
    best = torch.stack([total(ClampedGaussianNoise(s, folded)) for s in torch.linspace(0.05, 1.5, 300).tolist()])
    assert (values[-1] >= best.max(0).values - 1e-3).all()


def test_posterior_inside_masks():
    mask = torch.arange(6) % 2 == 0
    prediction, cues = dist.Normal(torch.rand(4, 2, 3, 6), torch.rand(6) + 0.1), torch.rand(2, 3, 6)
    one, other = ClampedGaussianNoise(0.3, folded=True), Occlusion(torch.arange(6) < 3)
    channel = Where(mask, one, other)
    for mixed, first, second in (
        (channel.log_evidence(cues, prediction), one.log_evidence(cues, prediction), None),
        (channel.posterior(cues, prediction).mean, one.posterior(cues, prediction).mean, None),
        (channel.posterior(cues, prediction).sample(), None, other.posterior(cues, prediction).sample()),
    ):
        assert mixed.shape == (4, 2, 3, 6)
        if first is not None:
            assert torch.equal(mixed[..., mask], first[..., mask])
        if second is not None:
            assert torch.equal(mixed[..., 1], second[..., 1])  # visible: the cue


def test_a_chain_draws_from_the_posterior():
    """One slot of a known memory: x is Normal before the cue, and exactly a NormalGivenClamped after it."""
    machine, matrix = known_memory_machine(1, 1, 0.5)
    channel, number = ClampedGaussianNoise(0.6, folded=True), 4000
    for cue in (0.3, 1.0):
        cues = torch.full((1, number, 1), cue, dtype=torch.float64)
        memory = Memory(machine, MatrixNormal(matrix[None], 1e-6 * torch.eye(1).double()[None]), (1,))
        address_scale = as_distribution(machine.address_prior).scale_tril.item()
        prior = normal(0.0, math.hypot(matrix.item() * address_scale, 0.5))
        draws = memory.sample(cues, 1, burn_in=60, channel=channel).patterns.flatten()
        exact = channel.posterior(double(cue), prior)
        assert abs(draws.mean() - exact.mean) < 5 * (exact.variance / number).sqrt()
        spread = exact.sample((200_000,))
        fourth = ((spread - exact.mean) ** 2).var() / number
        assert abs(((draws - exact.mean) ** 2).mean() - exact.variance) < 5 * fourth.sqrt()


def test_cues_of_grey_levels_need_not_be_levels():
    """With the channel that made them; without it they are no patterns."""
    machine = small_machine((6,), 3, 4, likelihood=DiscretizedLogisticLikelihood(0.1, 5))
    patterns = torch.randint(0, 5, (1, 4, 6)) / 4
    memory, channel = machine.write(patterns), ClampedGaussianNoise(0.3)
    cues = channel(patterns)
    for one in (channel, UnknownLevel(channel), Where(torch.arange(6) < 3, channel, ClampedGaussianNoise(0.1))):
        retrieval = memory.query(cues, num_steps=2, channel=one)
        assert ((retrieval.patterns[-1] * 4 - (retrieval.patterns[-1] * 4).round()).abs() < 1e-5).all()
        assert memory.energy(retrieval.address[-1], cues, channel=one).isfinite().all()
        draws = memory.sample(cues, 2, burn_in=1, channel=one).patterns
        assert ((draws * 4 - (draws * 4).round()).abs() < 1e-5).all()
    assert retrieval_model(memory, channel, cues).shape == patterns.shape
    for call in (memory.read, memory.query, lambda cues: memory.query(cues, channel=Occlusion(torch.arange(6) < 3))):
        with pytest.raises(ValueError, match="cues have entries other than the levels"):
            call(cues)
    with pytest.raises(ValueError, match="NaN or infinite entries"):
        memory.query(cues * torch.nan, channel=channel)


def test_energy_is_the_negative_log_joint():
    machine = small_machine((6,), 3, 4, likelihood=NormalLikelihood(0.2)).double()
    patterns = torch.rand(1, 4, 6, dtype=torch.float64)
    memory, channel = machine.write(patterns), ClampedGaussianNoise(0.3, folded=True)
    address, cues = torch.randn(1, 4, 3, dtype=torch.float64), channel(patterns)
    prediction = memory.predict(address)
    grid = torch.linspace(-8, 9, 40_001, dtype=torch.float64).view(-1, 1, 1, 1)
    terms = torch.stack([likelihood(cue, grid.flatten(), 0.3, True) for cue in cues.flatten()], -1)
    joint = prediction.log_prob(grid).exp() * terms.view(-1, *cues.shape)
    expected = -torch.trapezoid(joint, grid.flatten(), dim=0).log().sum(-1)
    expected = expected - dist.Normal(0, 1).log_prob(address).sum(-1)
    torch.testing.assert_close(memory.energy(address, cues, channel=channel), expected, rtol=1e-6, atol=1e-6)


def test_names():
    assert str(ClampedGaussianNoise(0.5)) == "ClampedGaussianNoise(0.5)"
    assert str(ClampedGaussianNoise(0.5, folded=True)) == "ClampedGaussianNoise(0.5, folded=True)"


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_bad_scale(scale):
    with pytest.raises(ValueError, match=r"ClampedGaussianNoise: scale is .*; expected a positive number"):
        ClampedGaussianNoise(scale)


def test_bad_patterns():
    channel = ClampedGaussianNoise(0.5)
    message = r"ClampedGaussianNoise\(0.5\): patterns have entries from -1 to 2; expected entries in \[0, 1\]. Rescale"
    for call in (channel, lambda patterns: channel.log_evidence(patterns, dist.Delta(patterns))):
        with pytest.raises(ValueError, match=message):
            call(torch.tensor([-1.0, 2.0]))


def test_another_likelihood():
    prediction, cues = dist.Categorical(logits=torch.zeros(1, 2, 3, 4)), torch.ones(1, 2, 3)
    message = (
        "damages entries of a Normal or Bernoulli or DiscretizedLogistic likelihood; this one is Categorical. Choose"
    )
    for channel in (ClampedGaussianNoise(0.5), UnknownLevel(ClampedGaussianNoise(0.5))):
        for call in (channel.log_evidence, channel.posterior):
            with pytest.raises(ValueError, match=message):
                call(cues, prediction)
