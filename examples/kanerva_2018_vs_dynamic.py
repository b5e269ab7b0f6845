"""The Kanerva Machine of 2018 against the dynamic one: what is gained by inferring the addresses?

``pk.kanerva_2018`` replaces ``pk.KanervaMachine``. Encoder, decoder, memory prior, data, seeds, and steps are the
same. In the older machine a network predicts the address from the code alone, without the memory. It decodes a latent
code ``z ~ Normal(M^T w, sigma^2 I)``, which adds a term to the bound, the code KL. The dynamic machine infers the
address from memory and code, and decodes ``M^T w``.

    python examples/kanerva_2018_vs_dynamic.py --out kanerva_2018_vs_dynamic.png

The table shows the terms of the bound, ``negative bound = negative reconstruction + address KL + code KL + memory
KL``, for new letters, and the share of wrong pixels of letters recalled from noisy cues. Both machines answer a query
by the same descent. It starts at the address that their own reader finds. The runs are short and of one seed.
"""

import argparse

import torch
from matplotlib.figure import Figure

import pyro_kanerva as pk
from pyro_kanerva import plotting
from pyro_kanerva.evaluation import evaluate_bound, evaluate_recall, interval, join

MACHINES = {"Kanerva Machine, 2018": pk.kanerva_2018, "Dynamic Kanerva Machine": pk.KanervaMachine}


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=12)
    parser.add_argument("--code-size", type=int, default=24)
    parser.add_argument("--width", type=int, default=128, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=12, help="patterns stored together")
    parser.add_argument("--batch-size", type=int, default=6, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4], help="share of random pixels")
    parser.add_argument("--test-batches", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="kanerva_2018_vs_dynamic.png")
    return parser


def main(args):
    """Returns the bounds and the curves of recall, each by the name of the machine."""
    shape = (1, 14, 14)
    episodes, held_out = (
        pk.Episodes(pk.glyphs(split).images[:, ::2, ::2], args.episode_length, args.batch_size, seed=args.seed)
        for split in ("train", "test")
    )
    batches = [held_out[i] for i in range(args.test_batches)]
    bounds, recall = {}, {}
    for name, build in MACHINES.items():
        torch.manual_seed(args.seed)
        machine = build(
            pk.MLPEncoder(shape, args.code_size, args.width),
            pk.MLPDecoder(args.code_size, shape, args.width),
            memory_prior=pk.GaussianMemory(args.slots, args.code_size),
        )
        pk.fit(machine, episodes, num_steps=args.steps, learning_rate=args.learning_rate, progress=False)
        torch.manual_seed(args.seed)
        bounds[name] = evaluate_bound(machine, batches, num_particles=4)
        channels = [pk.SaltAndPepper(noise) for noise in args.noise]
        errors = [evaluate_recall(machine, batches, channel, channel=channel).errors for channel in channels]
        recall[name] = join(interval([x], error[:, -1:]) for x, error in zip(args.noise, errors, strict=True))
    recall["the cue itself"] = join(interval([x], error[:, :1]) for x, error in zip(args.noise, errors, strict=True))

    print(f"{'nats per letter':24}{'reconstruction':>15}{'address KL':>12}{'code KL':>9}{'memory KL':>11}{'sum':>8}")
    for name, bound in bounds.items():
        terms = -bound.reconstruction, bound.address_kl, bound.code_kl, bound.memory_kl, -bound.bound
        print("{:24}{:15.1f}{:12.1f}{:9.1f}{:11.1f}{:8.1f}".format(name, *(term.mean() for term in terms)))
    print("wrong pixels by the noise of the cue")
    print(f"{'':24}", *(f"{noise:6.0%}" for noise in args.noise))
    for name, curve in recall.items():
        print(f"{name:24}", *(f"{error:6.1%}" for error in curve.mean))

    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    plotting.bound_terms(bounds, ax=left)
    plotting.curves(
        recall, xlabel="share of the cue's pixels set at random", ylabel="wrong pixels", percent=True, ax=right
    )
    right.set_title("Recall of letters that are new", fontsize="medium")
    figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return bounds, recall


if __name__ == "__main__":
    main(parser().parse_args())
