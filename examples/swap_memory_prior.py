"""All memory priors of the library on the same letters, networks, seeds and steps: what does each one cost?

Only the argument ``memory_prior`` of the machine changes. The Gaussian priors differ in their row covariance. The
others have heavier tails than a Gaussian. The hierarchical prior also gives the relevance of every slot of a memory
after writing.

    python examples/swap_memory_prior.py --out swap_memory_prior.png

The table shows the terms of the bound for new letters: ``negative bound = negative reconstruction + address KL +
memory KL``, in nats per letter. The runs are short and of one seed. The intervals in the picture are over episodes,
not over seeds; change ``--steps`` and ``--seed`` to see whether a difference lasts.
"""

import argparse

import torch
from matplotlib.figure import Figure

import pyro_kanerva as pk
from pyro_kanerva import plotting
from pyro_kanerva.evaluation import evaluate_bound

BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#808080"


def memory_priors(slots, code_size):
    """Functions that build the priors, by name."""
    scale = slots**-0.5
    return {
        "Gaussian, scalar": lambda: pk.GaussianMemory(slots, code_size, scale=scale),
        "Gaussian, diagonal": lambda: pk.GaussianMemory(slots, code_size),
        "Gaussian, full": lambda: pk.GaussianMemory(slots, code_size, scale=scale * torch.eye(slots)),
        "low rank": lambda: pk.LowRankMemory(slots, code_size, rank=min(4, slots)),
        "Laplace": lambda: pk.LaplaceMemory(slots, code_size),
        "Student-t": lambda: pk.StudentTMemory(slots, code_size),
        "hierarchical": lambda: pk.HierarchicalMemory(slots, code_size),
    }


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=10)
    parser.add_argument("--code-size", type=int, default=16)
    parser.add_argument("--width", type=int, default=96, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=8, help="patterns stored together")
    parser.add_argument("--batch-size", type=int, default=8, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--test-batches", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="swap_memory_prior.png")
    return parser


def main(args):
    """Returns the bounds on letters that are new, by the name of the prior."""
    shape = (1, 14, 14)
    episodes, held_out = (
        pk.Episodes(pk.glyphs(split).images[:, ::2, ::2], args.episode_length, args.batch_size, seed=args.seed)
        for split in ("train", "test")
    )
    bounds, hierarchical = {}, None
    print(f"{'nats per letter':20}{'reconstruction':>16}{'address KL':>12}{'memory KL':>11}{'negative bound':>16}")
    for name, build in memory_priors(args.slots, args.code_size).items():
        torch.manual_seed(args.seed)
        machine = pk.KanervaMachine(
            pk.MLPEncoder(shape, args.code_size, args.width),
            pk.MLPDecoder(args.code_size, shape, args.width),
            memory_prior=build(),
        )
        pk.fit(machine, episodes, num_steps=args.steps, learning_rate=args.learning_rate, progress=False)
        torch.manual_seed(args.seed)
        bound = bounds[name] = evaluate_bound(machine, (held_out[i] for i in range(args.test_batches)), num_particles=4)
        terms = -bound.reconstruction, bound.address_kl, bound.memory_kl, -bound.bound
        print("{:20}{:16.1f}{:12.1f}{:11.1f}{:16.1f}".format(name, *(term.mean() for term in terms)))
        if isinstance(machine.memory_prior, pk.HierarchicalMemory):
            hierarchical = machine
    relevance, expected = slot_relevance(hierarchical, held_out[0])
    print(f"hierarchical: the prior expects a variance of {expected:.3f} of a slot; in one memory after writing")
    print("  slot    ", *(f"{slot:6}" for slot in range(args.slots)))
    print("  variance", *(f"{value:6.3f}" for value in relevance[1]))

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(4, 3, 3))
    plotting.bound_terms(bounds, ax=left)
    draw_differences(middle, bounds)
    low, mean, high = (value.numpy() for value in relevance)
    right.bar(range(args.slots), mean, color=BLUE, yerr=(mean - low, high - mean), ecolor="black", capsize=3)
    right.axhline(expected.item(), color=ORANGE, linestyle="--", label="expected before writing")
    right.set_xticks(range(args.slots))
    right.set_xlabel("slot")
    right.set_ylabel("variance of the slot, with 90% interval")
    right.set_title("hierarchical: slots of one memory", fontsize="medium")
    right.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14))
    figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return bounds


@torch.no_grad()
def slot_relevance(machine, patterns):
    """Variances of the slots of the first memory, (low, mean, high) over draws of it, and their mean in the prior."""
    prior = machine.memory_prior
    matrices = machine.write(patterns).posterior.sample((200,))[:, 0]  # (200, K, C)
    relevance = prior.relevance(matrices)
    low, high = relevance.quantile(torch.tensor([0.05, 0.95]), dim=0)
    return (low, relevance.mean(0), high), prior.log_rate.exp() / (prior.concentration - 1)


def draw_differences(ax, bounds):
    """The negative bounds against that of the first prior, on the same episodes, with a 95% interval."""
    ax.sharey(ax.figure.axes[0])
    ax.tick_params(labelleft=False)
    first = next(iter(bounds.values())).bound
    for place, bound in enumerate(bounds.values()):
        difference = first - bound.bound
        error = 1.96 * difference.std() / len(difference) ** 0.5
        ax.errorbar(difference.mean(), place, xerr=error, fmt="o", color=BLUE, capsize=3)
    ax.axvline(0, color=GREY, linewidth=1, zorder=0)
    ax.margins(x=0.1)
    ax.set_xlabel("nats per letter, 95% interval (left is good)")
    ax.set_title("Difference from the scalar Gaussian", fontsize="medium")


if __name__ == "__main__":
    main(parser().parse_args())
