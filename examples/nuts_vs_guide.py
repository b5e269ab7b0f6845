"""How good is the guide? The posterior by NUTS against the guide's q(M) q(w), on a machine small enough for both.

``machine.model`` is an ordinary Pyro model, so that NUTS samples its exact posterior given the patterns. The guide
approximates it in one closed-form pass. The machine has no networks: patterns are codes with Normal noise. The memory
prior has an informative mean. Without it, memory and addresses could be rotated against each other, and neither would
have a posterior mean worth comparing. The read code ``M^T w`` is comparable in any case.

    python examples/nuts_vs_guide.py --out nuts_vs_guide.png

Given the memory, the guide's addresses are exact here. Its memory is not: q(M) is computed as if the addresses did not
depend on the memory (mean field), and so it is too narrow where the two are uncertain together.
"""

import argparse

import numpy as np
import pyro
import torch
from matplotlib.figure import Figure
from pyro.infer import MCMC, NUTS
from torch import nn

import pyro_kanerva as pk
from pyro_kanerva.diagnostics import guide_data, importance_weights, khat, mcmc_data

BLUE, ORANGE = "#0072b2", "#d55e00"


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--code-size", type=int, default=2, help="entries of a pattern")
    parser.add_argument("--patterns", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the patterns around M^T w")
    parser.add_argument("--spread", type=float, default=0.3, help="prior standard deviation of the memory's entries")
    parser.add_argument("--draws", type=int, default=400, help="draws of NUTS, after half as many steps of warm-up")
    parser.add_argument("--guide-draws", type=int, default=4000, help="draws of the guide, a multiple of 4")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="nuts_vs_guide.png")
    return parser


def main(args):
    """Returns means and standard deviations (2, entries) of NUTS and of the guide, by quantity."""
    pyro.set_rng_seed(args.seed)
    prior = pk.GaussianMemory(args.slots, args.code_size, scale=args.spread)
    with torch.no_grad():
        prior.loc.copy_(2 * torch.eye(args.slots, args.code_size))
    machine = pk.KanervaMachine(
        nn.Identity(),
        nn.Identity(),
        memory_prior=prior,
        likelihood=pk.NormalLikelihood(args.noise, learned=False),
        code_scale=args.noise,
    )
    machine.eval().requires_grad_(False)  # nothing is learned
    matrix = prior().sample()
    address = torch.randn(args.patterns, args.slots)
    patterns = (address @ matrix + args.noise * torch.randn(args.patterns, args.code_size)).unsqueeze(0)

    chain = MCMC(
        NUTS(machine.model, max_plate_nesting=2),
        num_samples=args.draws,
        warmup_steps=args.draws // 2,
        disable_progbar=True,
    )
    chain.run(patterns)
    worst = max(float(chain.diagnostics()[site]["r_hat"].max()) for site in ("memory", "address"))
    print(f"NUTS: largest R-hat {worst:.3f}; close to 1 is converged")
    trust = khat(importance_weights(machine, patterns, args.guide_draws)).item()
    print(f"guide: Pareto k-hat {trust:.2f}; below 0.7 its draws can be reweighted to the posterior")

    found = {
        "NUTS": moments(mcmc_data(chain, patterns)),
        "guide": moments(guide_data(machine, patterns, args.guide_draws)),
    }
    truth = {"memory M": matrix, "addresses w": address, "read codes M^T w": address @ matrix}
    print(f"\n{'':18}{'mean, guide less NUTS':>24}{'deviation, guide / NUTS':>26}")
    for name in truth:
        nuts, guide = found["NUTS"][name], found["guide"][name]
        shift, ratio = np.abs(guide[0] - nuts[0]).max(), guide[1] / nuts[1]
        print(f"{name:18}{shift:18.2f} at most{ratio.min():17.2f} to {ratio.max():.2f}")

    figure = Figure(figsize=(11, 4), layout="constrained")
    for ax, (name, value) in zip(figure.subplots(1, 3), truth.items(), strict=True):
        draw(ax, name, value, {label: parts[name] for label, parts in found.items()})
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return found


def moments(data):
    """Means and standard deviations of all entries of the first episode, from ArviZ data."""
    matrix = np.asarray(data["posterior"]["memory"])[:, :, 0]  # (chain, draw, slot, code)
    address = np.asarray(data["posterior"]["address"])[:, :, 0]  # (chain, draw, pattern, slot)
    draws = {"memory M": matrix, "addresses w": address, "read codes M^T w": address @ matrix}
    return {name: np.stack([value.mean((0, 1)).ravel(), value.std((0, 1)).ravel()]) for name, value in draws.items()}


def draw(ax, name, truth, found):
    """One row for each entry: mean and one standard deviation to either side."""
    rows = np.arange(truth.numel())
    for (label, (mean, deviation)), color, mark, shift in zip(
        found.items(), (BLUE, ORANGE), ("o", "s"), (-0.15, 0.15), strict=True
    ):
        ax.errorbar(
            mean, rows + shift, xerr=deviation, fmt=mark, color=color, capsize=3, label=f"{label}: mean, 1 deviation"
        )
    ax.plot(truth.numpy().ravel(), rows, "x", color="black", markersize=8, label="the truth behind the patterns")
    ax.set_yticks(rows, [f"{i}, {j}" for i, j in np.ndindex(*truth.shape)])
    ax.invert_yaxis()
    ax.grid(axis="x", alpha=0.3)
    ax.set_ylabel({"memory M": "slot, code entry", "addresses w": "pattern, slot"}.get(name, "pattern, code entry"))
    ax.set_title(name, fontsize="medium")
    ax.set_xlabel("value")


if __name__ == "__main__":
    main(parser().parse_args())
