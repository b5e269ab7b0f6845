"""A memory prior of your own in nine lines: a spike and a slab replace the Gaussian.

A memory prior is any callable without arguments that returns a Pyro distribution of event shape (slots, code
size). The parameters of a module are learned with the machine. Nothing else is needed: the writer starts from the
Gaussian of equal mean and variance, and the memory KL becomes a Monte Carlo estimate.

    python examples/your_own_prior.py --out your_own_prior.png

The battery of ``pyro_kanerva.testing`` checks the prior. Then the script trains it and compares it with
``GaussianMemory`` on the same letters, networks, noise and steps. All slots of the Gaussian share one scale here, so
that both priors have one density for all entries, which the picture shows. The bound decides which prior is better: on
these letters the two are nearly equal, the Gaussian a little ahead.
"""

import argparse
import math

import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import nn

import pyro_kanerva as pk
from pyro_kanerva import plotting
from pyro_kanerva.evaluation import evaluate_bound
from pyro_kanerva.testing import check_memory_prior

BLUE, ORANGE = "#0072b2", "#d55e00"


# From here ...
class SpikeAndSlab(nn.Module):
    def __init__(self, num_slots, code_size):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(num_slots, code_size) * num_slots**-0.5)
        self.log_scale = nn.Parameter(torch.tensor([0.3, 1.5]).log() - 0.5 * math.log(num_slots))  # spike, slab
        self.logits = nn.Parameter(torch.zeros(2))  # every entry comes from one of them

    def forward(self):
        which = dist.Categorical(logits=self.logits.expand(*self.loc.shape, 2))
        return dist.MixtureSameFamily(which, dist.Normal(self.loc.unsqueeze(-1), self.log_scale.exp())).to_event(2)


# ... to here.


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slots", type=int, default=12)
    parser.add_argument("--code-size", type=int, default=24)
    parser.add_argument("--width", type=int, default=128, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=12, help="patterns stored together")
    parser.add_argument("--batch-size", type=int, default=4, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--test-batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-check", action="store_true", help="skip the battery of tests")
    parser.add_argument("--out", default="your_own_prior.png")
    return parser


def main(args):
    """Returns the bounds of both priors on letters that are new, by name."""
    if not args.no_check:
        check_memory_prior(lambda: SpikeAndSlab(6, 10))
        print("SpikeAndSlab passes check_memory_prior()")

    shape = (1, 28, 28)
    episodes = pk.Episodes(pk.glyphs("train"), args.episode_length, args.batch_size, seed=args.seed)
    held_out = pk.Episodes(pk.glyphs("test"), args.episode_length, args.batch_size, seed=args.seed)
    priors = {
        "Gaussian": lambda: pk.GaussianMemory(args.slots, args.code_size, scale=args.slots**-0.5),
        "spike and slab": lambda: SpikeAndSlab(args.slots, args.code_size),
    }
    trained, bounds = {}, {}
    for name, build in priors.items():
        torch.manual_seed(args.seed)  # equal networks, and equal means of the priors
        trained[name] = build()
        machine = pk.KanervaMachine(
            pk.MLPEncoder(shape, args.code_size, args.width),
            pk.MLPDecoder(args.code_size, shape, args.width),
            memory_prior=trained[name],
        )
        pk.fit(machine, episodes, num_steps=args.steps, learning_rate=args.learning_rate, progress=False)
        torch.manual_seed(args.seed)
        bounds[name] = evaluate_bound(machine, (held_out[i] for i in range(args.test_batches)), num_particles=4)

    print(f"{'nats per letter':16}{'reconstruction':>16}{'address KL':>12}{'memory KL':>11}{'negative bound':>16}")
    for name, bound in bounds.items():
        terms = -bound.reconstruction, bound.address_kl, bound.memory_kl, -bound.bound
        print("{:16}{:16.1f}{:12.1f}{:11.1f}{:16.1f}".format(name, *(term.mean() for term in terms)))
    slab = trained["spike and slab"]
    for name, scale, share in zip(("spike", "slab"), slab.log_scale.exp(), slab.logits.softmax(0), strict=True):
        print(f"the {name} has the learned scale {scale:.2f} and holds {share:.0%} of the entries")

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    plotting.bound_terms(bounds, ax=left)
    draw_priors(right, trained)
    figure.savefig(args.out, dpi=150)
    print(f"wrote {args.out}")
    return bounds


def draw_priors(ax, priors):
    """The density of an entry of the memory around its mean, on a log axis."""
    styles = {"Gaussian": (BLUE, "--"), "spike and slab": (ORANGE, "-")}
    with torch.no_grad():
        extent = 4 * max(prior().variance.max().sqrt().item() for prior in priors.values())
        offset = torch.linspace(-extent, extent, 401).view(-1, 1, 1)
        for name, prior in priors.items():
            distribution = prior()
            if isinstance(distribution, pk.MatrixNormal):
                entry = dist.Normal(distribution.loc, distribution.variance.sqrt())
            else:
                entry = distribution.base_dist
            density = entry.log_prob(distribution.mean + offset).exp()[:, 0, 0]
            color, line = styles[name]
            ax.semilogy(offset.flatten().numpy(), density.numpy(), color=color, linestyle=line, linewidth=2, label=name)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("entry of the memory, less its prior mean")
    ax.set_ylabel("density")
    ax.set_title("The two priors after training", fontsize="medium")
    ax.legend(frameon=False)


if __name__ == "__main__":
    main(parser().parse_args())
