"""``fit`` takes batches from anything that holds them, and continues where it stopped."""

import itertools

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from pyro_kanerva import Episodes, fit
from pyro_kanerva.training.checkpoint import read_settings

IMAGES = (torch.rand(40, 1, 5, 7, generator=torch.Generator().manual_seed(1)) < 0.3).float()
BATCHES = list(IMAGES.view(2, 4, 5, 1, 5, 7))


class Damaged(torch.utils.data.Dataset):
    """Episodes with random flips, drawn from the global random state."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        episode = IMAGES[5 * index : 5 * index + 5]
        return torch.where(torch.rand(episode.shape) < 0.1, 1 - episode, episode), index


SOURCES = {
    "list": lambda: BATCHES,
    "loader": lambda: DataLoader(IMAGES.view(8, 5, 1, 5, 7), batch_size=4),
    "loader of tuples": lambda: DataLoader(TensorDataset(IMAGES.view(8, 5, 1, 5, 7)), batch_size=4),
    "generator function": lambda: lambda: (batch for batch in BATCHES),
    "endless generator": lambda: itertools.cycle(BATCHES),
}


def trained(make_machine, batches, num_steps=5, **options):
    torch.manual_seed(7)
    return fit(make_machine(), batches, num_steps=num_steps, progress=False, **options).losses


@pytest.mark.parametrize("source", SOURCES)
def test_all_sources_give_the_same_run(make_machine, source):
    """Two batches, used in turn for five steps."""
    losses = trained(make_machine, SOURCES[source]())
    assert losses == trained(make_machine, [BATCHES[i % 2] for i in range(5)])
    assert losses != trained(make_machine, BATCHES[:1])


def test_a_batch_may_be_one_episode(make_machine):
    assert trained(make_machine, [IMAGES[:8]]) == trained(make_machine, [IMAGES[None, :8]])


SOURCES_WITH_CHANCE = {
    **SOURCES,
    "shuffled loader": lambda: DataLoader(Damaged(), batch_size=3, shuffle=True),
    "generator of a loader": lambda: lambda: iter(DataLoader(Damaged(), batch_size=3, shuffle=True)),
}


@pytest.mark.parametrize("source", SOURCES_WITH_CHANCE)
def test_resume_leaves_out_used_batches(make_machine, tmp_path, source):
    """Also those of a loader that draws order and damage from the global random state, which nobody seeds."""
    whole = trained(make_machine, SOURCES_WITH_CHANCE[source](), num_steps=7)

    def kill(done):
        if done.step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(
            make_machine, SOURCES_WITH_CHANCE[source](), num_steps=7, folder=tmp_path, checkpoint_every=4, callback=kill
        )
    machine = make_machine()
    torch.manual_seed(99)
    options = {"num_steps": 7, "folder": tmp_path, "resume": True, "progress": False}
    assert fit(machine, SOURCES_WITH_CHANCE[source](), **options).losses == whole
    # a finished run draws no batch
    assert fit(machine, iter([]), **options).losses == whole
    assert read_settings(tmp_path)["episode_length"] == 5  # which load_run() needs


def test_the_order_of_a_loader_depends_on_the_seed_alone(make_machine):
    losses = []
    for seed, state in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(7)
        machine = make_machine()
        torch.manual_seed(state)
        loader = DataLoader(Damaged(), batch_size=3, shuffle=True)
        losses.append(fit(machine, loader, num_steps=3, seed=seed, progress=False).losses)
    assert losses[0] == losses[1] != losses[2]


def test_batches_that_end(make_machine):
    generator = (batch for batch in BATCHES)
    with pytest.raises(ValueError, match=r"ended after 2 batches; expected 3, .* Pass the function that makes it"):
        trained(make_machine, generator, num_steps=3)
    assert len(trained(make_machine, (batch for batch in BATCHES), num_steps=2)) == 2
    with pytest.raises(ValueError, match="ended after 0 batches; expected 3"):
        trained(make_machine, [], num_steps=3)
    used = iter(BATCHES)
    with pytest.raises(ValueError, match="ended after 2 batches; expected 3"):
        trained(make_machine, lambda: used, num_steps=3)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (IMAGES, r"episodes is a tensor; expected batches. Pass Episodes\(images, episode_length, batch_size\)"),
        (3, "episodes is of type int; expected Episodes, a DataLoader, a list of batches, or a function"),
        ([{"image": BATCHES[0]}], r"batch 0 of episodes is of type dict; expected a tensor \(B, T\)"),
        ([[]], "batch 0 of episodes is of type list"),
        ([BATCHES[0], BATCHES[0][:, :, 0]], r"fit\(\): patterns .*with patterns.unsqueeze\(2\)"),
        ([BATCHES[0] * 0.5], "entries other than 0 and 1"),
    ],
)
def test_bad_batches(make_machine, batches, message):
    with pytest.raises(ValueError, match=message):
        trained(make_machine, batches)


def test_a_run_of_episodes_does_not_continue_with_other_batches(make_machine, tmp_path):
    trained(make_machine, Episodes(IMAGES, 5, 4), folder=tmp_path)
    with pytest.raises(ValueError, match=r"run with other arguments: episodes was '.*', now None"):
        trained(make_machine, BATCHES, folder=tmp_path, resume=True, num_steps=6)
