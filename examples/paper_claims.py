"""The claims of the Kanerva Machine papers, measured with a trained machine; docs/claims.md has the table.

    python examples/paper_claims.py
    python examples/paper_claims.py --machine omniglot-gaussian --data omniglot.npz --labels character --per-class 8

The images are not those of the training. They are of the characters that have at least ``--per-class`` of them, so that
every experiment draws from the same characters. *One-class* episodes hold drawings of one character, *random* ones of
any.

1. The bound by the number T of writes: its change from memories of single drawings, for the same drawings. *New
   drawing*: the change of the negative log evidence of drawings that are not stored, from an empty memory to one of T
   others. They are of the character of the one-class episode. This needs no memory KL.
2. Denoising: wrong pixels by the step of a query, with the noise known, and by the paper's dynamics.
3. The energy of these queries.
4. Characters: the change of the bound, as in 1, by T and by the number of characters in an episode.
5. Capacity: wrong pixels of the same episodes after the last step.
6. Pictures: interpolation between two addresses, samples of the prior, and samples after drawings of one character.

The bound by the iterations of writing, sweeps of coordinate ascent over the episode, is printed alone.
"""

import argparse
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure

import pyro_kanerva as pk
from pyro_kanerva import plotting
from pyro_kanerva.evaluation import evaluate_recall, interval, join, recall_error


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machine", default="letters-gaussian", help="as for pk.pretrained")
    parser.add_argument("--data", default="glyphs", help="glyphs (embedded), or the .npz file of the training")
    parser.add_argument("--labels", default="labels", help="the array of the file that names the character")
    parser.add_argument("--per-class", type=int, default=16, help="drawings of each character, a power of two")
    parser.add_argument("--longest", type=int, default=128, help="patterns of the longest episode")
    parser.add_argument("--episodes", type=int, default=64, help="of panel 1")
    parser.add_argument(
        "--cues", type=int, default=256, help="patterns of panels 2 and 3, and of each point of 4 and 5"
    )
    parser.add_argument("--noise", type=float, default=0.3, help="salt-and-pepper noise of the cues")
    parser.add_argument("--steps", type=int, default=10, help="of a query")
    parser.add_argument("--sweeps", type=int, nargs="+", default=[0, 1, 2, 4, 8])
    parser.add_argument("--samples", type=int, default=512, help="of the prior, and of memories of one character")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("paper_claims.png"))
    return parser


def load(args):
    """Held-out patterns by character, a list of (n, 1, height, width) with n at least ``--per-class``."""
    config = pk.pretrained_card(args.machine)["config"]
    if args.data == "glyphs":
        images, labels = pk.glyphs("test")
    else:
        images, labels = pk.load_images(args.data, args.labels)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(config["seed"]))
        held_out = order[: config["held_out"]]  # as in the training
        images, labels = images[held_out], labels[held_out]
    patterns = pk.binarize(images)
    groups = [patterns[labels == label] for label in labels.unique()]
    return [group for group in groups if len(group) >= args.per_class]


