"""What goes wrong when parts are swapped, and is told or put right."""

import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyro_kanerva import (
    CategoricalAddress,
    GaussianAddress,
    GaussianCode,
    GaussianMemory,
    KanervaMachine,
    LaplaceAddress,
    LaplaceReader,
    MatrixNormal,
    Memory,
    NormalLikelihood,
    OnlineWriter,
    PseudoInverseWriter,
    RefinedWriter,
    ScalarReader,
    SlotWriter,
    StudentTAddress,
    StudentTMemory,
    Surrogate,
)
from pyro_kanerva.evaluation import familiarity

K, C = 4, 5


class Identity:
    event_shape = (C,)

    def __call__(self, x):
        return x


def machine(**parts):
    parts.setdefault("memory_prior", GaussianMemory(K, C, 1.0))
    parts.setdefault("likelihood", NormalLikelihood(0.3, learned=False))
    return KanervaMachine(Identity(), Identity(), code_scale=parts.pop("code_scale", 0.3), **parts)


@pytest.mark.parametrize("writer", [None, PseudoInverseWriter(K)])
def test_slots_of_equal_mean_are_told(writer):
    with pytest.warns(UserWarning, match=r"same mean.*store nothing.*LaplaceMemory"):
        machine(memory_prior=dist.Laplace(torch.zeros(K, C), 0.2).to_event(2), writer=writer)


def test_a_writer_that_forgets_does_not_continue():
    built = machine(writer=PseudoInverseWriter(K))
    memory = built.write(torch.randn(1, 3, C))
    with pytest.raises(ValueError, match=r"PseudoInverseWriter .*would lose.*OnlineWriter"):
        memory.write(torch.randn(1, 3, C))
    machine().write(torch.randn(1, 3, C)).write(torch.randn(1, 3, C))  # others do


def test_draws_of_latent_codes_have_their_noise():
    """Of patterns generated at one address, the variance is that of z and of x given z."""
    built = machine(code_posterior=GaussianCode(C), code_scale=1.0, address_prior=narrow(K))
    memory = built.write(torch.randn(1, 3, C))
    means = memory.generate(20_000)[0]  # of x given z
    torch.testing.assert_close(means.var(0), torch.ones(C), atol=6 * (2 / 20_000) ** 0.5, rtol=0)
    # Gibbs: with w known, x ~ Normal(M^T w, sigma^2 + 0.3^2) in every sweep
    patterns = memory.sample(torch.zeros(1, 1, C), 4000, burn_in=0).patterns[:, 0, 0]
    spread = memory.posterior.loc.new_tensor(1.09)
    assert ((patterns.var(0) / spread - 1).abs() < 6 * (2 / 4000) ** 0.5).all()


def narrow(slots):
    """Addresses that are always 1 / K."""
    return dist.Normal(torch.full((slots,), 1 / slots), 1e-4).to_event(1)


def test_familiarity_does_not_depend_on_the_reader():
    prior, x = GaussianMemory(K, C, 1.0), torch.randn(1, 3, C)
    scores = [
        familiarity(built.write(x), x)
        for built in (machine(memory_prior=prior), machine(memory_prior=prior, reader=ScalarReader(0.05)))
    ]
    torch.testing.assert_close(scores[0], scores[1])


@pytest.mark.parametrize("positive", [False, True])
def test_a_mixture_of_addresses(positive):
    component = dist.Gamma if positive else dist.Normal
    which = dist.Categorical(torch.ones(K, 2))
    prior = dist.MixtureSameFamily(which, component(torch.full((K, 2), 2.0), torch.tensor([0.3, 2.0]))).to_event(1)
    built = machine(address_prior=prior)
    x = torch.randn(2, 6, C)
    elbo = Trace_ELBO(max_plate_nesting=2)
    with torch.no_grad():
        bounds = torch.stack([built.bound(x).bound.mean() for _ in range(100)])
        losses = torch.tensor([-elbo.loss(built.model, built.guide, x) / 12 for _ in range(100)])
    error = ((bounds.var() + losses.var()) / 100).sqrt()
    assert (bounds.mean() - losses.mean()).abs() < 6 * error
    assert (built.write(x).query(x).energy.diff(dim=0) <= 0).all()


