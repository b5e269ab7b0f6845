"""A plain Pyro script: model, guide, optimizer, ELBO, and a loop over ``svi.step``, without the library's trainer.

``machine.model`` and ``machine.guide`` are an ordinary pair of Pyro programs. They work with everything that takes
such a pair. Here the machine learns letters of many scripts, stores an episode of new letters, and recalls them from
damaged cues.

    python examples/svi_script.py --out svi_script.png

The loss of this pair is the negative evidence lower bound. The pair of ``machine.training_pair()`` adds the
autoencoder term, which keeps the decoder an inverse of the encoder.
"""

import argparse

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO

import pyro_kanerva as pk
from pyro_kanerva import plotting


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--code-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=256, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=16, help="patterns stored together")
    parser.add_argument("--batch-size", type=int, default=8, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--noise", type=float, default=0.15, help="share of the cue's pixels set at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="svi_script.png")
    return parser


def main(args):
    """Returns the loss of every step, in nats per pattern."""
    pyro.clear_param_store()
    pyro.set_rng_seed(args.seed)
    shape = (1, 28, 28)
    machine = pk.KanervaMachine(
        pk.MLPEncoder(shape, args.code_size, args.width),
        pk.MLPDecoder(args.code_size, shape, args.width),
        memory_prior=pk.GaussianMemory(args.slots, args.code_size),
    )
    episodes = pk.Episodes(pk.glyphs("train"), args.episode_length, args.batch_size, seed=args.seed)

    model, guide = machine.training_pair()  # or machine.model, machine.guide: the bound and nothing else
    svi = SVI(model, guide, pyro.optim.Adam({"lr": args.learning_rate}), Trace_ELBO(max_plate_nesting=2))
    losses = []
    for step in range(args.steps):
        losses.append(svi.step(episodes[step]) / (args.batch_size * args.episode_length))
        if step % max(1, args.steps // 8) == 0 or step == args.steps - 1:
            print(f"step {step + 1:5}   loss {losses[-1]:7.1f} nats per pattern")

    patterns = pk.Episodes(pk.glyphs("test"), args.episode_length, 1, seed=args.seed)[0]
    channel = pk.SaltAndPepper(args.noise)
    cues = channel(patterns, torch.Generator().manual_seed(args.seed))
    retrieval = machine.write(patterns).query(cues, channel=channel)
    wrong = [(retrieval.patterns[step] != patterns).float().mean() for step in (0, -1)]
    print(f"wrong pixels, letters that are new: {wrong[0]:.1%} in the cues, {wrong[1]:.1%} recalled")

    axes = plotting.recall_strips(retrieval, patterns)
    axes.set_title("Letters recalled from damaged cues (orange: wrong pixels)", fontsize="medium")
    axes.figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return losses


if __name__ == "__main__":
    main(parser().parse_args())
