"""A slot memory: every pattern is stored in one slot and read from one slot.

``CategoricalAddress`` makes the address one-hot: a slot is chosen, slots are not mixed. Its writer, ``SlotWriter``, is
Bayesian clustering: similar patterns share a slot, others take a free one. An episode holds a few letters, each in
several fonts.

    python examples/slot_memory.py --out slot_memory.png

The picture shows the slot of every letter, the decoded slots, and the recall from damaged cues. A slot that holds
nothing shows the mean of the memory prior. The script also prints two bounds: Pyro's ``TraceEnum_ELBO`` sums a discrete
address out. With the address in the guide, the sum is weighted by the reader's q(w | x, M). With the address hidden
from the guide, the model sums it out exactly, ``sum_k p(w = e_k) p(x | w = e_k, M)``; this bound is never lower,
and the negative bound that the script prints never higher.
"""

import argparse

import torch
from matplotlib.figure import Figure
from pyro import poutine
from pyro.infer import TraceEnum_ELBO

import pyro_kanerva as pk
from pyro_kanerva import plotting


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--code-size", type=int, default=16)
    parser.add_argument("--width", type=int, default=128, help="units of a hidden layer")
    parser.add_argument("--letters", type=int, default=4, help="different letters in an episode")
    parser.add_argument("--fonts", type=int, default=3, help="pictures of each letter")
    parser.add_argument("--batch-size", type=int, default=6, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--noise", type=float, default=0.3, help="share of the cue's pixels set at random")
    parser.add_argument("--samples", type=int, default=20, help="draws of the memory, to compare the bounds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="slot_memory.png")
    return parser


class Mixed:
    """Episodes of several letters in several fonts: a stream of batches like ``Episodes``."""

    def __init__(self, split, args):
        images = pk.glyphs(split)
        self.args = args
        self.episodes = pk.Episodes(
            images.images[:, ::2, ::2], args.fonts, args.batch_size * args.letters, seed=args.seed, labels=images.labels
        )

    def __getitem__(self, index):
        return self.episodes[index].reshape(self.args.batch_size, -1, 1, 14, 14)

    def fingerprint(self):
        return f"{self.args.letters} letters at a time from {self.episodes.fingerprint()}"


def main(args):
    """Returns the two bounds, in nats per pattern: address in the guide, and summed out by the model."""
    torch.manual_seed(args.seed)
    shape = (1, 14, 14)
    machine = pk.KanervaMachine(
        pk.MLPEncoder(shape, args.code_size, args.width),
        pk.MLPDecoder(args.code_size, shape, args.width),
        memory_prior=pk.GaussianMemory(args.slots, args.code_size),
        address_prior=pk.CategoricalAddress(args.slots),
        writer=pk.SlotWriter(sweeps=2),  # the default where slots are equally likely
    )
    pk.fit(machine, Mixed("train", args), num_steps=args.steps, learning_rate=args.learning_rate, progress=False)

    patterns = Mixed("test", args)[0]
    bounds = {}
    elbo = TraceEnum_ELBO(max_plate_nesting=2, num_particles=args.samples)
    for name, guide in (
        ("address from the reader", machine.guide),
        ("address summed out by the model", poutine.block(machine.guide, hide=["address"])),
    ):
        torch.manual_seed(args.seed)  # equal draws of the memory
        with torch.no_grad():
            bounds[name] = -elbo.loss(machine.model, guide, patterns) / patterns.shape[:2].numel()
        print(f"{name:34} negative bound {-bounds[name]:8.2f} nats per pattern")

    patterns = patterns[:1]
    memory = machine.write(patterns)
    channel = pk.SaltAndPepper(args.noise)
    retrieval = memory.query(channel(patterns, torch.Generator().manual_seed(args.seed)), channel=channel)
    wrong = [(retrieval.patterns[step] != patterns).float().mean() for step in (0, -1)]
    right = (retrieval.address[-1, 0].argmax(-1) == memory.records[0].addresses[0].argmax(-1)).float().mean()
    print(f"wrong pixels: {wrong[0]:.1%} in the cues, {wrong[1]:.1%} recalled; {right:.0%} from the slot of the letter")
    draw(memory, patterns, retrieval, args)
    print(f"wrote {args.out}")
    return tuple(bounds.values())


def draw(memory, patterns, retrieval, args):
    """The addresses, the slots decoded with the letters that they hold, and the recall."""
    addresses = memory.records[0].addresses[0]  # (T, K)
    with torch.no_grad():
        slots = memory.predict(torch.eye(args.slots).unsqueeze(0)).mean[0]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    left, right = top.subfigures(1, 2, width_ratios=(2, 3))

    ax = left.subplots()
    picture = ax.imshow(addresses.numpy(), cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    left.colorbar(picture, ax=ax, label="weight of the slot")
    ax.set_xticks(range(args.slots))
    ax.set_yticks(range(len(addresses)))
    ax.set_xlabel("slot")
    ax.set_ylabel("letter, as stored")
    ax.set_title("The addresses of writing", fontsize="medium")

    slot_of_pattern = addresses.argmax(-1)
    held = [patterns[0, slot_of_pattern == slot] for slot in range(args.slots)]
    grid = right.subplots(1 + max(map(len, held)), args.slots, squeeze=False)
    for ax in grid.flat:
        ax.set_axis_off()
    for slot, column in enumerate(grid.T):
        for ax, image in zip(column, [slots[slot], *held[slot]], strict=False):
            ax.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        column[0].set_title(f"slot {slot}", fontsize="small")
    right.suptitle("The slots decoded (first row), and the letters in each", fontsize="medium")

    ax = bottom.subplots()
    plotting.recall_strips(retrieval, patterns, steps=(1, 10), num_cues=patterns.shape[1], ax=ax)
    ax.set_title("Recall from damaged cues (orange: wrong pixels)", fontsize="medium")
    figure.savefig(args.out, dpi=150)


if __name__ == "__main__":
    main(parser().parse_args())
