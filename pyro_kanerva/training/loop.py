"""The training loop: stochastic variational inference with Adam."""

import functools
import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
from pyro.infer import ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor
from tqdm import tqdm

from pyro_kanerva import _files
from pyro_kanerva._checks import check_at_least, check_positive, check_type
from pyro_kanerva._files import PathLike
from pyro_kanerva._precision import autocast_off
from pyro_kanerva._repr import short_repr
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.priors import as_distribution
from pyro_kanerva.training.batches import Batches, batches_from, is_stream
from pyro_kanerva.training.checkpoint import FILE, cut_metrics, load_checkpoint, read_settings, save_checkpoint

_WARM_UP = 50  # steps over which the learning rate rises
_BOUND_EVERY = 25  # steps between two evaluations of the bound

P = ParamSpec("P")
R = TypeVar("R")


@short_repr
class FitResult(NamedTuple):
    """The result of :func:`fit`.

    ``losses``: the loss of every step, including those before a resume, in nats per pattern; ``interrupted``: True if
    Ctrl-C ended the run before its last step.
    """

    losses: list[float]
    interrupted: bool


class FitStep(NamedTuple):
    """What :func:`fit` tells its ``callback`` after a step; all but the numbers of the step in nats per pattern.

    ``step``: the number of the step, from 1. ``loss``: the loss, lower is better. ``learning_rate``: that of this step.
    ``negative_bound`` and ``negative_conditional_bound``: minus the means of :class:`pyro_kanerva.Bound` on the batch
    of the step, lower is better. They are evaluated at step 1, every 25 steps after it, and at the last step; at others
    they are None.
    """

    step: int
    loss: float
    learning_rate: float
    negative_bound: float | None = None
    negative_conditional_bound: float | None = None


_running = threading.RLock()  # a callback of fit may call fit; another thread may not


