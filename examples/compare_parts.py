"""Priors, writers and readers compared on the same data, networks, data order and steps.

    python examples/compare_parts.py
    python examples/compare_parts.py --memory-priors gaussian laplace --writers paper blocks --readers scalar exact
    python examples/compare_parts.py --combinations gaussian/gaussian/paper/scalar gaussian/categorical/slots/slots
    python examples/compare_parts.py --vae --group-by label --episode-length 16

The script trains every combination of the named parts and evaluates it on held-out images: the terms of the bound,
the wrong pixels recalled from cues with 15% salt-and-pepper noise, the same with an empty memory, and the time of a
training step. It leaves out parts that do not fit each other and prints the reason. All results stay in the folder of
the run, ``--run``. Train some combinations first and others later, also with other weights: the table and the picture
show all of them. A combination that was stopped goes on from its checkpoint.

Compare the two bounds side by side. The conditional bound leaves out the memory KL. A writer that fills the memory
with all that it can hold looks best there and worst in the bound.

``--vae`` adds a plain VAE, which has no memory: :class:`VAE`. Patterns of a random episode are independent, and a
memory has nothing to share between them. With ``--group-by`` all patterns of an episode share a label, and a memory can
be the better model.
"""

import argparse
import hashlib
import itertools
import json
import math
import re
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceEnum_ELBO, TraceMeanField_ELBO

import pyro_kanerva as pk
from pyro_kanerva.datasets.episodes import derive_seed
from pyro_kanerva.evaluation import evaluate_bound, evaluate_recall_control
from pyro_kanerva.evaluation.recall import cue_generator, entry_error
from pyro_kanerva.training.checkpoint import FILE, load_checkpoint, save_checkpoint

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
    "mixture": pk.MixtureAddress,
    "categorical": pk.CategoricalAddress,
}


def address_network(args):
    return pk.MLPEncoder((args.code_size,), 2 * args.slots, width=2 * args.code_size)


WRITERS = {
    "paper": lambda args, address_prior: pk.OnlineWriter(block_size=1),
    "blocks": lambda args, address_prior: pk.OnlineWriter(block_size=8, sweeps=1),
    "reading": lambda args, address_prior: pk.ReadingWriter(address_prior),
    "slots": lambda args, address_prior: pk.SlotWriter(),
    "mixture": lambda args, address_prior: pk.MixtureWriter(address_prior),
    "pseudo-inverse": lambda args, address_prior: pk.PseudoInverseWriter(args.slots),
    "amortized": lambda args, address_prior: pk.AmortizedWriter(address_network(args)),
    "kanerva-2018": None,  # goes with the reader of that name: see build()
}
READERS = {
    "exact": lambda args: pk.ExactReader(),
    "scalar": lambda args: pk.ScalarReader(),
    "laplace": lambda args: pk.LaplaceReader(),
    "slots": lambda args: pk.SlotReader(),
    "mixture": lambda args: pk.MixtureReader(),
    "amortized": lambda args: pk.AmortizedReader(address_network(args)),
    "kanerva-2018": None,
}
VAE_ROW = "VAE, no memory"
NOISE = pk.SaltAndPepper(0.15)


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_argument_group("what to compare")
    parts.add_argument("--memory-priors", nargs="+", choices=MEMORY_PRIORS, default=["gaussian"])
    parts.add_argument("--address-priors", nargs="+", choices=ADDRESS_PRIORS, default=["gaussian"])
    parts.add_argument("--writers", nargs="+", choices=WRITERS, default=["paper", "blocks"])
    parts.add_argument("--readers", nargs="+", choices=READERS, default=["scalar", "exact"])
    parts.add_argument("--combinations", nargs="*", metavar="MEMORY/ADDRESS/WRITER/READER", help="these, and no others")
    parts.add_argument("--vae", action="store_true", help="also a plain VAE with equal networks, steps and data order")
    data = parser.add_argument_group("data")
    data.add_argument("--data", default="glyphs", help="glyphs (embedded), or an .npz file with an array images")
    data.add_argument("--held-out", type=int, default=8070, help="images of a file held out, a random split")
    data.add_argument("--group-by", metavar="NAME", help="label that all of an episode share; glyphs have label")
    data.add_argument("--episode-length", type=int, default=32)
    data.add_argument("--batch-size", type=int, default=4)
    data.add_argument("--test-episodes", type=int, default=16, help="held-out episodes for the bound")
    data.add_argument("--recall-episodes", type=int, default=2, help="of these, recalled from damaged cues; 2 or more")
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
    """Training episodes and a list of held-out ones; a random split of a file, or of its groups with ``--group-by``.

    The split of glyphs is fixed: no character of a held-out letter is in the training set.
    """
    generator = torch.Generator().manual_seed(args.seed)
    labels = test_labels = None
    if args.data == "glyphs":
        (train, labels), (test, test_labels) = pk.glyphs("train"), pk.glyphs("test")
        if args.group_by is None:
            labels = test_labels = None
        elif args.group_by != "label":
            raise ValueError(f"--group-by is {args.group_by}; expected label, the only one of glyphs.")
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
    if min(num_episodes, args.recall_episodes) < 2:
        raise ValueError("expected at least 2 test episodes and recall episodes, as the control of recall does.")
    episodes = pk.Episodes(test, args.episode_length, 1, seed=args.seed, labels=test_labels)
    return (
        pk.Episodes(train, args.episode_length, args.batch_size, seed=args.seed, labels=labels),
        [episodes[index] for index in range(num_episodes)],
    )


