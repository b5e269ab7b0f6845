"""Which letters are stored, and which of the stored letters are they? The tables of docs/recall.md.

    python examples/recognition.py

The first half of each episode is written, the second half is not. The script prints for each trained machine how well
scores tell the halves apart, for clean letters and for cues with noise: the area under the curve, and the share of
stored letters above the threshold that 1% of the other letters exceed. Then it prints how often ``Memory.identify`` and
the nearest address find the right letter.
"""

import argparse

import torch

import pyro_kanerva as pk
from pyro_kanerva.evaluation import evaluate_recognition, familiarity, roc


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", nargs="+", default=["letters", "letters-gaussian"])
    parser.add_argument("--patterns", type=int, nargs="+", default=[32, 64], help="stored in one memory")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.15, 0.3], help="share of a cue's pixels at random")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--samples", type=int, default=64, help="of the evidence")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def hit_rate(curve):
    """The largest true positive rate with at most 1% false alarms."""
    rates = zip(curve.false_positive_rate, curve.true_positive_rate, strict=True)
    return max(hits for alarms, hits in rates if alarms <= 0.01)


def main(args):
    """Returns the curves and the shares that are printed, by machine, number of patterns, and what was measured."""
    results = {}
    for name in args.machines:
        machine = pk.pretrained(name)
        for number in args.patterns:
            episodes = pk.Episodes(pk.glyphs("test"), 2 * number, 1, seed=args.seed)
            batches = [episodes[i] for i in range(args.episodes)]
            found = dict(evaluate_recognition(machine, batches, num_samples=args.samples, seed=args.seed))
            for level in args.noise:
                found |= damaged(machine, torch.cat(batches), level, args.seed)
            print(f"\n{name}, {number} patterns in {machine.num_slots} slots")
            for kind, value in found.items():
                shown = f"{value:8.1%}" if isinstance(value, float) else f"{value.auc:8.3f}{hit_rate(value):8.1%}"
                print(f"  {kind:<48}{shown}", flush=True)
            results[name, number] = found
    return results


@torch.no_grad()
def damaged(machine, patterns, level, seed):
    """Scores and shares for cues with salt-and-pepper noise, of which the first half of each episode is stored."""
    noise = pk.SaltAndPepper(level)
    stored, _ = patterns.chunk(2, 1)
    cues = noise(patterns, torch.Generator().manual_seed(seed))
    memory = machine.write(stored)
    retrieval = memory.query(cues, channel=noise)
    recalled = retrieval.patterns[-1]
    scores = {
        "familiarity of the cue": familiarity(memory, cues),
        "familiarity of the recalled pattern": familiarity(memory, recalled),
        "energy of the query": -retrieval.energy[-1],
    }
    found = {f"{level:.0%} noise, {kind}": roc(*score.chunk(2, 1)) for kind, score in scores.items()}
    for kind, x in {"letter": patterns, "cue": cues, "recalled pattern": recalled}.items():
        x = x.chunk(2, 1)[0]
        right = torch.arange(x.shape[1])
        addresses = machine.read_codes(machine.encode(x), memory.posterior.loc).mean
        nearest = torch.cdist(addresses, memory.records[0].addresses).argmin(-1)
        shares = {"identify": memory.identify(x).pattern, "nearest address": nearest}
        for way, pattern in shares.items():
            found[f"{level:.0%} noise, {way}, {kind}"] = (pattern == right).double().mean().item()
    return found


if __name__ == "__main__":
    main(parser().parse_args())