@pytest.mark.parametrize(
    "prior",
    [
        dist.Dirichlet(torch.ones(K)),
        dist.Gamma(torch.full((K,), 2.0), torch.ones(K)).to_event(1),
        dist.LowRankMultivariateNormal(torch.zeros(K), torch.ones(K, 1), torch.ones(K)),
    ],
)
def test_inference_mode(prior):
    built, x = machine(address_prior=prior), torch.randn(1, 4, C)
    memory = built.write(x)
    expected = memory.read(x)
    with torch.inference_mode():
        torch.testing.assert_close(built.write(x).read(x), expected)
        assert built.bound(x).bound.isfinite().all()


def test_a_memory_of_another_address_prior_is_refused(tmp_path):
    prior = GaussianMemory(K, C, 1.0)
    machine(memory_prior=prior, address_prior=CategoricalAddress(K)).write(torch.randn(1, 3, C)).save(tmp_path / "m.pt")
    Memory.load(tmp_path / "m.pt", machine(memory_prior=prior, address_prior=CategoricalAddress(K)))
    for other in (GaussianAddress(K), LaplaceAddress(K)):
        with pytest.raises(ValueError, match="other parameters"):
            Memory.load(tmp_path / "m.pt", machine(memory_prior=prior, address_prior=other))
    machine(memory_prior=prior, address_prior=StudentTAddress(K, df=3)).write(torch.randn(1, 3, C)).save(
        tmp_path / "m.pt"
    )
    with pytest.raises(ValueError, match="other parameters"):
        Memory.load(tmp_path / "m.pt", machine(memory_prior=prior, address_prior=StudentTAddress(K, df=4)))


@pytest.mark.parametrize("scale", [0.005, 0.05, 5.0])
@pytest.mark.parametrize("family", [LaplaceAddress, StudentTAddress])
def test_newton_steps_for_priors_of_any_width(family, scale):
    """Scaled by its prior, an address has the same posterior under a memory scaled the other way."""
    memory, codes, noise = torch.randn(K, C), torch.randn(20, C), torch.tensor(0.5)
    q = LaplaceReader()(codes, memory / scale, family(K, scale=scale)(), noise)
    expected = LaplaceReader()(codes, memory, family(K, scale=1.0)(), noise)
    torch.testing.assert_close(q.loc / scale, expected.loc, atol=0.02, rtol=0.02)
    torch.testing.assert_close(q.stddev / scale, expected.stddev, atol=0.02, rtol=0.02)


def test_slots_that_are_not_equally_likely():
    """The default writer knows the prior: two equal slots, of which one is rare, and a code between them."""
    prior = dist.OneHotCategorical(torch.tensor([0.9, 0.1]))
    built = machine(memory_prior=MatrixNormal(torch.eye(2, C), torch.eye(2)), address_prior=prior)
    code = torch.tensor([0.5, 0.5, 0, 0, 0]).expand(1, 1, C)
    torch.testing.assert_close(
        SlotWriter(0, prior)(code, built.memory_prior, torch.tensor(1.0)).addresses[0, 0], prior.probs
    )
    assert built.write(code).records[0].addresses[0, 0, 0] > 0.9


def test_a_refined_write_is_that_of_the_guide():
    built = machine(
        memory_prior=Surrogate(StudentTMemory(K, C), GaussianMemory(K, C)), writer=RefinedWriter(OnlineWriter(8, 1))
    )
    x = torch.randn(1, 6, C)
    torch.manual_seed(1)
    expected = built.write_patterns(x, x).memory.loc
    torch.manual_seed(1)
    torch.testing.assert_close(built.write(x).posterior.loc, expected)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"code_posterior": lambda z: dist.Normal(z, 1.0)}, r"code_posterior returned .*to_event\(1\)"),
        ({"address_prior": dist.Bernoulli(torch.full((K,), 0.5)).to_event(1)}, "not one-hot"),
    ],
)
def test_parts_of_the_wrong_kind(parts, message):
    with pytest.raises(ValueError, match=message):
        machine(**parts).bound(torch.randn(1, 3, C))


def test_latent_codes_with_slots():
    built = machine(code_posterior=GaussianCode(C), address_prior=CategoricalAddress(K))
    bound = built.bound(torch.randn(2, 6, C), 3)
    assert bound.code_kl.shape == (2,)
    assert (bound.code_kl > 0).all()
