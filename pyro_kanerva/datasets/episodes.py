"""Episodes: sets of patterns, each to be stored in one memory."""

import hashlib
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_kanerva._checks import check_at_least, check_dense
from pyro_kanerva.datasets.files import Images


def binarize(images: Tensor) -> Tensor:
    """Binary patterns, 1 above 127, from uint8 images (N, height, width) or (N, channels, height, width).

    Of bool images, and of floating images in [0, 1], 1 is above 0.5.

    :return: float (N, channels, height, width), with one channel for grey images.
    :raises ValueError: if the images are of another type or shape, or floating images are outside [0, 1].
    """
    _check_images(images)
    unit = images.is_floating_point() or images.dtype == torch.bool
    if unit and not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("binarize(): floating images are outside [0, 1] or NaN. Rescale them to [0, 1].")
    patterns = (images > (0.5 if unit else 127)).to(torch.get_default_dtype())
    return patterns.unsqueeze(1) if patterns.dim() == 3 else patterns


def to_levels(images: Tensor) -> Tensor:
    """Levels 0, 1/255, ..., 1 from uint8 images (N, height, width) or (N, channels, height, width).

    :return: float (N, channels, height, width), with one channel for grey images.
    :raises ValueError: if the images are of another type or shape.
    """
    _check_images(images)
    patterns = images.to(torch.get_default_dtype()) / 255
    return patterns.unsqueeze(1) if patterns.dim() == 3 else patterns


def _check_images(images: Tensor) -> None:
    check_dense("images", images, torch.uint8, torch.bool, torch.float32, torch.float64)
    if images.dim() not in (3, 4):
        raise ValueError(
            f"images have shape {tuple(images.shape)}; expected (N, height, width) or (N, channels, height, width)."
        )


def derive_seed(seed: int, index: int) -> int:
    """A different seed for each index."""
    # A hash mixes both numbers into 32 bits: torch ignores the higher bits of a seed.
    return int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:4], "little")


_LIGHT = 0.65  # the share of light pixels above which images look like dark ink on a light ground
_binarize = binarize  # in Episodes the name is that of an argument


