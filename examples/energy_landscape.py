"""The energy that a query descends, drawn over the two address weights of a memory with two slots.

A small machine learns pictures of a horizontal and a vertical bar. It stores an episode of them. One picture is
damaged, and two queries recall it from the damaged cue: one with the channel, which knows the damage, and one without.

    python examples/energy_landscape.py --out energy_landscape.png
"""

import argparse

import torch
from matplotlib.figure import Figure

from pyro_kanerva import Episodes, Flip, GaussianMemory, KanervaMachine, MLPDecoder, MLPEncoder, fit, plotting


def bars(size):
    """All pictures of one horizontal and one vertical bar, (size * size, 1, size, size)."""
    pictures = torch.zeros(size, size, 1, size, size)
    for index in range(size):
        pictures[index, :, 0, index, :] = 1
        pictures[:, index, 0, :, index] = 1
    return pictures.flatten(0, 1)


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8, help="height and width of a picture")
    parser.add_argument("--episode-length", type=int, default=3, help="pictures stored together")
    parser.add_argument("--code-size", type=int, default=12)
    parser.add_argument("--width", type=int, default=128, help="units of a hidden layer")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--train-steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--query-steps", type=int, default=10)
    parser.add_argument("--flip", type=float, default=0.2, help="probability that a pixel of the cue is flipped")
    parser.add_argument("--extent", type=float, default=3.0, help="largest address weight that is drawn")
    parser.add_argument("--resolution", type=int, default=101, help="addresses along each axis")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", default="energy_landscape.png")
    return parser


def main(args):
    """Writes one picture with a panel for each of the two queries."""
    torch.manual_seed(args.seed)
    shape = (1, args.size, args.size)
    machine = KanervaMachine(
        MLPEncoder(shape, args.code_size, args.width),
        MLPDecoder(args.code_size, shape, args.width),
        memory_prior=GaussianMemory(2, args.code_size),
    )
    episodes = Episodes(bars(args.size), args.episode_length, args.batch_size, seed=args.seed)
    fit(machine, episodes, num_steps=args.train_steps, learning_rate=args.learning_rate, progress=False)

    channel = Flip(args.flip)
    patterns = episodes[args.train_steps][:1]
    memory = machine.write(patterns)
    cue = channel(patterns, torch.Generator().manual_seed(args.seed))[:, :1]

    target = memory.query(patterns[:, :1], num_steps=0).address[0, 0]  # where the reader finds the intact pattern

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for ax, query_channel in zip(figure.subplots(1, 2), (channel, None), strict=True):
        retrieval = memory.query(cue, num_steps=args.query_steps, channel=query_channel)
        wrong = [int((retrieval.patterns[step, 0] != patterns[0, :1]).sum()) for step in (0, -1)]
        # Without a channel the query changes the pattern too; it converged in the landscape of the last pattern.
        at = cue if query_channel is not None else retrieval.patterns[-1]
        plotting.energy_landscape(
            memory, at, query_channel, retrieval=retrieval, extent=args.extent, resolution=args.resolution, ax=ax
        )
        ax.plot(*target.unbind(-1), "X", color="#d55e00", markeredgecolor="white", markersize=9, label="stored pattern")
        ax.legend(fontsize="small", framealpha=0.9)
        name = "No channel: energy of the last pattern"
        if query_channel is not None:
            name = f"With the channel {query_channel}: energy of the cue"
        ax.set_title(f"{name}\n{wrong[0]} wrong pixels become {wrong[1]}", fontsize="medium")
        print(f"{name}: {wrong[0]} wrong pixels become {wrong[1]} of {patterns[0, 0].numel()}")
    figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main(parser().parse_args())
