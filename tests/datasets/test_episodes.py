"""Episodes of images: each epoch deals every image once, and the stream is reproducible."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from pyro_kanerva import DiscretizedLogisticLikelihood, Episodes, Images, binarize


def test_an_epoch_deals_every_image_once():
    images = torch.arange(50.0).unsqueeze(1)
    episodes = Episodes(images, episode_length=4, batch_size=3, seed=1)
    assert len(episodes) == 4
    epochs = [torch.stack(list(episodes)) for _ in range(2)]
    for epoch in epochs:
        assert epoch.shape == (4, 3, 4, 1)
        assert len(epoch.unique()) == 48
    assert not torch.equal(*epochs)
    assert episodes.epoch == 2
    assert torch.equal(episodes[0], epochs[0][0])  # the stream does not depend on what was drawn before
    assert torch.equal(episodes[6], epochs[1][2])
    assert torch.equal(Episodes(images, 4, 3, seed=1)[6], epochs[1][2])
    assert not torch.equal(Episodes(images, 4, 3, seed=2)[6], epochs[1][2])


def test_episodes_of_one_class():
    labels = torch.tensor([0] * 3 + [1] * 6 + [2] * 5)
    images = torch.arange(14.0).unsqueeze(1)
    episodes = Episodes(images, episode_length=5, batch_size=40, labels=labels)
    drawn = labels[episodes[0].squeeze(-1).long()]
    assert (drawn == drawn[:, :1]).all()
    assert set(drawn[:, 0].tolist()) == {1, 2}  # label 0 has too few
    assert all(len(episode.unique()) == 5 for episode in episodes[0])
    assert torch.equal(episodes[3], episodes[3])


def test_bytes_are_binarized():
    images = torch.randint(0, 256, (20, 6, 5), dtype=torch.uint8)
    for source in (images, Images(images, None)):
        batch = Episodes(source, 4, 2)[0]
        assert batch.shape == (2, 4, 1, 6, 5)
        assert batch.dtype == torch.float32
        assert ((batch == 0) | (batch == 1)).all()
    assert binarize(torch.tensor([[[127, 128]]], dtype=torch.uint8)).tolist() == [[[[0.0, 1.0]]]]
    assert Episodes(torch.zeros(20, 3, 6, 5, dtype=torch.uint8), 4, 2)[0].shape == (2, 4, 3, 6, 5)


def test_levels_are_kept_on_request():
    images = torch.randint(0, 256, (20, 3, 6, 5), dtype=torch.uint8)
    for source, shape in ((images, (3, 6, 5)), (images[:, 0], (1, 6, 5))):
        levels, binary = (Episodes(source, 4, 2, binarize=flag) for flag in (False, True))
        assert levels[1].shape == (2, 4, *shape)
        assert levels[1].dtype == torch.float32
        assert torch.equal((levels[1] > 127.5 / 255).float(), binary[1])  # the same images
        torch.testing.assert_close((levels[1] * 255).round().unique(), source[levels._choose(1)].float().unique())
        DiscretizedLogisticLikelihood().check_patterns(levels[1], "episodes")
        assert levels.fingerprint() != binary.fingerprint()


def test_classes_stay_integers():
    batch = Episodes(torch.arange(40).view(20, 2), 4, 2)[0]
    assert batch.dtype == torch.int64


def test_dark_ink_on_a_light_ground_is_warned_of():
    light = torch.full((20, 6, 5), 255, dtype=torch.uint8)
    light[:, 2] = 0
    with pytest.warns(UserWarning, match="most pixels are above 127 and become 1.*pass 255 - images, or --invert"):
        Episodes(light, 4, 2)
    Episodes(255 - light, 4, 2)  # a warning would be an error here
    Episodes(light, 4, 2, binarize=False)


def test_with_a_data_loader():
    episodes = Episodes(torch.rand(40, 3), 4, 2)
    loader = DataLoader(episodes, batch_size=None, sampler=range(5, 10), num_workers=2)
    for index, batch in enumerate(loader, 5):
        assert torch.equal(batch, episodes[index])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.zeros(10, 3), 4, 3), {}, "10 images are too few for batches of 3 episodes of 4"),
        ((torch.zeros(10, 3), 0, 3), {}, "episode_length is 0"),
        ((torch.zeros(10, 3), 4, 0), {}, "batch_size is 0"),
        ((torch.zeros(10, 3, dtype=torch.bool), 4, 1), {}, "dtype torch.bool; expected a tensor: float, uint8 for im"),
        ((np.zeros((10, 3)), 4, 1), {}, "type ndarray"),
        ((torch.zeros(10, 3, dtype=torch.uint8), 4, 1), {}, r"expected \(N, height, width\) or"),
        ((torch.zeros(10, 3), 4, 1), {"labels": torch.zeros(9)}, r"labels have shape \(9,\); expected \(10,\)"),
        ((torch.zeros(10, 3), 4, 1), {"labels": torch.arange(10)}, "no label has 4 images; the largest has 1"),
    ],
)
def test_bad_episodes(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        Episodes(*arguments, **options)


def test_negative_index():
    with pytest.raises(IndexError, match="index is -1"):
        Episodes(torch.zeros(10, 3), 4, 1)[-1]


def test_binarize_images_of_0_to_1():
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    expected = binarize(levels)
    assert torch.equal(binarize(levels / 255), expected)
    assert torch.equal(binarize(levels.double() / 255), expected)
    assert torch.equal(binarize(levels > 127), expected)
    for outside in (levels.float(), -(levels / 255), levels / 255 * float("nan")):
        with pytest.raises(ValueError, match=r"outside \[0, 1\] or NaN. Rescale them"):
            binarize(outside)
