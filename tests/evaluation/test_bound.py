"""The bound of held-out episodes."""

import pytest
import torch

from pyro_kanerva.evaluation import evaluate_bound


def test_the_bound_of_every_episode(make_machine, patterns):
    """Batch after batch, without gradients; patterns (T,) + E are one episode."""
    machine = make_machine()
    torch.manual_seed(1)
    found = evaluate_bound(machine, [patterns, patterns[0]], num_particles=2)
    torch.manual_seed(1)
    expected = [machine.bound(batch, num_particles=2) for batch in (patterns, patterns[:1])]
    for name in ("reconstruction", "address_kl", "memory_kl"):
        terms = getattr(found, name)
        torch.testing.assert_close(terms, torch.cat([getattr(bound, name) for bound in expected]).detach())
        assert terms.shape == (4,)
        assert not terms.requires_grad


def test_no_batches(make_machine):
    with pytest.raises(ValueError, match=r"evaluate_bound\(\): batches is empty"):
        evaluate_bound(make_machine(), [])
