"""Episodes: batches of patterns that are stored in one memory each."""

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pyro_kanerva.datasets.files import Images


def binarize(images: Tensor) -> Tensor:
    """Images uint8 (N, height, width) or (N, channels, height, width) to binary patterns: ink above 127.

    Float (N, channels, height, width), with one channel for grey images.
    """
    patterns = (images > 127).to(torch.get_default_dtype())
    return patterns.unsqueeze(1) if patterns.dim() == 3 else patterns


def derive_seed(seed: int, number: int) -> int:
    """A seed of its own for each number; torch uses the lower 32 bits of a seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}".encode()).digest()[:4], "little")


class Episodes(Dataset[Tensor]):
    """An endless, seeded stream of batches (B, T) + E drawn from a set of images.

    ``episodes[i]`` is batch ``i`` of the stream, the same at every call: a run that stopped after batch
    ``i`` goes on with ``episodes[i + 1]``. One epoch is ``len(episodes)`` batches. Without ``labels``
    the images of each epoch are shuffled and dealt out, so that none comes twice in an epoch; with
    ``labels`` each episode holds ``episode_length`` different images of one label, drawn uniformly among
    the labels that have as many.

    Iterating yields one epoch and moves on to the next: ``for patterns in episodes`` in a loop sees new
    episodes in every pass, and ``episodes.epoch`` tells or sets which. With a
    :class:`torch.utils.data.DataLoader` use ``batch_size=None`` and a range as ``sampler``.

    :param images: a float tensor (N,) + E, used as it is; or a uint8 tensor (N, height, width) or
        (N, channels, height, width), or :class:`Images`, which :func:`binarize` turns into patterns.
    :param episode_length: T.
    :param batch_size: B.
    :param seed: of the stream.
    :param labels: integers (N,); ``None`` for episodes drawn from all images alike.
    :raises ValueError: if the images are too few or of an unusable type, or the labels do not fit them.
    """

    def __init__(
        self, images: Tensor | Images, episode_length: int, batch_size: int, seed: int = 0, labels: Tensor | None = None
    ) -> None:
        if isinstance(images, Images):
            images = images.images
        if not isinstance(images, Tensor) or not (images.is_floating_point() or images.dtype == torch.uint8):
            what = f"dtype {images.dtype}" if isinstance(images, Tensor) else f"type {type(images).__name__}"
            raise ValueError(f"Episodes: images have {what}; expected a float or uint8 tensor. Convert with .float().")
        if images.dtype == torch.uint8 and images.dim() not in (3, 4):
            raise ValueError(
                f"Episodes: uint8 images have shape {tuple(images.shape)}; expected (N, height, width) or "
                "(N, channels, height, width). Turn others into float patterns (N,) + event shape yourself."
            )
        for name, size in (("episode_length", episode_length), ("batch_size", batch_size)):
            if size < 1:
                raise ValueError(f"Episodes: {name} is {size}; expected at least 1.")
        needed = episode_length if labels is not None else episode_length * batch_size
        if len(images) < needed:
            raise ValueError(
                f"Episodes: {len(images)} images are too few for batches of {batch_size} episodes of {episode_length} "
                "patterns. Lower batch_size or episode_length."
            )
        self.images, self.seed, self.epoch = images, seed, 0
        self.episode_length, self.batch_size = episode_length, batch_size
        self._dealt: tuple[int, Tensor] | None = None
        self._groups: list[Tensor] | None = None
        if labels is not None:
            if labels.shape != images.shape[:1]:
                raise ValueError(f"Episodes: labels have shape {tuple(labels.shape)}; expected ({len(images)},).")
            order = labels.argsort(stable=True)
            groups = order.split(labels.unique(return_counts=True)[1].tolist())
            self._groups = [group for group in groups if len(group) >= episode_length]
            if not self._groups:
                raise ValueError(
                    f"Episodes: no label has {episode_length} images; the largest has {max(map(len, groups))}. Lower "
                    "episode_length."
                )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return max(1, len(self.images) // (self.episode_length * self.batch_size))

    def __getitem__(self, index: int) -> Tensor:
        """Batch ``index`` of the stream, float (B, T) + E."""
        if index < 0:
            raise IndexError(f"Episodes: index is {index}; expected 0 or more, the stream has no end.")
        patterns = self.images[self._choose(index).flatten()]
        if patterns.dtype == torch.uint8:
            patterns = binarize(patterns)
        return patterns.unflatten(0, (self.batch_size, self.episode_length))

    def __iter__(self) -> Iterator[Tensor]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        for index in range(epoch * len(self), (epoch + 1) * len(self)):
            yield self[index]

    def fingerprint(self) -> str:
        """Equal for streams of equal batches."""
        chosen = [] if self._groups is None else [group.tolist() for group in self._groups]
        digest = hashlib.sha256(f"{self.episode_length} {self.batch_size} {self.seed} {chosen}".encode())
        digest.update(self.images.contiguous().numpy(force=True).tobytes())
        return digest.hexdigest()

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed(self.seed, number))

    def _choose(self, index: int) -> Tensor:
        """Which images make batch ``index``, (B, T)."""
        if self._groups is not None:
            generator = self._generator(index)
            chosen = torch.randint(len(self._groups), (self.batch_size,), generator=generator).tolist()
            groups = [self._groups[number] for number in chosen]
            return torch.stack(
                [group[torch.randperm(len(group), generator=generator)[: self.episode_length]] for group in groups]
            )
        epoch, place = divmod(index, len(self))
        if self._dealt is None or self._dealt[0] != epoch:
            self._dealt = epoch, torch.randperm(len(self.images), generator=self._generator(epoch))
        size = self.batch_size * self.episode_length
        return self._dealt[1][place * size : (place + 1) * size].view(self.batch_size, self.episode_length)
