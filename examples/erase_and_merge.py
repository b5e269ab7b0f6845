"""Erase a write, and merge memories.

A machine learns letters. It writes 24 letters that it has never seen and then 8 more, and erases the 8. Their
familiarity, the log Bayes factor for "stored", falls back to that of letters that were never written. The second half
writes 32 letters in 1, 2, 4 or 8 independent parts and merges the parts.

    python examples/erase_and_merge.py --out erase_and_merge.png

The addresses of ``FrameWriter`` do not depend on what is stored, so that merged parts equal the memory written at
once, up to rounding. The addresses of ``OnlineWriter`` depend on what is stored, so that its parts interfere.
"""

import argparse

import torch
from matplotlib.figure import Figure

import pyro_kanerva as pk
from pyro_kanerva.evaluation import familiarity


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--code-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=512, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=32)
    parser.add_argument("--erased", type=int, default=8, help="letters of an episode that are erased")
    parser.add_argument("--batch-size", type=int, default=8, help="episodes in a training step")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--test-episodes", type=int, default=40)
    parser.add_argument("--parts", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="erase_and_merge.png")
    return parser


def train(args, frame_writer):
    """Both machines see the same episodes, and start from the same parameters."""
    torch.manual_seed(args.seed)
    shape, prior = (1, 28, 28), pk.GaussianMemory(args.slots, args.code_size)
    machine = pk.KanervaMachine(
        pk.MLPEncoder(shape, args.code_size, args.width),
        pk.MLPDecoder(args.code_size, shape, args.width),
        memory_prior=prior,
        writer=pk.FrameWriter(prior) if frame_writer else None,
    )
    episodes = pk.Episodes(pk.glyphs(), args.episode_length, args.batch_size, seed=args.seed)
    pk.fit(machine, episodes, num_steps=args.steps, memory_kl_weight=0.4, seed=args.seed)
    return machine


def wrong_pixels(memory, patterns):
    """The share of wrong pixels of patterns read with themselves as cues, for each episode."""
    return ((memory.read(patterns) > 0.5) != (patterns > 0.5)).float().mean((1, 2, 3, 4))


def main(args):
    machines = {
        "OnlineWriter(8, sweeps=1)": train(args, frame_writer=False),
        "FrameWriter(memory_prior)": train(args, frame_writer=True),
    }
    test = pk.Episodes(pk.glyphs("test"), args.episode_length + args.erased, args.test_episodes, seed=args.seed)[0]
    episode, never = test[:, : args.episode_length], test[:, args.episode_length :]
    kept, erased = episode[:, args.erased :], episode[:, : args.erased]

    machine = machines["OnlineWriter(8, sweeps=1)"]
    before = machine.write(kept).write(erased)
    after = before.erase(before.records[-1])
    groups = {"kept": kept, "erased": erased, "never written": never}
    scores = {
        (name, when): familiarity(memory, patterns).flatten()
        for name, patterns in groups.items()
        for when, memory in (("before", before), ("after", after))
    }
    print(f"{'familiarity in nats, mean (standard error)':44s}{'before':>14s}{'after':>14s}")
    for name in groups:
        texts = [
            f"{s.mean():.1f} ({s.std() / len(s) ** 0.5:.1f})" for s in (scores[name, w] for w in ("before", "after"))
        ]
        print(f"{name:44s}{texts[0]:>14s}{texts[1]:>14s}")

    differences = {name: [] for name in machines}
    print(f"\n{'merged':33s}{'wrong pixels':>14s}{'difference of R from the memory written at once':>50s}")
    for name, built in machines.items():
        whole = built.write(episode)
        for num_parts in args.parts:
            merged = pk.Memory.merge([built.write(part) for part in episode.chunk(num_parts, 1)])
            difference = (merged.posterior.loc - whole.posterior.loc).norm() / whole.posterior.loc.norm()
            differences[name].append(difference)
            error = 100 * wrong_pixels(merged, episode).mean()
            print(f"{name:26s}{num_parts:2d} part{'s' if num_parts > 1 else ' '}{error:13.2f}%{difference:50.1e}")

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    colors = {"kept": "#0072b2", "erased": "#d55e00", "never written": "#808080"}
    for position, when in enumerate(("before", "after")):
        for shift, (name, color) in enumerate(colors.items()):
            box = left.boxplot(
                [scores[name, when].numpy()],
                positions=[position + 0.28 * (shift - 1)],
                widths=0.24,
                whis=(5, 95),
                showfliers=False,
                patch_artist=True,
                medianprops={"color": "black"},
            )
            box["boxes"][0].set(facecolor=color, label=name if position == 0 else None)
    left.axhline(0, color="black", linewidth=0.8)
    left.set(xticks=[0, 1], xticklabels=["before", "after erasing"], ylabel="familiarity, nats", xlim=(-0.6, 1.6))
    left.set_title("Familiarity before and after erasing")
    left.legend(loc="upper right")
    for (name, values), color, marker in zip(differences.items(), ("#0072b2", "#d55e00"), "os", strict=True):
        right.plot(args.parts, values, marker=marker, color=color, label=name)
    right.set(xscale="log", yscale="log", xticks=args.parts, xticklabels=args.parts, ylim=(1e-8, 1))
    right.set(xlabel="parts that are merged", ylabel="relative difference of R")
    right.minorticks_off()
    right.set_title("Merged, against written at once")
    right.legend(loc="center right")
    figure.savefig(args.out, dpi=150)


if __name__ == "__main__":
    main(parser().parse_args())
