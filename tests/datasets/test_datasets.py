"""Glyphs, image files and episodes."""

import gzip
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from pyro_kanerva import Episodes, Images, binarize, glyphs, load_images
from pyro_kanerva.datasets import fonts

# ---------------------------------------------------------------------- glyphs


def test_glyphs():
    train, test = glyphs(), glyphs("test")
    assert len(train.images) + len(test.images) > 25_000
    assert train.images.shape[1:] == (28, 28)
    assert train.images.dtype == torch.uint8
    assert len(test.labels.unique()) > 500
    assert set(train.labels.tolist()).isdisjoint(test.labels.tolist())
    drawings = [{image.numpy().tobytes() for image in split.images} for split in (train, test)]
    assert drawings[0].isdisjoint(drawings[1])  # not even a look-alike of another script
    ink = (test.images > 127).flatten(1).sum(1)
    assert (ink > 0).all()
    assert 0.05 < ink.float().mean() / 784 < 0.3
    rows = torch.arange(28.0)
    centers = [
        (((image > 0).any(1) * rows).amax() + 27 - ((image > 0).any(1) * (27 - rows)).amax()) / 2
        for image in test.images[:50]
    ]
    assert torch.stack(centers).sub(13.5).abs().max() <= 1  # centered


def test_glyphs_are_cached_and_rendered_anew_when_the_cache_is_broken(tmp_path, monkeypatch):
    drawing = np.full((10, 28, 28), 255, np.uint8)
    calls = []
    monkeypatch.setattr(fonts, "_render", lambda: calls.append(1) or (drawing, np.arange(10)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        assert len(glyphs().images) == 8
    assert len(calls) == 1
    (path,) = (tmp_path / "pyro_kanerva").iterdir()
    path.write_bytes(path.read_bytes()[:100])
    assert len(glyphs("test").images) == 2
    assert len(calls) == 2


def test_glyphs_without_a_place_for_the_cache(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(fonts, "_render", lambda: (np.full((10, 28, 28), 255, np.uint8), np.arange(10)))
    assert len(glyphs().images) == 8


def test_look_alikes_share_a_label():
    images = np.stack([np.full((2, 2), value, np.uint8) for value in (1, 2, 2, 3, 3, 4)])
    labels = fonts._join_look_alikes(images, np.array([10, 10, 20, 20, 30, 40]))
    assert labels.tolist() == [0, 0, 0, 0, 0, 1] or labels.tolist() == [1, 1, 1, 1, 1, 0]


def test_bad_split():
    with pytest.raises(ValueError, match="split is 'valid'; expected 'train' or 'test'"):
        glyphs("valid")


# ---------------------------------------------------------------------- files


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (12, 9, 7), np.uint8)


def idx(array):
    return b"\x00\x00\x08\x03" + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def test_load_arrays(tmp_path, array):
    labels = np.arange(12, dtype=np.int32)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "b.npz", images=array, labels=labels, drawer=labels + 1, other=np.zeros((2, 2, 2)))
    np.savez(tmp_path / "c.npz", pictures=array)
    np.savez(tmp_path / "d.npz", images=array / 255.0)
    np.savez(tmp_path / "e.npz", images=array > 127)
    (tmp_path / "f-ubyte").write_bytes(idx(array))
    (tmp_path / "g-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    for name in sorted(os.listdir(tmp_path)):
        images, found = load_images(tmp_path / name)
        expected = (array > 127) * np.uint8(255) if name == "e.npz" else array
        assert images.dtype == torch.uint8
        np.testing.assert_array_equal(images.numpy(), expected, err_msg=name)
        if name == "b.npz":
            assert found.tolist() == labels.tolist()
            assert load_images(tmp_path / name, labels="drawer").labels.tolist() == (labels + 1).tolist()
        else:
            assert found is None


def test_load_folder(tmp_path, array):
    for number, image in enumerate(array):
        folder = tmp_path / f"class{number % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{number:02}.png")
    Image.fromarray(array[0]).convert("RGB").save(tmp_path / "class1" / "99.PNG")
    images, labels = load_images(tmp_path)
    np.testing.assert_array_equal(images.numpy(), np.concatenate([array[::2], array[1::2], array[:1]]))
    assert labels.tolist() == [0] * 6 + [1] * 7


def test_omniglot(omniglot):
    from conftest import data_file

    images, labels = load_images(data_file("data/omniglot_28x28.npz"), labels="alphabet")
    assert torch.equal(images, omniglot)
    assert len(labels.unique()) == 50


def test_bad_files(tmp_path, array):
    def write(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    np.savez(tmp_path / "whole.npz", images=array)
    np.savez(tmp_path / "two.npz", a=array, b=array)
    np.savez(tmp_path / "labels.npz", images=array, labels=np.zeros(3, int))
    np.savez(tmp_path / "flat.npz", images=array[0])
    np.savez(tmp_path / "wide.npz", images=array.astype(np.int64))
    np.savez(tmp_path / "range.npz", images=array * 1.0)
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "whole.npy", array)
    whole, compressed = (tmp_path / "whole.npz").read_bytes(), gzip.compress(idx(array))
    (tmp_path / "empty").mkdir()
    (tmp_path / "sizes").mkdir()
    Image.fromarray(array[0]).save(tmp_path / "sizes" / "a.png")
    Image.fromarray(array[0, :4]).save(tmp_path / "sizes" / "b.png")
    (tmp_path / "cut").mkdir()
    write("cut/a.png", (tmp_path / "sizes" / "a.png").read_bytes()[:60])
    for path, message in [
        (write("cut.npz", whole[: len(whole) // 2]), "not a whole NumPy file of plain arrays"),
        (write("cut.npy", (tmp_path / "whole.npy").read_bytes()[:200]), "cut off, or holds pickled"),
        (tmp_path / "pickle.npy", "cut off, or holds pickled"),
        (write("cut.idx", idx(array)[:100]), r"announces .* \(12, 9, 7\) but has 84 bytes"),
        (write("long.idx", idx(array) + b"0"), "cut off or broken"),
        (write("short.idx", idx(array)[:6]), "announces"),
        (write("cut.gz", compressed[: len(compressed) // 2]), "cut-off or broken gzip"),
        (write("other.gz", gzip.compress(b"hello")), "no IDX file"),
        (write("notes.txt", b"hello"), "no image file of a known type"),
        (tmp_path / "two.npz", "expected one called 'images'"),
        (tmp_path / "labels.npz", "expected integers of shape .12,"),
        (tmp_path / "flat.npz", r"shape \(9, 7\); expected images of shape"),
        (tmp_path / "wide.npz", "dtype int64; expected uint8"),
        (tmp_path / "range.npz", r"outside \[0, 1\]"),
        (tmp_path / "empty", "without PNG or JPEG"),
        (tmp_path / "sizes", r"height and width \(4, 7\); expected \(9, 7\)"),
        (tmp_path / "cut", "not a whole picture"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_images(path)
    with pytest.raises(ValueError, match="no array 'drawer'"):
        load_images(tmp_path / "whole.npz", labels="drawer")
    for name in ("nothing.npz", "nothing"):
        with pytest.raises(FileNotFoundError):
            load_images(tmp_path / name)


# ---------------------------------------------------------------------- episodes


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
        ((torch.zeros(10, 3, dtype=torch.int64), 4, 1), {}, "dtype torch.int64; expected a float or uint8"),
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
