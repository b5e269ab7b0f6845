"""Images from files of several kinds, and files that are broken."""

import gzip
import os

import numpy as np
import pytest
import torch
from helpers import data_file
from PIL import Image

from pyro_kanerva import load_images
from pyro_kanerva.datasets.files import read_picture


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


def test_color_images(tmp_path):
    color = np.random.default_rng(0).integers(0, 256, (5, 9, 7, 3), np.uint8)
    expected = np.moveaxis(color, 3, 1)
    np.save(tmp_path / "last.npy", color)
    np.savez(tmp_path / "first.npz", pictures=expected / 255.0, labels=np.arange(5))
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(color):
        Image.fromarray(image).save(tmp_path / "folder" / f"{number}.png")
    for name in ("last.npy", "first.npz", "folder"):
        images, _ = load_images(tmp_path / name, mode="RGB")
        np.testing.assert_array_equal(images.numpy(), expected, err_msg=name)
    assert load_images(tmp_path / "folder").images.shape == (5, 9, 7)
    for name in ("last.npy", "first.npz"):
        with pytest.raises(ValueError, match=r'holds color images.*Keep the colors with .*mode="RGB"\) or --color'):
            load_images(tmp_path / name)
    np.save(tmp_path / "grey.npy", color[..., 0])
    grey = load_images(tmp_path / "grey.npy", mode="RGB").images
    np.testing.assert_array_equal(grey.numpy(), np.repeat(color[..., 0][:, None], 3, 1))
    with pytest.raises(ValueError, match="mode is 'grey'; expected 'L' for grey or 'RGB' for color"):
        load_images(tmp_path / "grey.npy", mode="grey")


@pytest.mark.parametrize("ink", [0, 255])
@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_a_drawing_on_a_transparent_ground_stays_visible(tmp_path, ink, mode):
    """Transparent pixels have the color of the ink: without their alpha the picture would be blank."""
    drawn = np.zeros((9, 7), bool)
    drawn[2:5, 3] = True
    picture = Image.fromarray(np.where(drawn, 255, 0).astype(np.uint8))
    if mode == "P":
        picture = Image.fromarray(drawn.astype(np.uint8)).convert("P")
        picture.putpalette([ink] * 6)
        picture.save(tmp_path / "a.png", transparency=0)
    else:
        colors = Image.new("L", picture.size, ink)
        bands = [colors] * (3 if mode == "RGBA" else 1)
        Image.merge(mode, [*bands, picture]).save(tmp_path / "a.png")
    for color in ("L", "RGB"):
        (image,) = load_images(tmp_path, mode=color).images
        grey = image if color == "L" else image[0]
        assert set(grey.unique().tolist()) == {0, 255}
        assert ((grey == ink).numpy() == drawn).all()


def test_a_picture_is_fitted_and_padded(tmp_path):
    image = np.full((40, 80), 200, np.uint8)
    image[:, 40:] = 10
    Image.fromarray(image).save(tmp_path / "a.png")
    fitted = read_picture(tmp_path / "a.png", "L", (20, 20))
    assert fitted.shape == (20, 20)
    assert (fitted[:4] == 200).all()  # padded with the color of the first pixel
    assert (fitted[6:14, :8] > 190).all()  # resampling may overshoot at the edge
    assert (fitted[6:14, 12:] < 20).all()


def test_omniglot(omniglot):
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


def test_pictures_of_16_bits_are_scaled(tmp_path, array):
    Image.fromarray(array[0].astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(read_picture(tmp_path / "a.png", "L"), array[0])
    assert np.array_equal(read_picture(tmp_path / "a.png", "RGB")[..., 1], array[0])


def test_stray_things_in_a_folder(tmp_path, array):
    """Hidden files, such as those of archives of macOS, hidden folders, and folders with the name of a picture."""
    for folder in ("a", "b", ".hidden", "a/c.png"):
        (tmp_path / folder).mkdir()
    for name in ("a/1.png", "b/2.png", ".hidden/3.png"):
        Image.fromarray(array[0]).save(tmp_path / name)
    for name in ("a/._1.png", "b/Thumbs.db", "b/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    images, labels = load_images(tmp_path)
    assert (len(images), labels.tolist()) == (2, [0, 1])


def test_a_folder_has_no_names_of_labels(tmp_path, array):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(array[0]).save(tmp_path / name / "1.png")
    assert load_images(tmp_path, labels="labels").labels.tolist() == [0, 1]
    np.save(tmp_path / "a.npy", array)
    for path in (tmp_path, tmp_path / "a.npy"):
        with pytest.raises(ValueError, match=r"has no labels 'nonsense'; only the arrays of \.npz files have names"):
            load_images(path, labels="nonsense")


def test_images_that_compress_well(tmp_path):
    """Below the limit, which is far above that of images."""
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((1000, 90, 90), np.uint8))
    assert load_images(tmp_path / "a.npz").images.shape == (1000, 90, 90)
