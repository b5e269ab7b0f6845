"""Real vectors instead of images: waveforms are stored, and recalled from noisy and from half-missing cues.

Each pattern is a sum of a few sine waves with random phases, 64 real numbers. The likelihood is Normal, and the error
is the RMSE, in the units of the patterns. Two controls tell what the memory contributes: the same cues are queried
against an empty memory, and against a memory of other vectors.

    python examples/vectors.py --out vectors.png
"""

import argparse

import torch

import pyro_kanerva as pk
from pyro_kanerva import plotting
from pyro_kanerva.evaluation import evaluate_recall_control


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="entries of a vector")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--code-size", type=int, default=32)
    parser.add_argument("--width", type=int, default=128, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=32, help="vectors stored together")
    parser.add_argument("--batch-size", type=int, default=8, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--noise", type=float, default=0.5, help="standard deviation of the noise of a cue")
    parser.add_argument("--test-episodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="vectors.png")
    return parser


def waveforms(number, size, seed):
    """Vectors (number, size): sums of sine waves of 1 to 6 periods, with random phases and amplitudes."""
    generator = torch.Generator().manual_seed(seed)
    periods = torch.arange(1.0, 7.0).view(-1, 1)
    time = torch.arange(size) / size
    phase = 2 * torch.pi * torch.rand(number, 6, 1, generator=generator)
    amplitude = torch.randn(number, 6, 1, generator=generator) / periods.sqrt()
    return (amplitude * (2 * torch.pi * periods * time + phase).sin()).sum(1)


def main(args):
    """Returns the RMSE of each kind of cue, and of what each memory recalls from it."""
    torch.manual_seed(args.seed)
    vectors = waveforms(20_000, args.size, args.seed)
    machine = pk.KanervaMachine(
        pk.LinearEncoder((args.size,), args.code_size),
        pk.ShortcutDecoder(args.code_size, (args.size,), args.width),
        memory_prior=pk.GaussianMemory(args.slots, args.code_size, 1.0),
        address_prior=pk.MixtureAddress(args.slots),
        likelihood=pk.NormalLikelihood(0.5),
        code_scale=0.1,
    )
    episodes = pk.Episodes(vectors, args.episode_length, args.batch_size, seed=args.seed)
    options = {"learning_rate": 5e-3, "memory_kl_weight": 0.0, "seed": args.seed, "progress": False}
    pk.fit(machine, episodes, num_steps=args.steps, **options)

    new = waveforms(args.test_episodes * args.episode_length, args.size, args.seed + 1)
    new = new.view(args.test_episodes, args.episode_length, args.size)
    hidden = torch.arange(args.size) >= args.size // 2
    noise, half = pk.GaussianNoise(args.noise), pk.Occlusion(~hidden)
    results = {}
    print(f"standard deviation of the vectors: {new.std():.3f}")
    print(f"{'RMSE':<32}{'cue':>8}{'right':>8}{'other':>8}{'empty':>8}")
    for name, channel, entries in ((f"noise of {args.noise}", noise, None), ("half missing, its error", half, hidden)):
        control = evaluate_recall_control(machine, [new], channel, channel=channel, entries=entries, seed=args.seed)
        results[name] = [control.right.cue, *(part.steps[-1] for part in control)]
        print(f"{name:<32}" + "".join(f"{error:8.3f}" for error in results[name]))

    memory, cues = machine.write(new), half(new)
    recalled = {"right memory": memory.query(cues, channel=half).patterns[-1]}
    axes = plotting.recall_comparison(new, cues, recalled, hidden=hidden, num_cues=4)
    axes.set_ylabel("entry")
    axes.figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return results


if __name__ == "__main__":
    main(parser().parse_args())