def networks(args, event_shape, encoder_size):
    """Encoder and decoder, from the same seed for all. A machine makes them before all other parts."""
    torch.manual_seed(args.seed)
    if args.networks == "conv":
        encoder, decoder, width = pk.ConvEncoder, pk.ConvDecoder, 32 if args.width is None else args.width
    else:
        encoder, decoder, width = pk.MLPEncoder, pk.MLPDecoder, 128 if args.width is None else args.width
    return encoder(event_shape, encoder_size, width), decoder(args.code_size, event_shape, width)


def build(args, combination, event_shape):
    """A machine. Its networks start from the same parameters in every machine."""
    memory, address, writer, reader = combination
    encoder, decoder = networks(args, event_shape, args.code_size)
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


class VAE(torch.nn.Module):
    """A variational autoencoder of Bernoulli patterns, without a memory.

    ::

        z ~ Normal(0, I_C),    x ~ Bernoulli(decoder(z))
        q(z | x) = Normal(mu, diag(s^2)),    mu, log s + 2 = encoder(x)

    The networks are those of the machines. Only the last layer of the encoder has twice the size, for mu and log s. The
    deviations s start near exp(-2), since noise as wide as the prior hides the code and stops training early.
    """

    def __init__(self, args, event_shape):
        super().__init__()
        self.encoder, self.decoder = networks(args, event_shape, 2 * args.code_size)
        self.prior = dist.Normal(torch.zeros(args.code_size), 1.0).to_event(1)

    def posterior(self, patterns):
        loc, log_scale = self.encoder(patterns).chunk(2, dim=-1)
        return dist.Normal(loc, (log_scale - 2).exp()).to_event(1)

    def predict(self, code):
        """p(x | z) of every entry, for codes (N, C)."""
        return dist.Bernoulli(logits=self.decoder(code))

    def model(self, patterns):
        """Patterns are (B, T) + E, as for a machine."""
        patterns = patterns.flatten(0, 1)
        with pyro.plate("patterns", len(patterns)):
            code = pyro.sample("code", self.prior)
            pyro.sample("pattern", self.predict(code).to_event(patterns.dim() - 1), obs=patterns)

    def guide(self, patterns):
        """q(z | x), and log p(x | decoder(mu)): the autoencoder term of ``pk.fit``, which speeds up training a lot."""
        patterns = patterns.flatten(0, 1)
        with pyro.plate("patterns", len(patterns)):
            q = self.posterior(patterns)
            pyro.sample("code", q)
            log_prob = self.predict(q.mean).to_event(patterns.dim() - 1).log_prob(patterns)
            pyro.factor("autoencoder", -log_prob, has_rsample=True)

    @torch.no_grad()
    def bound(self, patterns):
        """The terms of the bound of every episode. Neither memory nor addresses cost anything."""
        shape, patterns = patterns.shape[:2], patterns.flatten(0, 1)
        q = self.posterior(patterns)
        reconstruction = self.predict(q.sample()).log_prob(patterns).flatten(1).sum(-1)
        code_kl = torch.distributions.kl_divergence(q, self.prior)
        zero = torch.zeros(shape[0])
        return pk.Bound(reconstruction.view(shape).mean(-1), zero, zero, code_kl.view(shape).mean(-1))

    def recall(self, cues, channel, num_steps=30):
        """The mode of p(x | z, c) at the z with the lowest energy ``-log p(c | z) - log p(z)``, by steps of L-BFGS.

        A query of a memory has as many steps and the same energy, with an address in place of z.
        """
        shape, cues = cues.shape, cues.flatten(0, 1)
        code = self.posterior(cues).mean.detach().requires_grad_()
        optimizer = torch.optim.LBFGS([code], max_iter=num_steps, line_search_fn="strong_wolfe")

        def energy():
            value = -channel.log_evidence(cues, self.predict(code)).sum() - self.prior.log_prob(code).sum()
            (code.grad,) = torch.autograd.grad(value, code)
            return value

        optimizer.step(energy)
        return (channel.posterior(cues, self.predict(code)).logits > 0).to(cues).view(shape)


