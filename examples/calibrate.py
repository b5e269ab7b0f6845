"""Simulation-based calibration: is the guide as certain as it should be?

The model draws a memory, addresses and patterns. The guide draws from its posterior given the patterns, and the
rank of the truth among these draws is noted. An exact posterior makes all ranks equally frequent. A guide that is
too narrow fills the bins at both ends; one that is too wide fills the middle.

    python examples/calibrate.py --out calibrate.png

The machine has no networks and Normal noise. Given the memory, ``known=("memory",)``, its reader is exact and the
ranks are uniform. Without the memory the guide is too certain: the writer chooses one set of addresses, and q(M)
does not know that others explain the patterns as well.
"""

import argparse

import torch
from matplotlib.figure import Figure
from scipy.stats import chisquare
from torch import nn

import pyro_kanerva as pk
from pyro_kanerva.diagnostics import calibration_ranks, rank_counts
from pyro_kanerva.plotting import rank_plot


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--code-size", type=int, default=4)
    parser.add_argument("--patterns", type=int, default=6, help="patterns of a simulated episode")
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the patterns around M^T w")
    parser.add_argument("--simulations", type=int, default=2000, help="at least 5 for each bin")
    parser.add_argument("--draws", type=int, default=99, help="draws of the guide, one less than a multiple of --bins")
    parser.add_argument("--bins", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="calibrate.png")
    return parser


def main(args):
    """Returns the smallest p-value of uniform ranks, with the memory known and unknown."""
    torch.manual_seed(args.seed)
    machine = pk.KanervaMachine(
        nn.Identity(),
        nn.Identity(),
        memory_prior=pk.GaussianMemory(args.slots, args.code_size, scale=1.0),
        likelihood=pk.NormalLikelihood(args.noise, learned=False),
        code_scale=args.noise,
    )
    cases = {"memory known: exact": ("memory",), "memory written: too certain": ()}
    figure = Figure(figsize=(11, 7), layout="constrained")
    smallest = []
    for row, (title, known) in zip(figure.subfigures(2, 1), cases.items(), strict=True):
        ranks = calibration_ranks(
            machine,
            args.patterns,
            num_simulations=args.simulations,
            num_draws=args.draws,
            known=known,
            event_shape=(args.code_size,),
        )
        pvalues = chisquare(rank_counts(ranks, args.bins).numpy(), axis=-1).pvalue
        smallest.append(pvalues.min().item())
        print(f"{title}; p-value of uniform ranks, to be compared with 0.05 / {len(pvalues)}")
        for name, pvalue in zip(ranks.names, pvalues.tolist(), strict=True):
            print(f"    {name:18}{pvalue:10.2g}")
        row.suptitle(title, fontweight="bold")
        for ax, name in zip(row.subplots(1, 3), (ranks.names[0], *ranks.names[-2:]), strict=True):
            rank_plot(ranks, name, num_bins=args.bins, ax=ax).get_legend().remove()
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return tuple(smallest)


if __name__ == "__main__":
    main(parser().parse_args())
