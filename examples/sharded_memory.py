"""A memory larger than one device: its code columns are split over processes as a DTensor.

    torchrun --nproc-per-node 4 examples/sharded_memory.py --slots 64 --code-size 512

Given the addresses, the columns of a memory are independent and share one row covariance. Each process holds the mean
of its columns, (K, C / N), and that part of every code. Only products over the columns are summed over processes,
K x K and K x T. Process 0 compares the result with a memory in one piece.
"""

from __future__ import annotations

import argparse
import gc
import os

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from pyro_kanerva import MatrixNormal, OnlineWriter
from pyro_kanerva.conjugate import add_statistics, inverse_positive, statistics


def write(loc: DTensor, scale_tril: torch.Tensor, codes: DTensor, scale: float) -> tuple[DTensor, torch.Tensor]:
    """Write one block: find the addresses in the current memory, then apply Bayes' rule.

    ``loc`` (K, C) and ``codes`` (T, C) are sharded.
    """
    gram = (loc @ loc.mT).full_tensor()  # sums over processes, (K, K)
    projections = (loc @ codes.mT).full_tensor()  # (K, T)
    precision = gram + scale**2 * torch.eye(len(gram), device=gram.device)
    addresses = (inverse_positive(precision, "the address precision") @ projections).mT  # (T, K), the same everywhere
    # Bayes' rule needs no communication: each process updates its own columns.
    prior = MatrixNormal(loc.to_local(), scale_tril, validate_args=False)
    posterior = add_statistics(prior, statistics(addresses, codes.to_local(), scale))
    return DTensor.from_local(posterior.loc, loc.device_mesh, loc.placements), posterior.scale_tril_row


def read(loc: DTensor, codes: DTensor, scale: float) -> DTensor:
    """Reconstructed codes (T, C), sharded like ``codes``."""
    gram, projections = (loc @ loc.mT).full_tensor(), (loc @ codes.mT).full_tensor()
    precision = gram + scale**2 * torch.eye(len(gram), device=gram.device)
    addresses = (inverse_positive(precision, "the address precision") @ projections).mT
    return distribute_tensor(addresses, loc.device_mesh, [Replicate()]) @ loc


def main(options: argparse.Namespace) -> None:
    if "RANK" not in os.environ:  # not started by torchrun
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (int(os.environ.get("WORLD_SIZE", "1")),))
    torch.manual_seed(options.seed)  # every process draws the same numbers; real codes would come in shards
    prior = torch.randn(options.slots, options.code_size, device=device) / options.slots**0.5
    factor = torch.eye(options.slots, device=device) / options.slots**0.5
    truth = torch.randn(options.slots, options.code_size, device=device) / options.slots**0.5
    episode = torch.randn(options.blocks * options.length, options.slots, device=device) @ truth
    episode = episode + options.scale * torch.randn_like(episode)

    columns = [Shard(1)]
    loc, scale_tril = distribute_tensor(prior, mesh, columns), factor
    for block in episode.split(options.length):
        loc, scale_tril = write(loc, scale_tril, distribute_tensor(block, mesh, columns), options.scale)
    recalled = read(loc, distribute_tensor(block, mesh, columns), options.scale).full_tensor()

    whole = OnlineWriter(options.length)(
        episode, MatrixNormal(prior, factor), torch.tensor(options.scale, device=device)
    ).memory
    mean, covariance = loc.full_tensor(), scale_tril @ scale_tril.mT
    if mesh.get_rank() == 0:
        held = loc.to_local().numel() * loc.element_size()
        print(f"{mesh.size()} processes; each holds {held / 2**20:.2f} MiB of a mean of {mean.numel() * 4 / 2**20:.2f}")
        for name, found, expected in (("mean", mean, whole.loc), ("row covariance", covariance, whole.row_covariance)):
            difference = (found - expected).abs().max() / expected.abs().max()
            print(f"{name}: largest difference from a memory in one piece {difference:.1e} of the largest entry")
        print(f"error of recalled codes, relative: {(recalled - block).norm() / block.norm():.3f}")
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--code-size", type=int, default=512)
    parser.add_argument("--length", type=int, default=256, help="patterns of a block")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--scale", type=float, default=0.5, help="sigma of the codes")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main(parser().parse_args())