def fit_vae(args, vae, episodes, folder):
    """The steps of ``pk.fit``: the same batches, seeds, learning rates, optimizer and loss, without a memory in it."""
    loss = TraceMeanField_ELBO(max_plate_nesting=1)(vae.model, vae.guide)
    optimizer = torch.optim.Adam(vae.parameters())
    settings = {"learning_rate": args.learning_rate, "seed": args.seed, "episodes": episodes.fingerprint()}
    losses = load_checkpoint(folder, vae, optimizer, settings) if (folder / FILE).exists() else []
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        for step in range(len(losses), args.steps):
            patterns = episodes[step]
            torch.manual_seed(derive_seed(args.seed, step))
            warm_up, cosine = min(1.0, (step + 1) / 50), 0.5 * (1 + math.cos(math.pi * step / args.steps))
            optimizer.param_groups[0]["lr"] = args.learning_rate * warm_up * cosine
            optimizer.zero_grad()
            value = loss(patterns) / patterns.shape[:2].numel()
            value.backward()
            optimizer.step()
            losses.append(value.item())
            if not math.isfinite(losses[-1]):
                raise ValueError(f"at step {step + 1} the loss of the VAE is {losses[-1]}. Lower --learning-rate.")
            if (step + 1) % 200 == 0 or step + 1 == args.steps:
                save_checkpoint(folder, vae, optimizer, losses, settings)
    return loss


def terms(bound):
    """The means over episodes of the terms of the bound, in nats per pattern."""
    return {
        "reconstruction": bound.reconstruction.mean().item(),
        "address KL": bound.address_kl.mean().item(),
        "code KL": bound.code_kl.mean().item(),
        "memory KL": bound.memory_kl.mean().item(),
        "negative bound": -bound.bound.mean().item(),
        "standard error": (bound.bound.std() / len(bound.bound) ** 0.5).item(),
        "negative conditional bound": -bound.conditional_bound.mean().item(),
    }


def run_machine(args, combination, episodes, batches, folder):
    """Train a machine and evaluate it: the terms of the bound, and the wrong pixels of cues and of what they recall."""
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
        resume=(folder / FILE).exists(),
    )
    discrete = machine.address_prior().has_enumerate_support
    loss = (TraceEnum_ELBO if discrete else TraceMeanField_ELBO)(max_plate_nesting=2)(*machine.training_pair())
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        bound = evaluate_bound(machine, batches)
    control = evaluate_recall_control(machine, batches[: args.recall_episodes], NOISE, channel=NOISE, seed=args.seed)
    return {
        "milliseconds": time_of_a_step(loss, episodes),
        **terms(bound),
        "cue error": control.right.cue,
        "recall error": control.right.steps[-1],
        "empty memory": control.empty.steps[-1],
    }


