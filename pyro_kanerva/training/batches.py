"""The batches of a training run, from whatever holds them."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeGuard

import torch
from torch import Tensor

from pyro_kanerva._checks import check_dense
from pyro_kanerva.datasets.episodes import derive_seed


class Stream(Protocol):
    """Batches by number, such as :class:`pyro_kanerva.Episodes`."""

    def __getitem__(self, index: int, /) -> Tensor:
        """Batch ``index``, (B, T) + E; the same at every call."""

    def fingerprint(self) -> str:
        """A text that is equal only for streams of equal batches."""


#: What :func:`pyro_kanerva.fit` accepts. A batch is a tensor, or a tuple or list whose first element is the tensor.
Batches = Stream | Iterable[Any] | Callable[[], Iterable[Any]]


def is_stream(episodes: Batches) -> TypeGuard[Stream]:
    """True for batches by number, which a run can continue at any step."""
    return hasattr(episodes, "fingerprint") and hasattr(episodes, "__getitem__")


def batches_from(episodes: Batches, start: int, num_steps: int, seed: int) -> Iterator[Tensor]:
    """Batches ``start`` to ``num_steps - 1``, pass after pass; those of an iterable before ``start`` are skipped.

    Each batch is drawn under a seed of its own, from ``seed`` and its number. So an iterable that draws its order from
    torch's global random state repeats it after a resume.

    :raises ValueError: if ``episodes`` or a batch is of an unusable type, or the batches end before ``num_steps``.
    """
    if is_stream(episodes):
        yield from (episodes[step] for step in range(start, num_steps))
        return
    if isinstance(episodes, Tensor):
        raise ValueError(
            "fit(): episodes is a tensor; expected batches. Pass Episodes(images, episode_length, batch_size), or a "
            "list of batches."
        )
    if not callable(episodes) and not hasattr(episodes, "__iter__"):
        raise ValueError(
            f"fit(): episodes is of type {type(episodes).__name__}; expected Episodes, a DataLoader, a list of "
            "batches, or a function that returns an iterator of batches."
        )
    step = 0
    while step < num_steps > start:
        first = step
        torch.manual_seed(derive_seed(seed, -1 - step))
        batches = iter(episodes() if callable(episodes) else episodes)
        while step < num_steps:
            torch.manual_seed(derive_seed(seed, -1 - step))  # not the seed of the noise of this step
            try:
                batch = next(batches)
            except StopIteration:
                break
            if step >= start:
                yield _tensor_of(batch, step)
            step += 1
        if step == first or (batches is episodes and step < num_steps):
            raise ValueError(
                f"fit(): episodes ended after {step} batches; expected {num_steps}, one for each step. An iterator "
                "gives its batches once. Pass the function that makes it, a DataLoader or a list, which start again."
            )


def _tensor_of(batch: Any, step: int) -> Tensor:
    found = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if not isinstance(found, Tensor):
        raise ValueError(
            f"fit(): batch {step} of episodes is of type {type(found).__name__}; expected a tensor (B, T) + event "
            "shape, or a tuple or list that begins with it."
        )
    check_dense(f"fit(): batch {step} of episodes", found.float() if found.dtype == torch.bool else found)
    return found
