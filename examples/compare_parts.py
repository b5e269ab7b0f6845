"""Priors, writers and readers compared on the same data, networks, data order and steps.

    python examples/compare_parts.py
    python examples/compare_parts.py --memory-priors gaussian laplace --writers paper blocks --readers scalar exact
    python examples/compare_parts.py --combinations gaussian/gaussian/paper/scalar gaussian/categorical/slots/slots

The script trains every combination of the named parts and evaluates it on held-out images: the terms of the bound,
the wrong pixels recalled from cues with 15% salt-and-pepper noise, and the time of a training step. It leaves out
parts that do not fit each other and prints the reason. All results stay in the folder of the run, ``--run``. Train
some combinations first and others later, also with other weights: the table and the picture show all of them. A
combination that was stopped goes on from its checkpoint.

Compare the two bounds side by side. The conditional bound leaves out the memory KL. A writer that fills the memory
with all that it can hold looks best there and worst in the bound.
"""

import argparse
import hashlib
import itertools
import json
import time
from pathlib import Path

import torch
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO

import pyro_kanerva as pk
from pyro_kanerva.evaluation import evaluate_bound, evaluate_recall

MEMORY_PRIORS = {
    "gaussian": lambda args: pk.GaussianMemory(args.slots, args.code_size, args.memory_scale),
    "low-rank": lambda args: pk.LowRankMemory(args.slots, args.code_size, scale=args.memory_scale),
    "laplace": lambda args: pk.LaplaceMemory(args.slots, args.code_size, scale=args.memory_scale),
    "student-t": lambda args: pk.StudentTMemory(args.slots, args.code_size, scale=args.memory_scale),
    "hierarchical": lambda args: pk.HierarchicalMemory(args.slots, args.code_size, scale=args.memory_scale),
}
ADDRESS_PRIORS = {
    "gaussian": pk.GaussianAddress,
    "laplace": pk.LaplaceAddress,
    "student-t": pk.StudentTAddress,
    "horseshoe": pk.HorseshoeAddress,
    "simplex": pk.SimplexAddress,
    "categorical": pk.CategoricalAddress,
}


def address_network(args):
    return pk.MLPEncoder((args.code_size,), 2 * args.slots, width=2 * args.code_size)


WRITERS = {
    "paper": lambda args, address_prior: pk.OnlineWriter(block_size=1),
    "blocks": lambda args, address_prior: pk.OnlineWriter(block_size=8, sweeps=1),
    "reading": lambda args, address_prior: pk.ReadingWriter(address_prior),
    "slots": lambda args, address_prior: pk.SlotWriter(),
    "pseudo-inverse": lambda args, address_prior: pk.PseudoInverseWriter(args.slots),
    "amortized": lambda args, address_prior: pk.AmortizedWriter(address_network(args)),
    "kanerva-2018": None,  # goes with the reader of that name: see build()
}
READERS = {
    "exact": lambda args: pk.ExactReader(),
    "scalar": lambda args: pk.ScalarReader(),
    "laplace": lambda args: pk.LaplaceReader(),
    "slots": lambda args: pk.SlotReader(),
    "amortized": lambda args: pk.AmortizedReader(address_network(args)),
    "kanerva-2018": None,
}


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_argument_group("what to compare")
    parts.add_argument("--memory-priors", nargs="+", choices=MEMORY_PRIORS, default=["gaussian"])
    parts.add_argument("--address-priors", nargs="+", choices=ADDRESS_PRIORS, default=["gaussian"])
    parts.add_argument("--writers", nargs="+", choices=WRITERS, default=["paper", "blocks"])
    parts.add_argument("--readers", nargs="+", choices=READERS, default=["scalar", "exact"])
    parts.add_argument("--combinations", nargs="+", metavar="MEMORY/ADDRESS/WRITER/READER", help="these, and no others")
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="glyphs", help="glyphs (embedded), or an .npz file with an array images")
    data.add_argument("--held-out", type=int, default=8070, help="images of a file held out, a random split")
    data.add_argument("--group-by", metavar="NAME", help="integer label of the file: all of an episode share it")
    data.add_argument("--episode-length", type=int, default=32)
    data.add_argument("--batch-size", type=int, default=4)
    data.add_argument("--test-episodes", type=int, default=16, help="held-out episodes for the bound")
    data.add_argument("--recall-episodes", type=int, default=2, help="held-out episodes recalled from damaged cues")
    machine = parser.add_argument_group("machine, the same for all")
    machine.add_argument("--networks", choices=("mlp", "conv"), default="mlp")
    machine.add_argument("--width", type=int, help="width of the networks; by default 128 units or 32 channels")
    machine.add_argument("--slots", type=int, default=32)
    machine.add_argument("--code-size", type=int, default=64)
    machine.add_argument("--code-scale", type=float, default=1.0, help="start of the learned code noise, sigma")
    machine.add_argument("--memory-scale", type=float, help="start of the prior deviations of the slots")
    training = parser.add_argument_group("training, the same for all")
    training.add_argument("--steps", type=int, default=60)
    training.add_argument("--learning-rate", type=float, default=6e-3)
    training.add_argument("--memory-kl-weight", type=float, default=1.0)
    training.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, default=Path("compare-run"), help="folder of the results")
    parser.add_argument("--out", type=Path, help="picture; by default compare.png in the folder of the run")
    return parser


