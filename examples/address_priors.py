"""What the memory contributes to recall, for every address prior, by the number of stored patterns.

    python examples/address_priors.py
    python examples/address_priors.py --data omniglot.npz --held-out-where split=1 --steps 4000

Machines with equal networks, memory sizes and training differ in the prior of the address alone. Each stores
``--lengths`` patterns, below, at and above the number of slots. The same damaged cues are queried against the memory
that holds their patterns, one that holds others, and an empty one. The *memory gain* is the error with the empty memory
over that with the right one: at 1 the decoder alone cleans the cue.

The scale of a mixture, how far an address may be from a slot, is a choice of the query, not of the training: the
script also queries the machine of ``MixtureAddress`` at the other ``--scales``, with the trained networks as they are.
"""

import argparse
import json
import time
from pathlib import Path

import torch

import pyro_kanerva as pk
from pyro_kanerva.evaluation import evaluate_recall_control

PRIORS = {
    "gaussian": pk.GaussianAddress,
    "simplex": pk.SimplexAddress,
    "laplace": pk.LaplaceAddress,
    "slots": pk.CategoricalAddress,
    "mixture": pk.MixtureAddress,
}
ONE_SLOT = ("slots", "mixture")  # these start from other scales: code and memory of order 1, and little code noise


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--priors", nargs="+", choices=PRIORS, default=list(PRIORS))
    parser.add_argument("--scales", nargs="*", type=float, default=[0.03, 0.1, 0.3], help="more scales of the mixture")
    parser.add_argument("--data", default="glyphs", help="glyphs (embedded), or an .npz file with an array images")
    parser.add_argument("--held-out-where", metavar="NAME=VALUE", help="the held-out images of a file, by a label")
    parser.add_argument("--lengths", nargs="+", type=int, default=[16, 32, 64, 128], help="patterns in one memory")
    parser.add_argument("--patterns", type=int, default=128, help="patterns to recall at each length, at least")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--code-size", type=int, default=200)
    parser.add_argument("--width", type=int, default=448, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=32, help="patterns in a training episode")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--memory-kl-weight", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, default=Path("address-priors"), help="folder of checkpoints and results")
    parser.add_argument("--out", type=Path, help="picture; by default address_priors.png in the folder of the run")
    return parser


def load(args):
    """Training and held-out images."""
    if args.data == "glyphs":
        return pk.glyphs("train").images, pk.glyphs("test").images
    name, _, value = args.held_out_where.partition("=")
    images, labels = pk.load_images(args.data, name)
    return images[labels != int(value)], images[labels == int(value)]


def build(args, name, event_shape):
    """A machine; all have the same initial networks."""
    torch.manual_seed(args.seed)
    encoder = pk.LinearEncoder(event_shape, args.code_size)
    decoder = pk.ShortcutDecoder(args.code_size, event_shape, args.width)
    one_slot = name in ONE_SLOT
    return pk.KanervaMachine(
        encoder,
        decoder,
        memory_prior=pk.GaussianMemory(args.slots, args.code_size, 1.0 if one_slot else args.slots**-0.5),
        address_prior=PRIORS[name](args.slots),
        code_scale=0.1 if one_slot else 1.0,
    )


def train(args, name, images, event_shape):
    """The trained machine and the seconds of its training; a stopped training goes on from its checkpoint."""
    machine, folder, start = build(args, name, event_shape), args.run / name, time.perf_counter()
    pk.fit(
        machine,
        pk.Episodes(images, args.episode_length, args.batch_size, seed=args.seed),
        num_steps=args.steps,
        learning_rate=args.learning_rate,
        memory_kl_weight=args.memory_kl_weight,
        seed=args.seed,
        folder=folder,
        resume=(folder / "checkpoint.pt").exists(),
    )
    return machine, time.perf_counter() - start


