"""Training in several processes with plain PyTorch: DistributedDataParallel around the loss, and Adam.

    python examples/train_distributed.py --out machine.pt
    torchrun --nproc-per-node 2 examples/train_distributed.py --out machine.pt

Both commands do the same. A step has ``--episodes`` episodes; each of N processes takes every N-th. All processes
build the machine from one seed, draw their own noise, and divide the loss by the number of their own patterns.
DistributedDataParallel averages the gradients, so that every process makes the step of the whole batch.

``--out`` is a checkpoint. If it exists, training goes on from it as if there had been no stop; with
``torchrun --max-restarts 3`` training survives processes that die. If a process dies or hangs, the others end with an
error that says so, after ``--timeout`` seconds at the latest. On GPUs the watchdog of NCCL ends them.
"""

import argparse
import gc
import hashlib
import os
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from pyro.infer import TraceMeanField_ELBO
from torch.nn.parallel import DistributedDataParallel

import pyro_kanerva as pk

SETTINGS = ("slots", "code_size", "width", "length", "episodes", "lr", "seed")  # a checkpoint belongs to these


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--code-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=256, help="units of a hidden layer")
    parser.add_argument("--length", type=int, default=16, help="patterns of an episode, stored together")
    parser.add_argument("--episodes", type=int, default=8, help="episodes in a step, of all processes together")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-episodes", type=int, default=32, help="held-out episodes for the bound")
    parser.add_argument("--timeout", type=float, default=60, help="seconds that a process waits for the others")
    parser.add_argument("--out", type=Path, help="checkpoint, on a disk that all processes see")
    parser.add_argument("--save-every", type=int, default=100, help="steps between two checkpoints")
    return parser


def build(args):
    """The same machine in every process."""
    torch.manual_seed(args.seed)
    shape = (1, 28, 28)
    return pk.KanervaMachine(
        pk.MLPEncoder(shape, args.code_size, args.width),
        pk.MLPDecoder(args.code_size, shape, args.width),
        memory_prior=pk.GaussianMemory(args.slots, args.code_size),
    )


@contextmanager
def process_group(args, rank, world, device):
    """Join the process group and leave it; raise an error if another process is lost."""
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(seconds=args.timeout))
        yield
        dist.barrier()  # no process leaves while another still talks to it
        gc.collect()  # DistributedDataParallel is in a reference cycle; it must be freed before the group
        dist.destroy_process_group()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):  # gloo raises plain RuntimeErrors
            raise
        saved = f"training goes on from {args.out}" if args.out and args.out.exists() else "no checkpoint was written"
        raise RuntimeError(
            f"Rank {rank} of {world}: another process is gone, never came, or was silent for {args.timeout:g} seconds. "
            f"Read its last messages, then start all of them again; {saved}."
        ) from error


def train(args, machine, rank, world):
    """The training loop. At its end all processes have the same parameters."""
    settings = {name: getattr(args, name) for name in SETTINGS}
    episodes = pk.Episodes(pk.glyphs("train"), args.length, args.episodes, seed=args.seed)
    optimizer = torch.optim.Adam(machine.parameters(), args.lr)
    start = 0
    if args.out and args.out.exists():
        state = torch.load(args.out, map_location=machine.log_code_scale.device, weights_only=True)
        if state["settings"] != settings:
            raise ValueError(f"{args.out} is of a run with {state['settings']}; pass the same, or another --out.")
        machine.load_state_dict(state["machine"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]

    loss_of = TraceMeanField_ELBO(max_plate_nesting=2)(*machine.training_pair())
    if world > 1:  # find_unused_parameters=True for a machine of which some part gets no gradient
        loss_of = DistributedDataParallel(loss_of)
    for step in range(start, args.steps):
        patterns = episodes[step][rank::world].to(machine.log_code_scale)
        torch.manual_seed(hash((args.seed, step, rank)))  # integers have the same hash in every process
        optimizer.zero_grad()
        loss = loss_of(patterns) / patterns.shape[:2].numel()
        loss.backward()
        optimizer.step()
        last = step == args.steps - 1
        if rank == 0 and (step % max(1, args.steps // 8) == 0 or last):
            print(f"step {step + 1:5}   loss {loss:7.1f} nats per pattern, of the episodes of rank 0", flush=True)
        if rank == 0 and args.out and ((step + 1) % args.save_every == 0 or last):
            state = {"machine": machine.state_dict(), "optimizer": optimizer.state_dict()}
            unfinished = args.out.with_name(f"{args.out.name}.part")
            torch.save({"settings": settings, "step": step + 1, **state}, unfinished)
            unfinished.replace(args.out)  # the file is always whole, also if the process dies here


def check_equal(machine, rank, world):
    """Check that the parameters are the same in all processes, to the last bit."""
    values = torch.nn.utils.parameters_to_vector(machine.parameters())
    digests = [None] * world
    dist.all_gather_object(digests, hashlib.sha256(values.numpy(force=True).tobytes()).hexdigest()[:12])
    if len(set(digests)) > 1:
        raise RuntimeError(f"The processes have different parameters, of digests {' '.join(digests)}.")
    if rank == 0:
        print(f"all processes have the same parameters, of digests {' '.join(digests)}")


def main(args):
    """Returns the bound of every held-out episode, in nats per pattern, on rank 0; None on other ranks."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # from torchrun
    if args.episodes % world:
        raise ValueError(f"--episodes is {args.episodes}; expected a multiple of {world}, the number of processes.")
    device = torch.device("cpu")
    if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", world)):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)

    machine = build(args).to(device)
    if world == 1:
        train(args, machine, rank, world)
    else:
        with process_group(args, rank, world, device):
            train(args, machine, rank, world)
            check_equal(machine, rank, world)
    machine.release()  # from Pyro's parameter store
    if rank > 0:
        return None

    patterns = pk.Episodes(pk.glyphs("test"), args.length, args.test_episodes, seed=args.seed)[0].to(device)
    torch.manual_seed(args.seed)
    with torch.no_grad():
        bound = machine.bound(patterns).bound
    error = bound.std() / len(bound) ** 0.5
    print(f"negative bound of {len(bound)} held-out episodes {-bound.mean():.2f} nats per pattern, ", end="")
    print(f"standard error {error:.2f}")
    return bound


if __name__ == "__main__":
    main(parser().parse_args())