class Episodes(Dataset[Tensor]):
    """An endless, seeded stream of batches (B, T) + E drawn from a set of images.

    ``episodes[i]`` is batch ``i`` of the stream, the same at every call: a run that stopped after batch ``i`` continues
    with ``episodes[i + 1]``. An epoch has ``len(episodes)`` batches. Without ``labels`` every epoch shuffles the images
    and uses each at most once. With ``labels`` an episode holds ``episode_length`` different images of one label; the
    label is drawn uniformly among those with enough images.

    Every iteration yields one epoch and then advances ``episodes.epoch``, which may also be set. With a
    :class:`torch.utils.data.DataLoader` use ``batch_size=None`` and a range as ``sampler``.

    :param images: patterns (N,) + E, float or, for classes, int64; or images that are converted: uint8 (N, height,
        width) or (N, channels, height, width), or :class:`Images`.
    :param episode_length: T.
    :param batch_size: B.
    :param labels: integers (N,), one per image.
    :param binarize: True to convert uint8 images by :func:`binarize`, with a warning if most pixels become 1. False to
        keep their levels, divided by 255, for :class:`DiscretizedLogisticLikelihood` or :class:`NormalLikelihood`.
    :raises ValueError: if the images are too few or of an unusable type, or the labels do not fit them.
    """

    def __init__(
        self,
        images: Tensor | Images,
        episode_length: int,
        batch_size: int,
        seed: int = 0,
        labels: Tensor | None = None,
        *,
        binarize: bool = True,
    ) -> None:
        if isinstance(images, Images):
            images = images.images
        types = (torch.uint8, torch.int64)
        if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype in types):
            what = f"dtype {images.dtype}" if isinstance(images, Tensor) else f"type {type(images).__name__}"
            raise ValueError(
                f"Episodes: images have {what}; expected a tensor: float, uint8 for images, or int64 for classes. "
                "Convert an array with torch.from_numpy(), another dtype with .float()."
            )
        check_dense("Episodes: images", images)
        if images.dim() < 1:
            raise ValueError("Episodes: images are a single number; expected patterns (N,) + event shape.")
        if images.dtype == torch.uint8 and images.dim() not in (3, 4):
            raise ValueError(
                f"Episodes: uint8 images have shape {tuple(images.shape)}; expected (N, height, width) or "
                "(N, channels, height, width). Turn others into float patterns (N,) + event shape yourself."
            )
        check_at_least("Episodes", 1, episode_length=episode_length, batch_size=batch_size)
        needed = episode_length if labels is not None else episode_length * batch_size
        if len(images) < needed:
            raise ValueError(
                f"Episodes: {len(images)} images are too few for batches of {batch_size} episodes of {episode_length} "
                "patterns. Lower batch_size or episode_length."
            )
        if binarize and images.dtype == torch.uint8 and bool((images > 127).double().mean() > _LIGHT):
            warnings.warn(
                "Episodes: most pixels are above 127 and become 1, which is ink. If the images show dark ink on a "
                "light ground, pass 255 - images, or --invert in the command line.",
                stacklevel=2,
            )
        self.images, self.seed, self.epoch = images, seed, 0
        self._convert = _binarize if binarize else to_levels
        self.episode_length, self.batch_size = episode_length, batch_size
        self._shuffled: tuple[int, Tensor] | None = None  # an epoch and its order of the images
        self._groups: list[Tensor] | None = None
        if labels is not None:
            check_dense("Episodes: labels", labels)
            if labels.shape != images.shape[:1]:
                raise ValueError(f"Episodes: labels have shape {tuple(labels.shape)}; expected ({len(images)},).")
            # The indices of the images of each label.
            order = labels.argsort(stable=True)
            groups = order.split(labels.unique(return_counts=True)[1].tolist())
            self._groups = [group for group in groups if len(group) >= episode_length]
            if not self._groups:
                raise ValueError(
                    f"Episodes: no label has {episode_length} images; the largest has {max(map(len, groups))}. Lower "
                    "episode_length."
                )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return max(1, len(self.images) // (self.episode_length * self.batch_size))

    def __getitem__(self, index: int) -> Tensor:
        """Batch ``index`` of the stream, float (B, T) + E."""
        if index < 0:
            raise IndexError(f"Episodes: index is {index}; expected 0 or more, the stream has no end.")
        patterns = self.images[self._choose(index).flatten()]
        if patterns.dtype == torch.uint8:
            patterns = self._convert(patterns)
        return patterns.unflatten(0, (self.batch_size, self.episode_length))

    def __iter__(self) -> Iterator[Tensor]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        for index in range(epoch * len(self), (epoch + 1) * len(self)):
            yield self[index]

    def fingerprint(self) -> str:
        """A digest of images and settings, equal only for streams of equal batches."""
        groups = [] if self._groups is None else [group.tolist() for group in self._groups]
        levels = " levels" if self._convert is to_levels else ""
        digest = hashlib.sha256(f"{self.episode_length} {self.batch_size} {self.seed} {groups}{levels}".encode())
        digest.update(self.images.contiguous().numpy(force=True).tobytes())
        return digest.hexdigest()

    def _choose(self, index: int) -> Tensor:
        """The indices (B, T) of the images in batch ``index``."""
        generator, length = torch.Generator(), self.episode_length
        if self._groups is not None:
            generator.manual_seed(derive_seed(self.seed, index))
            labels = torch.randint(len(self._groups), (self.batch_size,), generator=generator).tolist()
            groups = [self._groups[label] for label in labels]
            return torch.stack([group[torch.randperm(len(group), generator=generator)[:length]] for group in groups])
        epoch, batch = divmod(index, len(self))
        if self._shuffled is None or self._shuffled[0] != epoch:
            generator.manual_seed(derive_seed(self.seed, epoch))
            self._shuffled = epoch, torch.randperm(len(self.images), generator=generator)
        size = self.batch_size * length  # the last images of an epoch that fill no batch are left out
        return self._shuffled[1][batch * size : (batch + 1) * size].view(self.batch_size, length)
