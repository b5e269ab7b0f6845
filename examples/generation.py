"""Do samples look like letters? A classifier of letters is the critic.

    python examples/generation.py
    python examples/generation.py --machines omniglot-gaussian FILE --data omniglot.npz --labels character

The critic is a convolutional network, trained to name the character of an image. The *Frechet distance* compares the
mean and covariance of its last hidden layer over two sets of images (Heusel et al. 2017, arXiv 1706.08500, with a
critic for letters in place of one for photographs):

    d = |m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

Every set is compared with one half of the held-out images. The other half says what equally many real images reach.
A VAE has the networks of the first machine and is trained for as many steps. Samples of the *prior* are drawn from a
memory that holds nothing, with a new draw of M for each. Samples of an *episode* are drawn after writing held-out
images of the other half. A memory that repeats them comes close to real images, so the script also says how many
samples have a stored image within 2% of their pixels: *copies*. Samples of *fitted codes* decode draws of a Gaussian
that has the mean and covariance of the codes of the training images (Ghosh et al. 2020, arXiv 1903.12436).
"""

import argparse
import time
from pathlib import Path

import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn.functional import cross_entropy

import pyro_kanerva as pk
from pyro_kanerva import plotting
from pyro_kanerva.weights import NETWORKS


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", nargs="+", default=["letters-gaussian", "letters"], help="as for pk.pretrained")
    parser.add_argument("--data", default="glyphs", help="glyphs (embedded), or an .npz file with an array images")
    parser.add_argument("--labels", default="labels", help="the array of the file that names the character")
    parser.add_argument("--critic-steps", type=int, default=600)
    parser.add_argument("--vae-steps", type=int, help="by default as many as the first machine was trained for")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--query-steps", type=int, default=10, help="steps of the dynamics that sharpen a sample")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("generation.png"))
    return parser


def load(args):
    """Training images, their labels, and held-out images of other characters; binary, (N, 1, height, width)."""
    if args.data == "glyphs":
        (train, labels), test = pk.glyphs("train"), pk.glyphs("test").images
    else:
        images, labels = pk.load_images(args.data, args.labels)
        held_out = torch.randperm(int(labels.max()) + 1, generator=torch.Generator().manual_seed(0))[labels] % 5 == 0
        train, labels, test = images[~held_out], labels[~held_out], images[held_out]
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(args.seed))
    return pk.binarize(train), labels.unique(return_inverse=True)[1], pk.binarize(test[order])


