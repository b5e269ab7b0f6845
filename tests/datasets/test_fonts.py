"""The letters of matplotlib's fonts, and their cache."""

import numpy as np
import pytest
import torch

from pyro_kanerva import glyphs
from pyro_kanerva.datasets import fonts


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