def _one_at_a_time(function: Callable[P, R]) -> Callable[P, R]:
    """Refuse a call while another thread runs ``function``: Pyro's stack and torch's random state are global."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not _running.acquire(blocking=False):
            raise RuntimeError(
                f"{function.__name__}(): another thread of this process trains a machine. Both would mix in Pyro's "
                "stack and in the random state of torch. Train one after the other, or in processes of their own."
            )
        try:
            return function(*args, **kwargs)
        finally:
            _running.release()

    return call


@_one_at_a_time
def fit(
    machine: KanervaMachine,
    episodes: Batches,
    *,
    num_steps: int,
    learning_rate: float = 1e-3,
    autoencoder_weight: float = 1.0,
    memory_kl_weight: float = 1.0,
    cue_channel: Callable[[Tensor], Tensor] | None = None,
    loss: ELBO | None = None,
    seed: int = 0,
    folder: PathLike | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    progress: bool = True,
    callback: Callable[[FitStep], object] | None = None,
) -> FitResult:
    """Train a machine by SVI on the evidence lower bound.

    A step uses the next batch of ``episodes`` for one step of Adam on the loss of :meth:`KanervaMachine.training_pair`,
    in nats per pattern. The learning rate rises over the first steps and then falls to zero along a
    cosine. The noise of step n depends only on ``seed`` and n. The global random state does not change.

    :param episodes: batches of patterns (B, T) + E, or (T,) + E for a single episode. :class:`Episodes`; or a
        :class:`torch.utils.data.DataLoader`, a list, or another iterable, which starts again when it ends; or a
        function without arguments that returns an iterator, called again when the iterator ends. A batch is a tensor,
        or a tuple or list whose first element is the tensor. A generator object gives its batches only once.
    :param num_steps: total number of steps, including those before a resume. A resumed run may have another number than
        planned at first, not below the steps done: from there on, the learning rate follows the new schedule.
    :param learning_rate: the largest learning rate.
    :param autoencoder_weight: see :meth:`KanervaMachine.training_pair`, also for the next two.
    :param loss: by default ``TraceMeanField_ELBO(max_plate_nesting=2)``, whose closed-form KL terms have less noise;
        for discrete addresses ``TraceEnum_ELBO(max_plate_nesting=2)``, which sums them out. A writer that samples needs
        ``Trace_ELBO(max_plate_nesting=2)``.
    :param seed: seed of the noise; ``episodes`` has its own seed.
    :param folder: folder for ``checkpoint.pt`` and ``metrics.jsonl``, which has a line per step with the loss, and
        every 25 steps the negative bound and the negative conditional bound, in nats per pattern, lower is better.
        ``None`` writes no files. :func:`load_run` opens the folder, if the machine has a config.
    :param resume: continue from the checkpoint in ``folder``. With the same ``num_steps`` the result is the same as
        without an interruption. :class:`Episodes` continue with the next batch, and must be the same as before. Other
        ``episodes`` start anew; ``fit`` draws the batches that the run has used, and leaves them out. The result is
        the same if they give the same batches again. A ``DataLoader`` with ``shuffle=True`` does.
    :param checkpoint_every: steps between two checkpoints. One more is written at the end, and after Ctrl-C.
    :param progress: show a progress bar with the negative bound in nats per pattern.
    :param callback: called with a :class:`FitStep` after every step. For example, with TensorBoard's ``writer =
        torch.utils.tensorboard.SummaryWriter()``: ``lambda step: writer.add_scalar("loss", step.loss, step.step)``.
    :raises ValueError: if an argument is out of range; if a batch does not fit the machine, or ``episodes`` ends before
        ``num_steps`` and cannot start again; if another training uses the folder; if the folder holds a checkpoint and
        ``resume`` is False; if the
        checkpoint is broken or from a run with other arguments; or if the loss becomes NaN or infinite.
    :raises FileNotFoundError: if there is no checkpoint to resume from.
    :raises RuntimeError: if another thread of the process runs ``fit``.
    """
    check_type("fit(): machine", machine, KanervaMachine, "a KanervaMachine")
    check_at_least("fit()", 1, num_steps=num_steps, checkpoint_every=checkpoint_every)
    check_positive("fit()", learning_rate=learning_rate)
    if resume and folder is None:
        raise ValueError("fit(): resume=True without a folder; pass the folder that holds the checkpoint.")
    folder = None if folder is None else Path(folder)
    device, dtype = machine.log_code_scale.device, machine.log_code_scale.dtype
    discrete = as_distribution(machine.address_prior).has_enumerate_support
    elbo = (TraceEnum_ELBO if discrete else TraceMeanField_ELBO)(max_plate_nesting=2) if loss is None else loss
    loss_of = elbo(*machine.training_pair(autoencoder_weight, memory_kl_weight, cue_channel))
    optimizer = torch.optim.Adam(machine.parameters(), lr=learning_rate)
    settings = {  # a resumed run must have the same
        "learning_rate": learning_rate,
        "autoencoder_weight": autoencoder_weight,
        "memory_kl_weight": memory_kl_weight,
        "cue_channel": getattr(cue_channel, "__qualname__", repr(cue_channel)),
        "loss": type(elbo).__name__,
        "seed": seed,
        "episodes": episodes.fingerprint() if is_stream(episodes) else None,
    }
    about: dict[str, Any] = {"config": machine.config, "event_shape": machine.event_shape, "steps": num_steps}
    if folder is not None and not resume:
        folder.mkdir(parents=True, exist_ok=True)

    def begin() -> list[float]:
        """The losses so far."""
        if folder is None:
            return []
        if not resume and (folder / FILE).exists():
            raise ValueError(
                f"fit(): {folder} holds a checkpoint already. Go on from it with resume, or take another folder."
            )
        if resume:  # a finished run draws no batch, whose sizes it needs
            about.update({name: value for name, value in read_settings(folder).items() if name not in about})
        losses = load_checkpoint(folder, machine, optimizer, settings) if resume else []
        if len(losses) > num_steps:
            raise ValueError(f"fit(): num_steps is {num_steps}; expected at least {len(losses)}, the steps of the run.")
        cut_metrics(folder / "metrics.jsonl", losses)  # steps after the checkpoint run again
        return losses

    def save() -> None:
        if folder is not None:
            save_checkpoint(folder, machine, optimizer, losses, {**about, **settings})  # about: for load_run

    with (
        nullcontext() if folder is None else _files.locked(folder),
        nullcontext(begin()) as losses,  # once the folder is locked
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        _interrupts() as interrupted,
        open(folder / "metrics.jsonl" if folder is not None else os.devnull, "a") as metrics,
        tqdm(total=num_steps, initial=len(losses), unit="step", disable=not progress) as bar,
    ):
        for step, batch in enumerate(batches_from(episodes, len(losses), num_steps, seed), len(losses)):
            patterns = machine.with_episodes(batch.to(device, dtype), "fit()")
            about["batch_size"], about["episode_length"] = patterns.shape[:2]
            torch.manual_seed(derive_seed(seed, step))  # so a resumed run repeats the same noise
            warm_up, cosine = min(1.0, (step + 1) / _WARM_UP), 0.5 * (1 + math.cos(math.pi * step / num_steps))
            rate = learning_rate * (warm_up * cosine)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad()
            value = loss_of(patterns) / patterns.shape[:2].numel()
            with autocast_off(value):  # a caller's autocast is for the forward pass of the networks only
                value.backward()
            gradient = torch.nn.utils.clip_grad_norm_(machine.parameters(), math.inf)  # the norm; clips nothing
            if not bool((value + gradient).isfinite()):
                raise ValueError(
                    f"fit(): at step {step + 1} the loss is {value.item()} and the norm of its gradient "
                    f"{gradient.item()}. Lower learning_rate, or raise code_scale; the last checkpoint is from before."
                )
            optimizer.step()
            losses.append(value.item())
            done = FitStep(step + 1, losses[-1], rate)
            if step % _BOUND_EVERY == 0 or step == num_steps - 1:
                with torch.no_grad():
                    bound = machine.bound(patterns)
                done = FitStep(*done[:3], -bound.bound.mean().item(), -bound.conditional_bound.mean().item())
                bar.set_postfix_str(f"negative bound {done.negative_bound:.1f} nats per pattern")
            line = {name: value for name, value in done._asdict().items() if value is not None}
            metrics.write(json.dumps(line) + "\n")
            if callback is not None:
                callback(done)
            bar.update()
            if interrupted.is_set():
                break  # the checkpoint after the loop holds this step
            if (step + 1) % checkpoint_every == 0:
                metrics.flush()
                save()
        save()
    machine.release()
    return FitResult(losses, len(losses) < num_steps)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one is handled as before."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may handle signals
        yield event
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(signal_number: int, frame: Any) -> None:
        event.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, previous)