def with_scale(machine, scale):
    """A machine with the trained parts and another scale of its mixture."""
    return pk.KanervaMachine(
        machine.encoder,
        machine.decoder,
        memory_prior=machine.memory_prior,
        address_prior=pk.MixtureAddress(machine.num_slots, scale),
        code_scale=machine.code_scale.item(),
    )


def evaluate(args, machine, images):
    """For every length and damage: the error with the right, the other and the empty memory, and never_rose."""
    image = torch.Size((1, *images.shape[1:]))
    left = torch.arange(image[-1]) < image[-1] // 2
    damages = {"15% noise": pk.SaltAndPepper(0.15), "30% noise": pk.SaltAndPepper(0.3)}
    damages["right half missing"] = pk.Occlusion(left)
    rows = []
    for length in args.lengths:
        episodes = pk.Episodes(images, length, max(2, args.patterns // length), seed=args.seed)
        for name, damage in damages.items():
            entries = ~left.expand(image) if name == "right half missing" else None
            control = evaluate_recall_control(
                machine, [episodes[0]], damage, channel=damage, seed=args.seed, entries=entries
            )
            errors = {kind: error.steps[-1] for kind, error in control._asdict().items()}
            rose = 1 - min(error.never_rose for error in control)
            rows.append({"length": length, "damage": name, **errors, "gain": control.gain, "rose": rose})
    return rows


def draw(results, path):
    """The error against the number of patterns: right memory solid, empty memory dashed."""
    import matplotlib.pyplot as plt

    damages = list(dict.fromkeys(row["damage"] for rows in results.values() for row in rows))
    figure, axes = plt.subplots(1, len(damages), figsize=(4 * len(damages), 4.2), layout="constrained", sharey=True)
    colors = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#000000", "#7f7f7f")
    for ax, damage in zip(axes, damages, strict=True):
        for index, (name, rows) in enumerate(results.items()):
            chosen = [row for row in rows if row["damage"] == damage]
            style = {"color": colors[index % len(colors)], "marker": "os^Dv<>p"[index % 8], "markersize": 4}
            lengths = [row["length"] for row in chosen]
            ax.plot(lengths, [100 * row["right"] for row in chosen], label=name, **style)
            ax.plot(lengths, [100 * row["empty"] for row in chosen], linestyle="--", linewidth=1, **style)
        ax.set(title=damage, xlabel="patterns in one memory", xscale="log", yscale="log")
        ax.set_xticks(lengths, [str(length) for length in lengths])
        ax.minorticks_off()
    axes[0].set_ylabel("wrong pixels, %")
    ticks = [0.2, 0.5, 1, 2, 5, 10, 20]
    axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle("Recall after 10 steps: right memory (solid), empty memory (dashed)")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(args):
    """Returns the rows of every machine."""
    images, held_out = load(args)
    event_shape, results = (1, *images.shape[1:]), {}
    for name in args.priors:
        machine, seconds = train(args, name, images, event_shape)
        print(f"{name}: {seconds:.0f} s of training", flush=True)
        results[name] = evaluate(args, machine, held_out)
        for scale in args.scales if name == "mixture" else ():
            results[f"mixture, scale {scale:g}"] = evaluate(args, with_scale(machine, scale), held_out)
    print("\n| address prior | patterns | damage | right | other | empty | gain | rose |\n|" + "---|" * 8)
    for name, rows in results.items():
        for row in rows:
            errors = " | ".join(f"{row[kind]:.2%}" for kind in ("right", "other", "empty"))
            damage = f"{row['length']} | {row['damage']}"
            print(f"| {name} | {damage} | {errors} | {row['gain']:.1f} | {row['rose']:.0%} |")
    args.run.mkdir(parents=True, exist_ok=True)
    (args.run / "results.json").write_text(json.dumps(results, indent=2))
    path = args.run / "address_priors.png" if args.out is None else args.out
    draw(results, path)
    print(f"picture: {path}")
    return results


if __name__ == "__main__":
    main(parser().parse_args())