def train(model, images, steps, loss, batch_size):
    """Adam with a linear decay of its rate, on random batches."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / max(1, steps))
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(len(images), (batch_size,))).backward()
        optimizer.step()
        schedule.step()


def critic(args, images, labels):
    """The features of a trained classifier: images (N, 1, height, width) -> (N, 64)."""
    features = nn.Sequential(
        nn.Conv2d(1, 32, 5, stride=2, padding=2), nn.ReLU(),
        nn.Conv2d(32, 64, 5, stride=2, padding=2), nn.ReLU(),
        nn.Flatten(), nn.LazyLinear(64), nn.ReLU(),
    )  # fmt: skip
    model = nn.Sequential(features, nn.Linear(64, int(labels.max()) + 1))
    model(images[:1])  # which makes the lazy layer
    train(model, images, args.critic_steps, lambda batch: cross_entropy(model(images[batch]), labels[batch]), 128)
    return torch.no_grad()(lambda images: torch.cat([features(part) for part in images.split(512)]))


def frechet_distance(first, second):
    """Between the Gaussians of equal moments of two sets of features (N, F)."""
    first, second = first.double(), second.double()
    product = first.T.cov() @ second.T.cov()
    root_trace = torch.linalg.eigvals(product).real.clamp(min=0).sqrt().sum()
    traces = first.T.cov().trace() + second.T.cov().trace()
    return ((first.mean(0) - second.mean(0)).square().sum() + traces - 2 * root_trace).item()


class VAE(nn.Module):
    """``z ~ Normal(0, I), x ~ Bernoulli(decoder(z))``, with ``q(z | x) = Normal(mu, diag(s^2))`` from the encoder."""

    def __init__(self, config, event_shape):
        super().__init__()
        self.encoder, _ = NETWORKS[config["network"]](event_shape, 2 * config["code_size"], config["width"])
        _, self.decoder = NETWORKS[config["network"]](event_shape, config["code_size"], config["width"])
        self.code_size = config["code_size"]

    def loss(self, patterns):
        loc, log_scale = self.encoder(patterns).chunk(2, dim=-1)
        posterior = dist.Normal(loc, (log_scale - 2).exp())
        prediction = dist.Bernoulli(logits=self.decoder(posterior.rsample()))
        code_kl = torch.distributions.kl_divergence(posterior, dist.Normal(0.0, 1.0)).sum()
        return (code_kl - prediction.log_prob(patterns).sum()) / len(patterns)

    @torch.no_grad()
    def generate(self, num_samples):
        return (self.decoder(torch.randn(num_samples, self.code_size)) > 0).float()


@torch.no_grad()
def of_fitted_codes(codes, decoder, num_samples):
    """Decoded draws of the Gaussian with the mean and covariance of ``codes`` (N, C)."""
    draws = torch.distributions.MultivariateNormal(codes.mean(0), codes.T.cov() + 1e-6 * torch.eye(codes.shape[1]))
    return (decoder(draws.sample((num_samples,))) > 0).float()


def samples_of(args, machine, stored):
    """Samples (N, 1, height, width) of an empty memory, and of one that holds ``stored`` (B, T) + E."""
    empty = machine.prior_memory(args.samples)
    prior = empty.generate(1, num_steps=args.query_steps, matrix=empty.posterior.sample())
    memory = machine.write(stored)
    episode = memory.generate(args.samples // len(stored), num_steps=args.query_steps)
    distance = (episode[:, :, None] != stored[:, None]).flatten(3).float().mean(-1).amin(-1)  # (B, N)
    return prior.flatten(0, 1), episode.flatten(0, 1), (distance < 0.02).float().mean().item()


def main(args):
    images, labels, test = load(args)
    half = len(test) // 2
    real, other = test[:half], test[half:]
    config = pk.pretrained_card(args.machines[0])["config"]
    torch.manual_seed(args.seed)
    features = critic(args, images, labels)
    vae, start = VAE(config, tuple(images.shape[1:])), time.perf_counter()
    steps = config["steps"] if args.vae_steps is None else args.vae_steps
    train(vae, images, steps, lambda batch: vae.loss(images[batch]), config["episode_length"] * config["batch_size"])
    print(f"the VAE: {steps} steps in {time.perf_counter() - start:.0f} s")
    sets = {
        "real images": other[: args.samples],
        "real images, 5% flipped": pk.Flip(0.05)(other[: args.samples]),
        "VAE, prior": vae.generate(args.samples),
        "VAE, fitted codes": of_fitted_codes(vae.encoder(images).chunk(2, -1)[0], vae.decoder, args.samples),
    }
    for name in args.machines:
        machine = pk.pretrained(name)
        length = machine.num_slots
        episodes = max(1, min(args.samples, len(other)) // length)
        stored = other[: episodes * length].unflatten(0, (episodes, length))
        prior, episode, copies = samples_of(args, machine, stored)
        sets[f"{name}, prior"] = prior
        sets[f"{name}, episode ({copies:.0%} copies)"] = episode
        sets[f"{name}, fitted codes"] = of_fitted_codes(machine.encode(images[None])[0], machine.decoder, args.samples)
    expected = features(real)
    print(f"Frechet distance to {len(real)} held-out images")
    for name, found in sets.items():
        print(f"  {name:<48}{frechet_distance(features(found), expected):10.2f}")
    figure = Figure(figsize=(12, 0.62 * len(sets)))
    figure.subplots_adjust(left=0.27, right=0.99, bottom=0.01, top=0.99)
    for axes, (name, found) in zip(figure.subplots(len(sets)), sets.items(), strict=True):
        plotting.image_grid(found[torch.randperm(len(found))[:16]], columns=16, ax=axes)
        axes.set_title(name, x=-0.02, y=0.3, ha="right", fontsize=11)
    figure.savefig(args.out, dpi=150)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main(parser().parse_args())
