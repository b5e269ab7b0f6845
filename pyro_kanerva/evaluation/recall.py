"""Recall error on held-out data, for damaged cues.

The error of binary patterns and of classes is the share of wrong entries. The error of real patterns and of grey levels
is the root mean squared error, in the units of the patterns: in images of levels 0 to 1, 0.1 is 25.5 of 255.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pyro_kanerva._checks import check_dense
from pyro_kanerva.channels import Channel, Damage
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation.curve import Curve, interval
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.memory import Memory
from pyro_kanerva.model import Parts
from pyro_kanerva.retrieval import Energy, Retrieval

#: How patterns are compared: "wrong entries", a share; or "RMSE", in the units of the patterns.
Metric = Literal["wrong entries", "RMSE"]


def error_text(error: float, metric: Metric) -> str:
    """A share of wrong entries in percent, an RMSE as a number."""
    return f"{error:.2%}" if metric == "wrong entries" else f"{error:.4f}"


class RecallError(NamedTuple):
    """The errors of recalled patterns.

    ``errors`` (episodes, S + 1): the error of the cues and after each of S steps, see ``metric``; ``never_rose``: the
    share of queries whose energy rose in no step; ``num_steps`` (episodes,): the step at which a query changed its
    pattern for the last time, mean over queries; ``metric``: "wrong entries", the share of them, or "RMSE", the root
    mean squared error of an episode, in the units of the patterns.
    """

    errors: Tensor
    never_rose: float
    num_steps: Tensor
    metric: Metric = "wrong entries"

    @property
    def cue(self) -> float:
        """The mean error of the cues."""
        return self.errors[:, 0].mean().item()

    @property
    def steps(self) -> list[float]:
        """The mean error after each step."""
        return self.errors[:, 1:].mean(0).tolist()

    @property
    def curve(self) -> Curve:
        """The error by step."""
        return interval(range(self.errors.shape[1]), self.errors)

    def __repr__(self) -> str:
        steps = {0: "cue", 1: "step 1", self.errors.shape[1] - 1: f"step {self.errors.shape[1] - 1}"}
        means = self.errors.mean(0).tolist()
        texts = (error_text(mean, self.metric) for mean in means)
        shown = ", ".join(f"{steps[step]} {text}" for step, text in enumerate(texts) if step in steps)
        return f"RecallError({len(self.errors)} episodes, {self.metric}: {shown}; never rose {self.never_rose:.2%})"


def metric_of(patterns: Tensor) -> Metric:
    """ "wrong entries" if all entries are whole numbers, as in binary patterns and classes, else "RMSE"."""
    return "wrong entries" if bool((patterns == patterns.round()).all()) else "RMSE"


def entry_error(
    recalled: Tensor, patterns: Tensor, entries: Tensor | None = None, metric: Metric | None = None
) -> Tensor:
    """The error of each episode, (..., B), for ``recalled`` (..., B, Q) + E.

    ::

        wrong entries    mean over patterns and entries of [recalled != pattern]
        RMSE             sqrt(mean over patterns and entries of (recalled - pattern)^2)

    :param entries: bool, broadcastable to E: only these entries count. By default all do.
    :param metric: "wrong entries" or "RMSE"; by default the one that fits the values of ``patterns``, see
        :func:`metric_of`.
    :raises ValueError: if the shapes do not fit, or there is nothing to compare.
    """
    check_dense("entry_error(): recalled", recalled)
    check_dense("entry_error(): patterns", patterns)
    if patterns.dim() < 3 or recalled.shape[-patterns.dim() :] != patterns.shape or not patterns.numel():
        raise ValueError(
            f"entry_error(): recalled has shape {tuple(recalled.shape)}, patterns {tuple(patterns.shape)}; expected "
            "(..., B, Q) + E and (B, Q) + E, with at least one pattern."
        )
    if entries is not None and not bool(entries.any()):
        raise ValueError("entry_error(): entries has no True; expected at least one entry to compare.")
    metric = metric_of(patterns) if metric is None else metric
    error = (recalled != patterns).double() if metric == "wrong entries" else (recalled - patterns).double().square()
    first = error.dim() - patterns.dim() + 1  # the dimension of Q
    if entries is not None:
        error = error[..., entries.expand(patterns.shape[2:])]
    error = error.flatten(first).mean(-1)
    return error if metric == "wrong entries" else error.sqrt()


def recall_error(
    patterns: Tensor, retrieval: Retrieval, entries: Tensor | None = None, metric: Metric | None = None
) -> RecallError:
    """The errors of a query whose cues are damaged copies of ``patterns`` (B, Q) + E.

    :param entries: as for :func:`entry_error`.
    :param metric: as for :func:`entry_error`.
    :raises ValueError: if the shape of ``patterns`` is not that of the cues.
    """
    if patterns.shape != retrieval.patterns.shape[1:]:
        raise ValueError(
            f"recall_error(): patterns have shape {tuple(patterns.shape)}; expected that of the retrieval's cues, "
            f"{tuple(retrieval.patterns.shape[1:])}."
        )
    never_rose = (retrieval.energy.diff(dim=0) <= 0).all(0).double().mean().item()
    changed = (retrieval.patterns[1:] != retrieval.patterns[:-1]).flatten(3).any(-1)  # (S, B, Q)
    steps = torch.arange(1, len(changed) + 1, device=changed.device).view(-1, 1, 1)
    last = (changed * steps).amax(0) if len(changed) else changed.new_zeros(changed.shape[1:])
    metric = metric_of(patterns) if metric is None else metric
    errors = entry_error(retrieval.patterns, patterns, entries, metric)
    return RecallError(errors.mT, never_rose, last.double().mean(-1), metric)


def evaluate_recall(
    machine: KanervaMachine,
    batches: Iterable[Tensor],
    damage: Damage,
    *,
    channel: Channel | None,
    num_steps: int = 10,
    seed: int = 0,
    energy: Energy | None = None,
    entries: Tensor | None = None,
) -> RecallError:
    """Write each episode, and query it with damaged copies of its patterns.

    The error is the share of wrong entries for likelihoods of discrete entries, such as Bernoulli and Categorical, and
    else the RMSE, see :class:`RecallError`.

    A decoder knows what patterns look like, and may restore a cue without any memory.
    :func:`~pyro_kanerva.evaluation.evaluate_recall_control` tells the two apart.

    :param damage: makes the cues, with random numbers from ``seed``.
    :param channel: the channel of the query; ``None`` for the paper's dynamics.
    :param energy: the energy of the query, as for :meth:`Memory.query`.
    :param entries: bool, broadcastable to E: only these entries count. By default all do.
    :raises ValueError: if there are no batches, or the patterns do not fit the machine.
    """
    written = ((x, [machine.write(x)]) for x in each_batch(machine, batches, "evaluate_recall()"))
    (error,) = recall_errors(written, damage, channel, num_steps, seed, energy, entries)
    return error


def recall_errors(
    batches: Iterable[tuple[Tensor, Sequence[Memory]]],
    damage: Damage,
    channel: Channel | None,
    num_steps: int = 10,
    seed: int = 0,
    energy: Energy | None = None,
    entries: Tensor | None = None,
) -> list[RecallError]:
    """The errors over all batches, one result for each memory of a batch; the arguments are :func:`evaluate_recall`'s.

    :param batches: patterns (B, Q) + E, and the memories that are queried. These all get the same cues.
    """
    parts = []
    for index, (patterns, memories) in enumerate(batches):
        cues = damage(patterns, cue_generator(patterns, seed, index))
        retrievals = (memory.query(cues, num_steps=num_steps, channel=channel, energy=energy) for memory in memories)
        metric = likelihood_metric(memories[0].machine, patterns)
        parts.append([recall_error(patterns, retrieval, entries, metric) for retrieval in retrievals])
    return [_join(errors) for errors in zip(*parts, strict=True)]


def _join(parts: Sequence[RecallError]) -> RecallError:
    errors = torch.cat([part.errors for part in parts])
    never_rose = sum(part.never_rose * len(part.errors) for part in parts) / len(errors)
    return RecallError(errors, never_rose, torch.cat([part.num_steps for part in parts]), parts[0].metric)


@torch.no_grad()
def likelihood_metric(parts: Parts, patterns: Tensor) -> Metric:
    """ "wrong entries" if the likelihood of patterns (B, T) + E has discrete entries, as Bernoulli; else "RMSE"."""
    entries = parts.decode(parts.encode(patterns[:1, :1]), tuple(patterns.shape[2:])).base_dist
    return "wrong entries" if entries.support.is_discrete else "RMSE"


def cue_generator(patterns: Tensor, seed: int, index: int) -> torch.Generator:
    """The random generator for the cues of batch ``index``."""
    return torch.Generator(patterns.device).manual_seed(derive_seed(seed, index))


def each_batch(machine: KanervaMachine, batches: Iterable[Tensor], caller: str) -> Iterator[Tensor]:
    """The batches as checked patterns (B, T) + E; at least one."""
    empty = True
    for patterns in batches:
        yield machine.check_patterns(patterns, caller)
        empty = False
    if empty:
        raise ValueError(f"{caller}: batches is empty; expected at least one batch of patterns.")
