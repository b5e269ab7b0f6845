"""Figures of Omniglot that need labels or several runs: recognition, samples, recall error by memory KL.

    pyro-kanerva train --address-prior gaussian --data omniglot.npz --held-out-where split=1 --steps 2800 \\
        --memory-kl-weight 0.1 --run chars
    python examples/omniglot_figures.py --run chars --group-by alphabet --rate-distortion rate-0.03 rate-0.1 rate-0.3

``--run`` is a run of the command line. Its images come from an .npz file with integer labels, and one of the labels
says which images are held out. The groups are those of another label of the file: alphabets in the case of Omniglot.
The runs after ``--rate-distortion`` learned the same images, each with its own weight of the memory KL. The script
uses held-out images only. It draws three figures:

- recognition.png: the memory stores drawings of one alphabet. Three scores tell them from other drawings of the same
  alphabet. The script also prints the areas under the curves.
- samples_of_one_group.png: new drawings from a memory that holds a few drawings of one alphabet.
- rate_distortion.png: the share of wrong pixels of recalled drawings by the memory KL, a point for each run. A memory
  that keeps more recalls better.
"""

import argparse
from pathlib import Path

import torch

import pyro_kanerva as pk
from pyro_kanerva import plotting
from pyro_kanerva.evaluation import evaluate_bound, evaluate_recall, evaluate_recognition, interval, join
from pyro_kanerva.runs import batches_on, held_out_episodes


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a run, trained with --held-out-where")
    parser.add_argument("--group-by", metavar="NAME", required=True, help="integer label of the file: the groups")
    parser.add_argument("--rate-distortion", metavar="RUN", type=Path, nargs="+", default=[], help="runs to compare")
    parser.add_argument("--recall-episodes", type=int, default=32, help="held-out episodes to recall and recognize")
    parser.add_argument("--noise", type=float, default=0.15, help="salt-and-pepper noise of the cues")
    parser.add_argument("--stored", type=int, default=8, help="images of one group that are stored to draw new ones")
    parser.add_argument("--samples", type=int, default=32, help="images to draw")
    parser.add_argument("--steps", type=int, default=10, help="steps of queries, and of the dynamics that draw images")
    parser.add_argument("--out", type=Path, help="folder of the figures; by default that of the run")
    return parser


def main(args):
    """Returns the areas under the curves of recognition by score, and the recall error by memory KL."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine, config, images, _ = pk.load_run(args.run, device=device)
    others = open_others(args, config, device)
    groups = held_out_groups(args, config)
    seed, out = config["seed"], args.run if args.out is None else args.out
    out.mkdir(parents=True, exist_ok=True)

    def save(axes, name):
        axes.figure.savefig(out / name, dpi=150)
        print(f"  picture: {out / name}")

    # Half of each episode is stored; the scores tell it from the other half.
    episodes = pk.Episodes(images, 2 * config["episode_length"], 1, seed=seed, labels=groups)
    batches = [episodes[i].to(device) for i in range(min(args.recall_episodes, len(episodes)))]
    rocs = evaluate_recognition(machine, batches, seed=seed)
    print(f"recognition, {len(batches)} episodes: area under the curve")
    for name, characteristic in rocs.items():
        print(f"  {name:<28}{characteristic.auc:8.4f}")
    save(plotting.roc_curve(rocs), "recognition.png")

    print(f"\n{args.samples} samples of a memory of {args.stored} images of one group")
    patterns = pk.Episodes(images, args.stored, 1, seed=seed, labels=groups)[0].to(device)
    torch.manual_seed(seed)
    samples = machine.write(patterns).generate(args.samples, num_steps=args.steps)
    save(plotting.image_grid(samples[0]), "samples_of_one_group.png")

    curve = None
    if others:
        recalled = batches_on(device, held_out_episodes(config, images, args.recall_episodes))
        curve = rate_distortion(args, others, recalled, seed)
        axes = plotting.curves(
            {f"{args.noise:.0%} salt and pepper": curve},
            xlabel="memory KL (nats per pattern)",
            ylabel="wrong pixels",
            percent=True,
            log_x=True,
        )
        save(axes, "rate_distortion.png")
    return {name: characteristic.auc for name, characteristic in rocs.items()}, curve


def open_others(args, config, device):
    """The weight of the memory KL and the machine of every run to compare."""
    others = []
    for run in args.rate_distortion:
        machine, other, _, _ = pk.load_run(run, device=device)
        if any(other[name] != config[name] for name in ("data", "held_out", "held_out_where")):
            raise ValueError(f"--rate-distortion: {run} was trained on other data than {args.run}.")
        others.append((other["memory_kl_weight"], machine))
    return others


def held_out_groups(args, config):
    """The group of every held-out image."""
    if config["held_out_where"] is None:
        raise ValueError("--group-by goes with a run that was trained with --held-out-where.")
    name, _, value = config["held_out_where"].partition("=")
    held_out = pk.load_images(config["data"], name).labels == int(value)
    labels = pk.load_images(config["data"], args.group_by).labels
    if labels is None:
        raise ValueError(f"--group-by: {config['data']} holds no labels; expected an array {args.group_by}.")
    groups, needed = labels[held_out], 2 * config["episode_length"]
    largest = groups.unique(return_counts=True)[1].max()
    if largest < needed:
        raise ValueError(
            f"--group-by {args.group_by}: the largest group has {largest} images; expected one of at least {needed}, "
            "two episodes."
        )
    return groups


def rate_distortion(args, others, batches, seed):
    """The recall error at the memory KL of every run, a curve."""
    noise, points = pk.SaltAndPepper(args.noise), []
    print(f"\nweight of the memory KL: memory KL in nats per pattern, wrong pixels after {args.steps} steps")
    for weight, machine in others:
        torch.manual_seed(seed)
        rate = evaluate_bound(machine, batches).memory_kl.mean().item()
        recall = evaluate_recall(machine, batches, noise, channel=noise, num_steps=args.steps, seed=seed)
        point = interval([rate], recall.errors[:, -1:])
        print(f"  {weight:<6}{rate:9.2f}{point.mean[0]:9.2%}")
        points.append(point)
    return join(points)


if __name__ == "__main__":
    main(parser().parse_args())
