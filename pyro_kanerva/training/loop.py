"""Training: a thin loop over stochastic variational inference, with progress, checkpoints and resume."""

import json
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pyro.infer import ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from torch import Tensor
from tqdm import tqdm

from pyro_kanerva._checks import check_at_least, check_positive
from pyro_kanerva._precision import autocast_off
from pyro_kanerva.datasets.episodes import Episodes, derive_seed
from pyro_kanerva.machine import KanervaMachine
from pyro_kanerva.priors import as_distribution
from pyro_kanerva.training.checkpoint import FILE, cut_metrics, load_checkpoint, save_checkpoint

_WARM_UP = 50  # steps over which the learning rate rises
_BOUND_EVERY = 25  # steps between two readings of the bound


class FitResult(NamedTuple):
    """What :func:`fit` did.

    ``losses``: of every step since the start, including those before a resume, in nats per pattern;
    ``interrupted``: True if Ctrl-C ended the run before its last step.
    """

    losses: list[float]
    interrupted: bool


def fit(
    machine: KanervaMachine,
    episodes: Episodes,
    *,
    num_steps: int,
    learning_rate: float = 1e-3,
    autoencoder_weight: float = 1.0,
    memory_kl_weight: float = 1.0,
    cue_channel: Callable[[Tensor], Tensor] | None = None,
    loss: ELBO | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: int = 200,
    progress: bool = True,
) -> FitResult:
    """Train a machine by SVI on the evidence lower bound.

    Each step takes the next batch of ``episodes``, and one step of Adam on the loss of
    :meth:`KanervaMachine.training_pair`, divided by the number of patterns. The learning rate rises over
    the first steps and falls to zero along a cosine. The noise of step n depends on ``seed`` and n alone,
    and the global random state is left as it was.

    :param num_steps: steps in all, those before a resume included.
    :param learning_rate: the largest one.
    :param autoencoder_weight: see :meth:`KanervaMachine.training_pair`, also for the next two.
    :param loss: by default ``TraceMeanField_ELBO(max_plate_nesting=2)``, whose closed-form divergences have
        less noise, and for discrete addresses ``TraceEnum_ELBO(max_plate_nesting=2)``, which sums them out; pass
        ``Trace_ELBO(max_plate_nesting=2)`` for a writer that samples.
    :param seed: of the noise; the data have their own in ``episodes``.
    :param folder: where ``metrics.jsonl`` (a line per step: loss in nats per pattern, now and then the
        bound) and ``checkpoint.pt`` are written; ``None`` writes nothing.
    :param resume: go on from the checkpoint in ``folder``, exactly as if there had been no stop.
    :param checkpoint_every: steps between two checkpoints; one is also written at the end, and at
        Ctrl-C, after the step in hand.
    :param progress: show a progress bar with the running bound in nats per pattern.
    :raises ValueError: if an argument is out of range, the folder holds a checkpoint that is not to be
        resumed, or one that is broken or of a run with other arguments, or the loss becomes NaN or infinite.
    :raises FileNotFoundError: if there is no checkpoint to resume from.
    """
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
    settings = {
        "num_steps": num_steps,
        "learning_rate": learning_rate,
        "autoencoder_weight": autoencoder_weight,
        "memory_kl_weight": memory_kl_weight,
        "cue_channel": getattr(cue_channel, "__qualname__", repr(cue_channel)),
        "loss": type(elbo).__name__,
        "seed": seed,
        "episodes": episodes.fingerprint(),
    }
    losses: list[float] = []
    if folder is not None:
        if not resume and (folder / FILE).exists():
            raise ValueError(
                f"fit(): {folder} holds a checkpoint already. Go on from it with resume, or take another folder."
            )
        folder.mkdir(parents=True, exist_ok=True)
        losses = load_checkpoint(folder, machine, optimizer, settings) if resume else []
        cut_metrics(folder / "metrics.jsonl", len(losses))

    def save() -> None:
        if folder is not None:
            save_checkpoint(folder, machine, optimizer, losses, settings)

    with (
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
        _interrupts() as interrupted,
        open(folder / "metrics.jsonl" if folder is not None else os.devnull, "a") as metrics,
        tqdm(total=num_steps, initial=len(losses), unit="step", disable=not progress) as bar,
    ):
        for step in range(len(losses), num_steps):
            patterns = episodes[step].to(device, dtype)
            torch.manual_seed(derive_seed(seed, step))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _schedule(step, num_steps)
            optimizer.zero_grad()
            value = loss_of(patterns) / patterns.shape[:2].numel()
            with autocast_off(value):  # autocast around fit() is for the forward pass of the networks
                value.backward()
            gradient = torch.nn.utils.clip_grad_norm_(machine.parameters(), math.inf)
            if not bool((value + gradient).isfinite()):
                raise ValueError(
                    f"fit(): at step {step + 1} the loss is {value.item()} and the norm of its gradient "
                    f"{gradient.item()}. Lower learning_rate, or raise code_scale; the last checkpoint is from before."
                )
            optimizer.step()
            losses.append(value.item())
            line: dict[str, Any] = {"step": step + 1, "loss": losses[-1]}
            if step % _BOUND_EVERY == 0 or step == num_steps - 1:
                with torch.no_grad():
                    bound = machine.bound(patterns)
                line |= {"bound": bound.bound.mean().item(), "conditional_bound": bound.conditional_bound.mean().item()}
                bar.set_postfix_str(f"bound {line['bound']:.1f} nats per pattern")
            metrics.write(json.dumps(line) + "\n")
            bar.update()
            if interrupted.is_set():
                break
            if (step + 1) % checkpoint_every == 0:
                metrics.flush()
                save()
    save()
    machine.release()
    return FitResult(losses, len(losses) < num_steps)


def _schedule(step: int, num_steps: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / num_steps))


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts as ever."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
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