def run_vae(args, episodes, batches, folder):
    """Train a VAE and evaluate it on the same episodes and cues. It has no memory that could be empty."""
    vae = VAE(args, tuple(batches[0].shape[2:]))
    loss = fit_vae(args, vae, episodes, folder)
    with torch.random.fork_rng():
        torch.manual_seed(args.seed)
        bound = pk.Bound(*map(torch.cat, zip(*(vae.bound(patterns) for patterns in batches), strict=True)))
    errors = []
    for index, patterns in enumerate(batches[: args.recall_episodes]):
        cues = NOISE(patterns, cue_generator(patterns, args.seed, index))
        errors.append([entry_error(recalled, patterns).mean() for recalled in (cues, vae.recall(cues, NOISE))])
    cue_error, recall_error = torch.tensor(errors).mean(0).tolist()
    return {
        "milliseconds": time_of_a_step(loss, episodes),
        **terms(bound),
        "cue error": cue_error,
        "recall error": recall_error,
        "empty memory": None,
    }


def time_of_a_step(loss, episodes):
    """Milliseconds of a forward and backward pass, the fastest of five."""
    seconds = []
    for index in range(5):
        patterns = episodes[index]
        start = time.perf_counter()
        loss(patterns).backward()
        seconds.append(time.perf_counter() - start)
    return 1000 * min(seconds)


TRAINING = (
    *("data", "held_out", "group_by", "episode_length", "batch_size", "networks", "width", "slots", "code_size"),
    *("code_scale", "memory_scale", "steps", "learning_rate", "memory_kl_weight", "seed"),
)
OF_A_MEMORY = ("slots", "code_scale", "memory_scale", "memory_kl_weight")
EVALUATION = ("test_episodes", "recall_episodes")


def compare(args, parts, episodes, batches):
    """Train and evaluate one combination or the VAE, and save the result. A row with a saved result is skipped."""
    names = [name for name in TRAINING if parts != VAE_ROW or name not in OF_A_MEMORY]
    training = {name: getattr(args, name) for name in names}
    settings = {"parts": parts, **training, **{name: getattr(args, name) for name in EVALUATION}}
    digest = hashlib.sha256(json.dumps(training).encode()).hexdigest()[:8]  # other settings, another folder
    folder = args.run / f"{re.sub('[^a-z0-9]+', '-', parts.lower())}-{digest}"
    path = folder / "result.json"
    if path.exists():
        saved = json.loads(path.read_text())
        if settings.items() <= saved.items() and "empty memory" in saved:
            return
    if parts == VAE_ROW:
        result = run_vae(args, episodes, batches, folder)
    else:
        result = run_machine(args, parts.split("/"), episodes, batches, folder)
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps({**settings, **result}, indent=2))
    unfinished.replace(path)


def labels(results):
    """The parts of every result, and the settings in which results differ. A VAE has fewer settings."""
    varying = [name for name in TRAINING if len({result[name] for result in results if name in result}) > 1]
    return [
        ", ".join(
            [
                result["parts"],
                *(f"{name.replace('_', ' ')} {result[name]}" for name in varying if result.get(name) is not None),
            ]
        )
        for result in results
    ]


def table(results):
    columns = ("reconstruction", "address KL", "code KL", "memory KL", "negative bound", "negative conditional bound")
    lines = [
        "| memory / address / writer / reader | " + " | ".join(columns) + " | recall error | empty | ms a step |",
        "|---|" + "---|" * (len(columns) + 3),
    ]
    for label, result in zip(labels(results), results, strict=True):
        values = " | ".join(f"{result[name]:.2f}" for name in columns)
        empty = result.get("empty memory")
        errors = f"{result['recall error']:.2%} | " + ("-" if empty is None else f"{empty:.2%}")
        lines.append(f"| {label} | {values} | {errors} | {result['milliseconds']:.0f} |")
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
        product = itertools.product(args.memory_priors, args.address_priors, args.writers, args.readers)
        chosen = ["/".join(combination) for combination in product]
    else:
        chosen = args.combinations
    for parts in [*chosen, VAE_ROW] if args.vae else chosen:
        print(parts, flush=True)
        try:
            compare(args, parts, episodes, batches)
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
