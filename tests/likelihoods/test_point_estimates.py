"""Mean and mode of the entries of a pattern, also of mixtures, against brute force."""

import pyro.distributions as dist
import pytest
import torch

from pyro_kanerva.likelihoods import expected_and_mode, joint_mode, mean_and_mode

pytestmark = pytest.mark.usefixtures("float64")


def test_bernoulli():
    mean, mode = mean_and_mode(dist.Bernoulli(logits=torch.tensor([-1.0, 0.0, 2.0])))
    torch.testing.assert_close(mean, torch.tensor([-1.0, 0.0, 2.0]).sigmoid())
    assert mode.tolist() == [0.0, 0.0, 1.0]


def test_classes_have_no_mean():
    """Both are the most likely class."""
    mean, mode = mean_and_mode(dist.Categorical(logits=torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])))
    assert mean.tolist() == mode.tolist() == [1.0, 0.0]
    assert mode.dtype == torch.float64


def test_mean_where_there_is_no_mode():
    """Where torch knows no mode, or an infinite one, the mean stands in for it."""
    entries = dist.ContinuousBernoulli(logits=torch.tensor([-1.0, 2.0]))
    mean, mode = mean_and_mode(entries)
    assert torch.equal(mean, entries.mean)
    assert torch.equal(mode, mean)
    infinite = dist.FisherSnedecor(torch.tensor(1.0), torch.tensor(5.0))
    mean, mode = mean_and_mode(infinite)
    assert mode.isfinite()
    log_normal = dist.LogNormal(torch.zeros(2), 0.5)
    mean, mode = mean_and_mode(log_normal)
    assert torch.equal(mode, log_normal.mode)
    assert (mode < mean).all()


def test_masked_mixtures():
    """Each entry is that of its own component."""
    mask = torch.tensor([True, False, True])
    one, other = dist.Normal(torch.arange(3.0), 1.0), dist.Delta(torch.full((3,), 9.0))
    mean, mode = mean_and_mode(dist.MaskedMixture(mask, other, one))
    assert mean.tolist() == mode.tolist() == [0.0, 9.0, 2.0]
    mask, shape = mask.expand(4, 3), torch.Size((4, 3))
    loc = torch.randn(4, 3)
    entries = dist.MaskedMixture(mask, other.expand(shape), dist.Normal(loc, 1.0))
    mean, mode = expected_and_mode(entries)
    torch.testing.assert_close(mean, torch.where(mask[0], loc.mean(0), torch.full((3,), 9.0)))


def test_equal_mixtures():
    """Over the first dimension: the mean of the means, and the mode of the averaged probabilities."""
    logits = torch.tensor([[-0.1, 5.0, -5.0], [-0.1, -0.5, 0.5], [1.0, -0.5, 0.5]])
    mean, mode = expected_and_mode(dist.Bernoulli(logits=logits))
    torch.testing.assert_close(mean, logits.sigmoid().mean(0))
    assert torch.equal(mode, (logits.sigmoid().mean(0) > 0.5).double())
    classes = torch.randn(5, 7, 4)
    mean, mode = expected_and_mode(dist.Categorical(logits=classes))
    assert torch.equal(mode, classes.softmax(-1).mean(0).argmax(-1).double())
    assert torch.equal(mean, mode)
    loc = torch.randn(5, 7)
    for value in expected_and_mode(dist.Normal(loc, 1.0)):
        torch.testing.assert_close(value, loc.mean(0))
    for value in expected_and_mode(dist.Normal(loc[:1], 1.0)):
        assert torch.equal(value, loc[0])


def test_joint_mode():
    """The x with the largest sum of log p_s(x), among all values or on a grid."""
    bernoulli = dist.Bernoulli(logits=2 * torch.randn(3, 20))
    values = torch.tensor([0.0, 1.0]).view(2, 1, 1)
    assert torch.equal(joint_mode(bernoulli), bernoulli.log_prob(values).sum(1).argmax(0).double())
    classes = dist.Categorical(logits=torch.randn(3, 20, 4))
    values = torch.arange(4.0).view(4, 1, 1)
    assert torch.equal(joint_mode(classes), classes.log_prob(values.expand(4, 3, 20)).sum(1).argmax(0).double())
    normal = dist.Normal(torch.randn(3, 20), 0.2 + torch.rand(3, 20))
    grid = torch.linspace(-4, 4, 8001).view(-1, 1, 1)
    best = grid.flatten()[normal.log_prob(grid).sum(1).argmax(0)]
    torch.testing.assert_close(joint_mode(normal), best, rtol=0, atol=1e-3)


def test_joint_mode_that_is_not_known():
    laplace = dist.Laplace(torch.randn(3, 20), 1.0)
    with pytest.raises(
        ValueError, match=r"Bernoulli, Categorical or Normal likelihood; this one is Laplace. Use PointEnergy"
    ):
        joint_mode(laplace)
    single = dist.Laplace(laplace.loc[:1], 1.0)
    assert torch.equal(joint_mode(single), single.loc[0])