def load(args):
    """Training episodes and a list of held-out ones; a random split of a file, or of its groups with ``--group-by``."""
    generator = torch.Generator().manual_seed(args.seed)
    labels = test_labels = None
    if args.data == "glyphs":
        train, test = pk.glyphs("train").images, pk.glyphs("test").images
    elif args.group_by is None:
        images = pk.load_images(args.data).images
        order = torch.randperm(len(images), generator=generator)
        train, test = images[order[args.held_out :]], images[order[: args.held_out]]
    else:
        images, labels = pk.load_images(args.data, args.group_by)
        groups = labels.unique()
        groups = groups[torch.randperm(len(groups), generator=generator)]
        held_out = torch.isin(labels, groups[: len(groups) // 4])
        train, test, labels, test_labels = images[~held_out], images[held_out], labels[~held_out], labels[held_out]
    num_episodes = min(args.test_episodes, len(test) // args.episode_length)
    episodes = pk.Episodes(test, args.episode_length, 1, seed=args.seed, labels=test_labels)
    return (
        pk.Episodes(train, args.episode_length, args.batch_size, seed=args.seed, labels=labels),
        [episodes[index] for index in range(num_episodes)],
    )


def build(args, combination, event_shape):
    """A machine. Its networks are made first, so that they start from the same parameters in every machine."""
    memory, address, writer, reader = combination
    torch.manual_seed(args.seed)
    if args.networks == "conv":
        width = 32 if args.width is None else args.width
        encoder, decoder = (
            pk.ConvEncoder(event_shape, args.code_size, width),
            pk.ConvDecoder(args.code_size, event_shape, width),
        )
    else:
        width = 128 if args.width is None else args.width
        encoder, decoder = (
            pk.MLPEncoder(event_shape, args.code_size, width),
            pk.MLPDecoder(args.code_size, event_shape, width),
        )
    memory_prior = MEMORY_PRIORS[memory](args)
    if "kanerva-2018" in (writer, reader):
        if (address, writer, reader) != ("gaussian", "kanerva-2018", "kanerva-2018"):
            raise ValueError("writer and reader of the Kanerva Machine of 2018 go together, with Gaussian addresses")
        return pk.kanerva_2018(encoder, decoder, memory_prior=memory_prior, code_scale=args.code_scale)
    address_prior = ADDRESS_PRIORS[address](args.slots)
    return pk.KanervaMachine(
        encoder,
        decoder,
        memory_prior=memory_prior,
        address_prior=address_prior,
        writer=WRITERS[writer](args, address_prior),
        reader=READERS[reader](args),
        code_scale=args.code_scale,
    )


def evaluate(args, machine, batches):
    """The terms of the bound in nats per pattern, and the wrong pixels of cues and of what they recall."""
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        bound = evaluate_bound(machine, batches)
    noise = pk.SaltAndPepper(0.15)
    recall = evaluate_recall(machine, batches[: args.recall_episodes], noise, channel=noise, seed=args.seed)
    return {
        "reconstruction": bound.reconstruction.mean().item(),
        "address KL": bound.address_kl.mean().item(),
        "code KL": bound.code_kl.mean().item(),
        "memory KL": bound.memory_kl.mean().item(),
        "negative bound": -bound.bound.mean().item(),
        "standard error": (bound.bound.std() / len(bound.bound) ** 0.5).item() if len(bound.bound) > 1 else 0.0,
        "negative conditional bound": -bound.conditional_bound.mean().item(),
        "cue error": recall.cue,
        "recall error": recall.steps[-1],
    }


def time_of_a_step(machine, episodes):
    """Seconds of a forward and backward pass, the fastest of five."""
    discrete = machine.address_prior().has_enumerate_support
    loss = (TraceEnum_ELBO if discrete else TraceMeanField_ELBO)(max_plate_nesting=2)(*machine.training_pair())
    seconds = []
    for index in range(5):
        patterns = episodes[index]
        start = time.perf_counter()
        loss(patterns).backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


TRAINING = (
    *("data", "held_out", "group_by", "episode_length", "batch_size", "networks", "width", "slots", "code_size"),
    *("code_scale", "memory_scale", "steps", "learning_rate", "memory_kl_weight", "seed"),
)
EVALUATION = ("test_episodes", "recall_episodes")


def compare(args, combination, episodes, batches):
    """Train and evaluate one combination, and save the result. A combination with a saved result is skipped."""
    training = {name: getattr(args, name) for name in TRAINING}
    settings = {"parts": "/".join(combination), **training, **{name: getattr(args, name) for name in EVALUATION}}
    digest = hashlib.sha256(json.dumps(training).encode()).hexdigest()[:8]  # other settings, another folder
    folder = args.run / f"{'-'.join(combination)}-{digest}"
    path = folder / "result.json"
    if path.exists() and settings.items() <= json.loads(path.read_text()).items():
        return
    machine = build(args, combination, tuple(batches[0].shape[2:]))
    machine.bound(batches[0])  # raises an error if the parts do not fit each other
    pk.fit(
        machine,
        episodes,
        num_steps=args.steps,
        learning_rate=args.learning_rate,
        memory_kl_weight=args.memory_kl_weight,
        seed=args.seed,
        folder=folder,
        resume=(folder / "checkpoint.pt").exists(),
    )
    result = {**settings, "milliseconds": 1000 * time_of_a_step(machine, episodes), **evaluate(args, machine, batches)}
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(result, indent=2))
    unfinished.replace(path)


def labels(results):
    """The parts of every result, and the settings in which results differ."""
    varying = [name for name in TRAINING if len({result[name] for result in results}) > 1]
    return [
        ", ".join(
            [
                result["parts"],
                *(f"{name.replace('_', ' ')} {result[name]}" for name in varying if result[name] is not None),
            ]
        )
        for result in results
    ]


def table(results):
    columns = ("reconstruction", "address KL", "code KL", "memory KL", "negative bound", "negative conditional bound")
    lines = [
        "| memory / address / writer / reader | " + " | ".join(columns) + " | recall error | ms a step |",
        "|---|" + "---|" * (len(columns) + 2),
    ]
    for label, result in zip(labels(results), results, strict=True):
        values = " | ".join(f"{result[name]:.2f}" for name in columns)
        lines.append(f"| {label} | {values} | {result['recall error']:.2%} | {result['milliseconds']:.0f} |")
    return "\n".join(lines)


def draw(results, path):
    """Both bounds of every combination. The difference between them is the memory KL."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(9, 1.4 + 0.55 * len(results)), layout="constrained")
    for row, result in enumerate(results):
        ends = result["negative conditional bound"], result["negative bound"]
        ax.plot(ends, [row, row], color="0.7", linewidth=4, zorder=1, label=None if row else "memory KL")
    rows = range(len(results))
    ax.scatter(
        [r["negative conditional bound"] for r in results],
        rows,
        color="#e69f00",
        s=60,
        label="negative conditional bound",
    )
    ax.scatter([r["negative bound"] for r in results], rows, color="#0072b2", s=60, marker="s", label="negative bound")
    ax.set_yticks(rows, [label.replace(", ", "\n", 1) for label in labels(results)], fontsize="small")
    ax.set_ylim(len(results) - 0.5, -0.5)
    if max(r["negative bound"] for r in results) > 4 * min(r["negative conditional bound"] for r in results):
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set_xlabel("nats per pattern (low is good)")
    figure.legend(frameon=False, loc="outside upper center", ncols=3)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(args):
    """Returns the results, best bound first."""
    episodes, batches = load(args)
    if args.combinations is None:
        chosen = itertools.product(args.memory_priors, args.address_priors, args.writers, args.readers)
    else:
        chosen = [tuple(text.split("/")) for text in args.combinations]
    for combination in chosen:
        print("/".join(combination), flush=True)
        try:
            compare(args, combination, episodes, batches)
        except ValueError as error:
            print(f"  left out: {error}")
    results = [json.loads(path.read_text()) for path in sorted(args.run.glob("*/result.json"))]
    results.sort(key=lambda result: result["negative bound"])
    print(table(results))
    path = args.run / "compare.png" if args.out is None else args.out
    draw(results, path)
    print(f"picture: {path}")
    return results


if __name__ == "__main__":
    main(parser().parse_args())