def draw(groups, num_classes, length, batch, seed):
    """Episodes (batch, length) + E of ``num_classes`` characters, with equally many drawings of each."""
    generator, drawn = torch.Generator().manual_seed(seed), []
    for _ in range(batch):
        chosen = torch.randperm(len(groups), generator=generator)[:num_classes]
        parts = [
            groups[index][torch.randperm(len(groups[index]), generator=generator)[: length // num_classes]]
            for index in chosen
        ]
        drawn.append(torch.cat(parts)[torch.randperm(length, generator=generator)])
    return torch.stack(drawn)


def episodes(args, machine, groups):
    """Random episodes with a pattern for each slot, (B, K) + E."""
    return pk.Episodes(torch.cat(groups), machine.num_slots, max(1, args.cues // machine.num_slots), seed=args.seed)[0]


def powers(last):
    """1, 2, 4, ... up to ``last``."""
    return [2**exponent for exponent in range(last.bit_length())]


def alone(machine, patterns):
    """The negative bound (B, T) of each pattern in a memory of its own."""
    return -machine.bound(patterns.flatten(0, 1).unsqueeze(1)).bound.unflatten(0, patterns.shape[:2])


def bounds_by_writes(args, machine, groups):
    """Curves of the change of the negative bound, and of the negative log evidence of drawings that are not stored.

    The change is that to the mean of the same drawings, each in a memory of its own; that of new drawings is the one to
    an empty memory. Also returns the means of both.
    """
    found = {}
    one_class = draw(groups, 1, args.per_class, args.episodes, args.seed)
    new = one_class[:, -1:]
    singles = alone(machine, one_class)
    unknown = -machine.prior_memory(args.episodes).log_evidence(new)

    def shuffle(values):
        """The same drawings in other episodes: the t-th one comes from t + 1 episodes before."""
        return torch.stack([values[:, t].roll(t + 1, 0) for t in range(args.per_class)], 1)

    for name, patterns, single in (("random", shuffle(one_class), shuffle(singles)), ("one-class", one_class, singles)):
        bounds, evidence = [], []
        for length in powers(args.per_class):
            change = -machine.bound(patterns[:, :length]).bound - single[:, :length].mean(-1)
            bounds.append(interval([length], change.unsqueeze(-1)))
        for length in powers(args.per_class // 2):
            change = -machine.write(patterns[:, :length]).log_evidence(new) - unknown
            evidence.append(interval([length], change))
        found[f"{name}: bound"], found[f"{name}: new drawing"] = join(bounds), join(evidence)
    return found, singles.mean().item(), unknown.mean().item()


def bounds_by_sweeps(args, machine, groups):
    """Negative bounds by the sweeps of the writer; with 0 sweeps, patterns written one at a time are the paper's."""
    patterns = episodes(args, machine, groups)
    writer, found = machine.writer, {}
    for name, size in (("one pattern at a time", 1), ("blocks of 8", 8)):
        points = []
        for sweeps in args.sweeps:
            machine.writer = pk.OnlineWriter(size, sweeps)
            torch.manual_seed(args.seed)
            points.append(interval([sweeps], -machine.bound(patterns).bound.unsqueeze(-1)))
        found[name] = join(points)
    machine.writer = writer
    return found


def denoising(args, machine, groups):
    """Curves of errors and of energies by step, and the share of queries whose energy never rose."""
    patterns = episodes(args, machine, groups)
    memory, noise = machine.write(patterns), pk.SaltAndPepper(args.noise)
    cues = noise(patterns, torch.Generator().manual_seed(args.seed))
    errors, energies, never_rose = {}, {}, []
    for name, channel in (("noise known", noise), ("the paper's dynamics", None)):
        retrieval = memory.query(cues, channel=channel, num_steps=args.steps)
        error = recall_error(patterns, retrieval)
        errors[name], energies[name] = error.curve, interval(range(args.steps + 1), retrieval.energy.mean(-1).mT)
        never_rose.append(error.never_rose)
    return errors, energies, sum(never_rose) / len(never_rose)


def capacity(args, machine, groups):
    """For each number of characters, by T: wrong pixels, and the change of the negative bound, as in panel 1."""
    errors, bounds, noise = {}, {}, pk.SaltAndPepper(args.noise)
    for num_classes in powers(min(args.longest, len(groups))):
        points = []
        for length in powers(args.longest)[3:]:
            if num_classes <= length <= num_classes * args.per_class:
                patterns = draw(groups, num_classes, length, max(2, args.cues // length), args.seed)
                error = evaluate_recall(machine, [patterns], noise, channel=noise, num_steps=args.steps, seed=args.seed)
                change = -machine.bound(patterns).bound - alone(machine, patterns).mean(-1)
                points.append((interval([length], error.errors[:, -1:]), interval([length], change.unsqueeze(-1))))
        if points:
            name = f"{num_classes} character" + "s" * (num_classes > 1)
            errors[name], bounds[name] = (join(curve) for curve in zip(*points, strict=True))
    return errors, bounds


def interpolation(args, machine, groups):
    """Decoded patterns (rows, columns) + E between the addresses of stored pairs, and how direct the way is.

    The directness is the pixels that differ at the two ends, over those that change on the way: at 1 no pixel changes
    back.
    """
    patterns = episodes(args, machine, groups)[:1]
    memory = machine.write(patterns)
    address = memory.records[0].addresses
    share = torch.linspace(0, 1, 9).view(1, -1, 1, 1)
    way = (1 - share) * address[:, None, 0::2] + share * address[:, None, 1::2]  # (1, 9, T / 2, K)
    images = (memory.predict(way.flatten(1, 2)).mean > 0.5).float().unflatten(1, way.shape[1:3])[0]  # (9, T / 2) + E
    changed = (images[1:] != images[:-1]).flatten(2).sum((0, 2))
    direct = (images[-1] != images[0]).flatten(1).sum(-1) / changed
    return images.transpose(0, 1), direct.mean().item()


def nearest_class(samples, groups):
    """The character of the nearest of all patterns, for samples (N,) + E."""
    patterns = torch.cat(groups).flatten(1)
    classes = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(group) for group in groups]))
    return classes[torch.cdist(samples.flatten(1), patterns, p=1).argmin(-1)]


def generation(args, machine, groups, stored=4):
    """Samples of the prior, and after writing a few drawings of one character; a picture of some, and a share.

    The share is that of samples whose nearest drawing among those that are not stored is of the stored character.
    """
    number = max(1, args.samples // 16)
    empty = machine.prior_memory(number)
    samples = empty.generate(16, num_steps=args.steps, matrix=empty.posterior.sample())
    shares = {"prior": [], "drawings of one character": [], "real drawings": []}
    pictures = [samples[0, :8]]
    for index in range(number):
        target = index % len(groups)
        group = groups[target]
        episode = machine.write(group[None, :stored])
        new = episode.generate(16, num_steps=args.steps)[0]
        rest = [group[stored + 1 :] if other == target else drawings for other, drawings in enumerate(groups)]
        candidates = {"prior": samples[index], "drawings of one character": new, "real drawings": group[stored, None]}
        for name, some in candidates.items():
            shares[name].append((nearest_class(some, rest) == target).float().mean())
        if index < 2:
            pictures += [torch.cat((group[:stored], new[: 8 - stored]))]
    return torch.stack(pictures), {name: torch.stack(share).mean().item() for name, share in shares.items()}


def print_curves(title, curves, text):
    print(f"\n{title}")
    for name, curve in curves.items():
        points = (f"{x:g}: {format(mean, text)}" for x, mean in zip(curve.x, curve.mean, strict=True))
        print(f"  {name:<26}" + "  ".join(points))


@torch.no_grad()
def main(args):
    """Returns the curves and figures of all experiments, by name."""
    start, results = time.perf_counter(), {}
    torch.manual_seed(args.seed)
    machine, groups = pk.pretrained(args.machine), load(args)
    total = sum(map(len, groups))
    print(f"{args.machine}: {total} held-out drawings of {len(groups)} characters")
    memory_numbers = sum(p.numel() for p in machine.memory_prior.parameters())
    all_numbers = sum(p.numel() for p in machine.parameters())
    print(f"parameters: {memory_numbers} of the memory prior, {all_numbers} in all")
    results["parameters"] = memory_numbers, all_numbers

    results["bound by writes"], single, unknown = bounds_by_writes(args, machine, groups)
    print(f"negative bound of a drawing alone {single:.1f}, of a new drawing with an empty memory {unknown:.1f} nats")
    print_curves("change in nats per drawing by T, the number of writes", results["bound by writes"], ".2f")
    results["bound by sweeps"] = bounds_by_sweeps(args, machine, groups)
    print_curves("negative bound by sweeps of the writer", results["bound by sweeps"], ".2f")
    errors, energies, never_rose = denoising(args, machine, groups)
    results |= {"errors": errors, "energies": energies, "never rose": never_rose}
    print_curves(f"wrong pixels by step, {args.noise:.0%} noise", errors, ".2%")
    print_curves(f"energy by step, nats; it never rose in {never_rose:.2%} of the queries", energies, ".1f")
    results["capacity"], results["capacity, bound"] = capacity(args, machine, groups)
    print_curves(f"wrong pixels by T, {args.noise:.0%} noise, noise known", results["capacity"], ".2%")
    print_curves("change of the negative bound by T", results["capacity, bound"], ".1f")
    ways, results["directness"] = interpolation(args, machine, groups)
    print(f"\ninterpolation: {results['directness']:.0%} of the changes of pixels on a way remain at its end")
    pictures, results["same character"] = generation(args, machine, groups)
    shares = ", ".join(f"{share:.1%} of {name}" for name, share in results["same character"].items())
    print(f"nearest drawing is of the stored character: {shares}")

    figure = Figure(figsize=(15, 9), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    plotting.curves(
        results["bound by writes"], xlabel="patterns written, T", ylabel="change, nats per drawing", ax=axes[0]
    )
    plotting.curves(errors, xlabel="step of the query", ylabel="wrong pixels", percent=True, ax=axes[1])
    plotting.curves(energies, xlabel="step of the query", ylabel="energy in nats", log_y=True, ax=axes[2])
    plotting.curves(
        results["capacity, bound"],
        xlabel="patterns written, T",
        ylabel="change, nats per drawing",
        log_x=True,
        ax=axes[3],
    )
    axes[3].get_legend().remove()  # that of panel 5 is the same
    plotting.curves(
        results["capacity"], xlabel="patterns stored, T", ylabel="wrong pixels", log_x=True, percent=True, ax=axes[4]
    )
    plotting.image_grid(torch.cat((ways[:3, :8].flatten(0, 1), pictures.flatten(0, 1))), columns=8, ax=axes[5])
    titles = (
        "1 Bound by the number of writes", f"2 Denoising, {args.noise:.0%} noise", "3 Energy of these queries",
        "4 Bound by characters in an episode", "5 Capacity by characters in an episode",
        "6 Three interpolations; eight samples of the prior;\nfour drawings of a character and four samples (twice)",
    )  # fmt: skip
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, fontsize="medium")
    figure.savefig(args.out, dpi=120)
    print(f"\npicture: {args.out}; {(time.perf_counter() - start) / 60:.1f} minutes")
    return results


if __name__ == "__main__":
    main(parser().parse_args())
