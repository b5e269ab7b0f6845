"""The address priors of the library on the same letters, networks, seeds and steps: how sparse are addresses?

An address holds the weight of every slot, ``code = sum of w[k] * slot[k]``. Only the argument ``address_prior`` of
the machine changes. The machine chooses the reader and the writer that fit it: closed forms for the Gaussian, Newton
steps for other continuous priors, enumeration of the slots for the one-hot address.

    python examples/swap_address_prior.py --out swap_address_prior.png

The left half of the picture shows the addresses of one stored episode, a row for each prior and a column for each
letter. The right half shows the weights of a letter in falling order, as shares of the largest. A steep fall is a
sparse address: few slots make the letter. The weights of a categorical address are the probabilities of the slots.
"""

import argparse

import torch
from matplotlib.figure import Figure

import pyro_kanerva as pk
from pyro_kanerva.evaluation import evaluate_bound
from pyro_kanerva.priors import point_address

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#000000", "#56b4e9")
LINES, MARKERS = ("-", "--", "-.", ":", "-", "--"), "osD^vP"


def address_priors(slots):
    """Functions that build the priors, by name."""
    return {
        "Gaussian": lambda: pk.GaussianAddress(slots),
        "Student-t": lambda: pk.StudentTAddress(slots, scale=0.5**0.5),  # the default four degrees: variance 1
        "Laplace": lambda: pk.LaplaceAddress(slots),
        "horseshoe": lambda: pk.HorseshoeAddress(slots),
        "simplex": lambda: pk.SimplexAddress(slots),
        "categorical": lambda: pk.CategoricalAddress(slots),
    }


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=12)
    parser.add_argument("--code-size", type=int, default=16)
    parser.add_argument("--width", type=int, default=96, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=8, help="patterns stored together")
    parser.add_argument("--batch-size", type=int, default=6, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--test-batches", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="swap_address_prior.png")
    return parser


def main(args):
    """Returns the sizes of the weights, (episodes, letters, slots), by the name of the prior."""
    shape = (1, 14, 14)
    episodes, held_out = (
        pk.Episodes(pk.glyphs(split).images[:, ::2, ::2], args.episode_length, args.batch_size, seed=args.seed)
        for split in ("train", "test")
    )
    weights = {}
    print("nats per letter, and the share of the largest weight in the sum of an address")
    print(f"{'':14}{'reconstruction':>16}{'address KL':>12}{'memory KL':>11}{'negative bound':>16}{'largest':>9}")
    for name, build in address_priors(args.slots).items():
        torch.manual_seed(args.seed)
        machine = pk.KanervaMachine(
            pk.MLPEncoder(shape, args.code_size, args.width),
            pk.MLPDecoder(args.code_size, shape, args.width),
            memory_prior=pk.GaussianMemory(args.slots, args.code_size),
            address_prior=build(),
        )
        pk.fit(machine, episodes, num_steps=args.steps, learning_rate=args.learning_rate, progress=False)
        torch.manual_seed(args.seed)
        bound = evaluate_bound(machine, (held_out[i] for i in range(args.test_batches)), num_particles=4)
        with torch.no_grad():
            patterns = held_out[0]
            reader = machine.read_codes(machine.encode(patterns), machine.write(patterns).posterior.loc)
            weights[name] = point_address(reader).abs()
        largest = (weights[name].amax(-1) / weights[name].sum(-1)).mean()
        terms = [term.mean() for term in (-bound.reconstruction, bound.address_kl, bound.memory_kl, -bound.bound)]
        print("{:14}{:16.1f}{:12.1f}{:11.1f}{:16.1f}{:9.0%}".format(name, *terms, largest))

    figure = Figure(figsize=(10, 1.35 * len(weights)), layout="constrained")
    maps, right = figure.subfigures(1, 2, width_ratios=(2, 3))
    draw_addresses(maps, weights)
    draw_profiles(right.subplots(), weights)
    figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return weights


def draw_addresses(figure, weights):
    """A map of the first episode's addresses for each prior, each with its own scale."""
    for ax, (name, weight) in zip(figure.subplots(len(weights), 1, sharex=True), weights.items(), strict=True):
        picture = ax.imshow(weight[0].mT.numpy(), cmap="viridis", vmin=0, aspect="auto", interpolation="nearest")
        figure.colorbar(picture, ax=ax, label="|w|")
        ax.set_ylabel("slot")
        ax.set_title(name, fontsize="small", pad=3)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("letter of the episode")


def draw_profiles(ax, weights):
    """The weights of an address in falling order, as shares of the largest: the mean over letters."""
    for (name, weight), color, line, mark in zip(weights.items(), COLORS, LINES, MARKERS, strict=True):
        profile = weight.sort(descending=True).values
        profile = (profile / profile[..., :1]).mean((0, 1))
        places = range(1, len(profile) + 1)
        ax.plot(places, profile.numpy(), color=color, linestyle=line, marker=mark, markersize=5, label=name)
    ax.set_xlabel("place of the slot in the order of its weight")
    ax.set_ylabel("|w| as a share of the largest, mean over letters")
    ax.set_ylim(-0.02, 1.02)
    ax.set_title("How fast the weights of an address fall", fontsize="medium")
    ax.legend(frameon=False)


if __name__ == "__main__":
    main(parser().parse_args())
