"""Recall beside other associative memories, under four published protocols; docs/comparison.md explains them.

    python examples/benchmark_recall.py
    python examples/benchmark_recall.py --data omniglot.npz --colors cifar10.npz

``--data`` is Omniglot as an .npz file with ``images`` and ``split``; without it, the embedded letters are used.
``--colors`` is an .npz file with color ``images`` (N, height, width, 3), which no machine was trained on: it compares
the ways to find a stored image alone. Every machine was trained on other images than it stores here.

Episodes have the shape (B, N, D): B memories, N stored images of D entries. Q of the N images are cues.
"""

import argparse
import json
import math
import time
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from torch.nn.functional import logsigmoid

import pyro_kanerva as pk
from pyro_kanerva.evaluation import familiarity, roc

IMPOSSIBLE = -10.0  # the log density of a pixel that the damage cannot make: finite, since a machine predicts no 0 or 1
BETAS = [2.0**power for power in range(-6, 7)]
# 97.5% quantiles of Student's t for 1, 2, ... degrees of freedom
T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Omniglot, an .npz file; by default the embedded letters")
    parser.add_argument("--colors", type=Path, help="color images, an .npz file")
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cues", type=int, default=50, help="cues of each damage and number of stored images")
    parser.add_argument("--steps", type=int, default=10, help="of a query; one-hot addresses need one")
    parser.add_argument("--stored", type=int, nargs="+", default=[2, 10, 100, 1000])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.2, 0.5, 0.8, 1.0, 1.5])
    parser.add_argument("--stream", type=int, default=1024, help="images of the stream, a power of two")
    parser.add_argument("--stream-slots", type=int, nargs="+", default=[256])
    parser.add_argument("--stream-cues", type=int, default=32)
    parser.add_argument("--erase-slots", type=int, default=32, help="K; K and 2 K images are written")
    parser.add_argument("--erase-episodes", type=int, default=8)
    parser.add_argument("--erased", type=int, default=16, help="images of an episode that are erased, one at a time")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--out", type=Path, default=Path("comparison"), help="folder of tables, figures and results")
    return parser


# Damages: how a cue c is made from an image x, and log p(c | x) of each entry.


class FoldedNoise:
    """``c = min(|x + Normal(0, scale)|, 1)``, the noise of Universal Hopfield Networks."""

    def __init__(self, scale):
        self.scale, self.name = scale, f"noise {scale:g}"

    def __call__(self, x, generator):
        return (x + self.scale * torch.randn(x.shape, generator=generator)).abs().clamp(max=1)

    def log_density(self, c, x):
        """A folded Gaussian below 1, and the probability of all that is clamped at 1."""
        x = torch.as_tensor(x)
        folded = torch.logaddexp(-0.5 * ((c - x) / self.scale) ** 2, -0.5 * ((c + x) / self.scale) ** 2)
        folded = folded - math.log(self.scale * math.sqrt(2 * math.pi))
        clamped = sum(0.5 * torch.erfc((1 - mean) / (self.scale * math.sqrt(2))) for mean in (x, -x)).log()
        return torch.where(c < 1, folded, clamped)


class WhiteNoise:
    """``c = x + Normal(0, scale)``."""

    def __init__(self, scale):
        self.scale, self.name = scale, f"white noise {scale:g}"

    def __call__(self, x, generator):
        return x + self.scale * torch.randn(x.shape, generator=generator)

    def log_density(self, c, x):
        return -0.5 * ((c - x) / self.scale) ** 2 - math.log(self.scale * math.sqrt(2 * math.pi))


class Dropped:
    """Each entry is 0 with probability p."""

    def __init__(self, p):
        self.p, self.name = p, f"{p:.0%} of the pixels dropped"

    def __call__(self, x, generator):
        return x * (torch.rand(x.shape, generator=generator) >= self.p)

    def log_density(self, c, x):
        kept = torch.where(c == x, math.log(1 - self.p), IMPOSSIBLE)
        return torch.logaddexp(kept, torch.where(c == 0, math.log(self.p), IMPOSSIBLE))


class Hidden:
    """Entries that are not ``visible`` (D,) are 0 in the cue, and say nothing."""

    def __init__(self, visible, name):
        self.visible, self.name = visible, name

    def __call__(self, x, generator):
        return x * self.visible

    def log_density(self, c, x):
        return torch.where(self.visible & (c != x), IMPOSSIBLE, 0.0)


class Flipped:
    """Salt and pepper: each binary entry is replaced with probability p by a fair coin."""

    def __init__(self, p):
        self.p, self.name = p, f"{p:.0%} salt and pepper"

    def __call__(self, x, generator):
        return pk.SaltAndPepper(self.p)(x, generator)

    def log_density(self, c, x):
        return torch.where(c == x, math.log(1 - self.p / 2), math.log(self.p / 2))


def binary_evidence(damage, cues):
    """log p(c | x = 0) and log p(c | x = 1) of every entry."""
    return damage.log_density(cues, 0.0), damage.log_density(cues, 1.0)


class Evidence:
    """A channel for a Bernoulli machine that holds the log densities of the cues, which need not be binary."""

    def __init__(self, off, on):
        self.off, self.on = off, on

    def posterior(self, cues, prediction):
        return dist.Bernoulli(logits=prediction.logits + self.on - self.off, validate_args=False)

    def log_evidence(self, cues, prediction):
        logits = prediction.logits
        return torch.logaddexp(logsigmoid(logits) + self.on, logsigmoid(-logits) + self.off)


# Rows. Each is a function of the stored images (B, N, D), the write. It returns a function of cues (B, Q, D) and their
# damage, which returns recalled images, and the bytes that it keeps of one image.


def pick(stored, scores):
    """The stored image of the highest score (B, Q, N) for each cue."""
    return stored[torch.arange(len(stored)).unsqueeze(-1), scores.argmax(-1)]


def euclidean(stored):
    kept = stored.clone()
    return lambda cues, damage: pick(kept, -torch.cdist(cues, kept)), 4 * stored.shape[-1]


def manhattan(stored):
    kept = stored.clone()
    return lambda cues, damage: pick(kept, -torch.cdist(cues, kept, p=1)), 4 * stored.shape[-1]


def universal_hopfield(stored):
    """Similarity 1 / Manhattan distance, normalized, and a softmax of beta = 1,000, as in the public code."""
    kept = stored.clone()

    def recall(cues, damage):
        similarity = 1 / torch.cdist(cues, kept, p=1).clamp(min=1e-6)
        return (1000 * similarity / similarity.sum(-1, keepdim=True)).softmax(-1) @ kept

    return recall, 4 * stored.shape[-1]


def hopfield(stored, beta, share=1.0):
    """A modern Hopfield network; ``share`` of the images fits into its bytes."""
    kept = stored[:, : max(1, int(share * stored.shape[1]))].clone()
    return lambda cues, damage: (beta * cues @ kept.mT).softmax(-1) @ kept, 4 * share * stored.shape[-1]


def binary_likelihood(damage, cues, stored):
    """log p(c | x), (B, Q, N), up to a constant of the cue: linear in binary x."""
    off, on = binary_evidence(damage, cues)
    return (on - off) @ stored.mT


def likelihood(stored):
    """The image of the highest likelihood; kept as compressed bits."""
    bits = np.packbits(stored.numpy().astype(bool), axis=-1)
    files = zlib.compress(bits.tobytes(), 9)

    def recall(cues, damage):
        packed = np.frombuffer(zlib.decompress(files), np.uint8).reshape(bits.shape)
        kept = torch.from_numpy(np.unpackbits(packed, axis=-1, count=stored.shape[-1])).float()
        return pick(kept, binary_likelihood(damage, cues, kept))

    return recall, len(files) / (stored.shape[0] * stored.shape[1])


def color_likelihood(stored):
    kept = stored.clone()

    def recall(cues, damage):
        scores = [
            torch.stack([damage.log_density(cue, images).sum(-1) for cue in some])
            for some, images in zip(cues, kept, strict=True)
        ]
        return pick(kept, torch.stack(scores))

    return recall, 4 * stored.shape[-1]


def principal_components(stored, basis, number):
    """``number`` floats of each image. The decoded image of the highest likelihood, as ones and zeros."""
    mean, directions = basis[0], basis[1][:, :number]
    codes = (stored - mean) @ directions

    def recall(cues, damage):
        decoded = (codes @ directions.mT + mean).clamp(0.001, 0.999)
        off, on = binary_evidence(damage, cues)
        ratio = (on - off).clamp(-30, 30).expm1()  # p(c) = p(c | 0) (1 + p (ratio of the densities - 1))
        scores = torch.stack([torch.log1p(decoded * one.unsqueeze(1)).sum(-1) for one in ratio.unbind(1)], 1)
        return pick((decoded > 0.5).float(), scores)

    return recall, 4 * number


def cue_itself(stored):
    return lambda cues, damage: cues, 0


def mean_image(stored, mean):
    return lambda cues, damage: mean.expand(cues.shape), 0


def cue_and_mean(stored, mean):
    """Each pixel by Bayes' rule, from the cue and the mean image; hidden pixels are those of the mean image."""

    def recall(cues, damage):
        off, on = binary_evidence(damage, cues)
        return (mean.clamp(0.001, 0.999).logit() + on - off).sigmoid()

    return recall, 0


def kanerva(stored, machine, size, steps, held=None, empty=False):
    """Our memory of the images; as controls, one that ``held`` other images instead, or an ``empty`` one."""
    held = stored if held is None else held
    memory = machine.prior_memory(len(stored)) if empty else machine.write(held.unflatten(-1, size))
    return written_before(stored, memory, size, steps)


def written_before(stored, memory, size, steps):
    """Our memory, as it was written before."""
    machine = memory.machine
    if isinstance(machine.address_prior, pk.CategoricalAddress):
        steps = 1  # it tries every slot, so that a second one would change nothing

    def recall(cues, damage):
        off, on = (density.unflatten(-1, size) for density in binary_evidence(damage, cues))
        start = (on > off).float()  # a Bernoulli machine expects binary cues: the most likely pixels
        return memory.query(start, channel=Evidence(off, on), num_steps=steps).patterns[-1].flatten(2)

    return recall, 4 * machine.num_slots * machine.code_size / stored.shape[1]


def with_slots(trained, address_prior, num_slots, scale=None, writer=None):
    """A machine with the networks of a trained one and another memory; K need not be that of the training."""
    memory_prior = pk.GaussianMemory(num_slots, trained.code_size, scale)
    return pk.KanervaMachine(
        trained.encoder,
        trained.decoder,
        memory_prior=memory_prior,
        address_prior=address_prior,
        code_scale=trained.code_scale.item(),
        writer=None if writer is None else writer(memory_prior),
    )


def machines_for(data, num_slots):
    """Ours by name, each with ``num_slots``: a trained machine itself, or one of its networks."""
    mixture, gaussian = data["mixture"], data["gaussian"]
    found = {"ours, slots": with_slots(mixture, pk.CategoricalAddress(num_slots), num_slots, 1.0)}
    if mixture.num_slots != num_slots:
        mixture = with_slots(mixture, pk.MixtureAddress(num_slots), num_slots, 1.0)
        gaussian = with_slots(gaussian, pk.GaussianAddress(num_slots), num_slots)
    if num_slots <= 128:  # the writer of a mixture holds K^3 numbers
        found |= {"ours, mixture": mixture, "ours, the paper's prior": gaussian}
    return found


# Measuring.


def load(args):
    """Other images (M, D) for whatever is learned or tuned, images (N, D) that no machine was trained on, machines."""
    if args.data is None:
        other, images = (pk.glyphs(split).images for split in ("train", "test"))
        names = ("letters", "letters-gaussian")
    else:
        everything, split = pk.load_images(args.data, "split")
        # "omniglot" was trained without the split 1, "omniglot-gaussian" without 8,070 random drawings.
        unseen = torch.zeros(len(everything), dtype=torch.bool)
        unseen[torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:8070]] = True
        other, images = everything[split == 0], everything[(split == 1) & unseen]
        names = ("omniglot", "omniglot-gaussian")
    size = (1, *images.shape[1:])
    other, images = ((part > 127).flatten(1).float() for part in (other, images))
    few = other[torch.randperm(len(other), generator=torch.Generator().manual_seed(0))[:4000]]
    basis = (few.mean(0), torch.linalg.eigh(few.mT.cov()).eigenvectors.flip(-1))  # the largest variances first
    mixture, gaussian = (pk.pretrained(name).requires_grad_(False) for name in names)
    return {
        "name": names[0], "other": other, "images": images, "size": size, "basis": basis,
        "mixture": mixture, "gaussian": gaussian,
    }  # fmt: skip


def draw(images, seed, *shape):
    """Different random images (*shape, D)."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 + seed))
    return images[order[: math.prod(shape)]].unflatten(0, shape)


def spread(cues, number):
    """The indices (Q,) of at most as many ``cues``, spread over all images: some rows keep the first ones alone."""
    return torch.arange(min(cues, number)) * number // min(cues, number)


def score(recalled, stored, chosen):
    """The columns of the tables; cues are of the images ``chosen`` (Q,) of each episode."""
    target = stored[:, chosen]
    squared = (recalled - target).square().sum(-1)
    return {
        "identity": (torch.cdist(recalled, stored).argmin(-1) == chosen).float().mean().item(),
        "mse": squared.mean().item() / stored.shape[-1],
        "sse < 50": (squared < 50).float().mean().item(),
        "mse < 0.01": (squared < 0.01 * stored.shape[-1]).float().mean().item(),
        "wrong": ((recalled > 0.5) != (target > 0.5)).float().mean().item(),
    }


def measure(results, rows, images, damage, seed, chosen, **labels):
    """Append a result for each row; ``rows`` maps names to functions that write images."""
    cues = damage(images[:, chosen], torch.Generator().manual_seed(seed))
    for name, write in rows.items():
        start = time.perf_counter()
        recall, kept = write(images)
        written = time.perf_counter()
        recalled = recall(cues, damage)
        end = time.perf_counter()
        results.append(
            {
                **{**labels, "damage": damage.name, "row": name, "seed": seed},
                **score(recalled, images, chosen),
                "bytes": kept,
                "seconds a cue": (end - written) / cues[..., 0].numel(),
                "seconds to write": written - start,
            }
        )


def best_beta(images, damage, shape):
    """The beta of the most identities, then of the smallest error, on ``images`` that are not stored."""
    stored, chosen = draw(images, 0, *shape), spread(100, shape[1])
    cues = damage(stored[:, chosen], torch.Generator().manual_seed(0))
    scores = [score(hopfield(stored, beta)[0](cues, damage), stored, chosen) for beta in BETAS]
    return BETAS[max(range(len(BETAS)), key=lambda i: scores[i]["identity"] - scores[i]["mse"])]


def common_rows(mean, beta):
    """The rows of binary and of color images."""
    return {
        "cue itself": cue_itself,
        "mean image": partial(mean_image, mean=mean),
        "nearest, Euclidean": euclidean,
        "nearest, Manhattan": manhattan,
        "UHN, Manhattan": universal_hopfield,
        "modern Hopfield": partial(hopfield, beta=beta),
    }


def upper_half(channels, height, width):
    """The visible entries of the damage "lower half black", (D,)."""
    return (torch.arange(height) < height // 2).repeat_interleave(width).repeat(channels)


def universal_hopfield_protocol(args, data, seed, results):
    """Protocol 1: the lower half black, or folded noise, by the number of stored images."""
    mean, size, code_size = data["basis"][0], data["size"], data["mixture"].code_size
    share = code_size / len(mean)  # of the bytes of the images as floats
    for number in args.stored:
        episodes = max(1, args.cues // number)
        images, others = draw(data["images"], seed, 2, episodes, number)
        torch.manual_seed(seed)
        ours = {}
        for name, machine in machines_for(data, number).items():
            ours[name] = partial(kanerva, machine=machine, size=size, steps=args.steps)
            ours[f"{name}, other memory"] = partial(ours[name], held=others)
            ours[f"{name}, empty memory"] = partial(ours[name], empty=True)
        for damage in (Hidden(upper_half(*size), "lower half black"), *map(FoldedNoise, args.noise)):
            beta = best_beta(data["other"], damage, (episodes, number))
            rows = common_rows(mean, beta) | {
                "cue and mean image": partial(cue_and_mean, mean=mean),
                "modern Hopfield, bytes of ours": partial(hopfield, beta=beta, share=share),
                "PCA, bytes of ours": partial(principal_components, basis=data["basis"], number=code_size),
                "likelihood, zlib": likelihood,
            }
            chosen = spread(args.cues, number)
            measure(results, rows | ours, images, damage, seed, chosen, protocol="uhn", stored=number)


def color_protocol(args, images, seed, results):
    """Protocol 1 for color images (N, channels, height, width), without a machine."""
    visible = upper_half(*images.shape[1:])
    images, others = images.flatten(1).chunk(2)
    mean = others.mean(0)
    for number in args.stored:
        shape, chosen = (max(1, args.cues // number), number), spread(args.cues, number)
        for damage in (Hidden(visible, "lower half black"), *map(FoldedNoise, args.noise)):
            rows = common_rows(mean, best_beta(others, damage, shape)) | {"likelihood": color_likelihood}
            measure(results, rows, draw(images, seed, *shape), damage, seed, chosen, protocol="colors", stored=number)


def stream_protocol(args, data, seed, results):
    """Protocol 2: images written one at a time, and recalled whenever their number is a power of two."""
    size, mean = data["size"], data["basis"][0]
    stream, other = draw(data["images"], seed, 2, 1, args.stream)
    left = (torch.arange(size[-1]) < size[-1] // 2).repeat(size[-2])
    damages = (WhiteNoise(0.8), Dropped(0.5), Hidden(left, "right half of the columns missing"))
    torch.manual_seed(seed)
    memories, sources = {}, {}
    for slots in args.stream_slots:
        machine = with_slots(data["mixture"], pk.CategoricalAddress(slots), slots, 1.0)
        for suffix, source in (("", stream), (", other memory", other), (", empty memory", None)):
            memories[f"ours, {slots} slots{suffix}"] = machine.prior_memory(1)
            sources[f"ours, {slots} slots{suffix}"] = source
    for written in range(1, args.stream + 1):
        for name, source in sources.items():
            if source is not None:
                memories[name] = memories[name].write(source[:, written - 1 : written].unflatten(-1, size))
        if written & (written - 1):
            continue  # not a power of two
        ask = partial(written_before, size=size, steps=args.steps)
        ours = {name: partial(ask, memory=memory) for name, memory in memories.items()}
        chosen = torch.randperm(written, generator=torch.Generator().manual_seed(seed))[: args.stream_cues]
        for damage in damages:
            rows = common_rows(mean, best_beta(data["other"], damage, (1, written))) | {"likelihood, zlib": likelihood}
            images = stream[:, :written]
            measure(results, rows | ours, images, damage, seed, chosen, protocol="stream", stored=written)


def erase_protocol(args, data, seed, results):
    """Protocol 3: K and 2K images, written one at a time; each of some images is erased, and the others recalled."""
    slots = args.erase_slots
    torch.manual_seed(seed)
    frame = with_slots(data["gaussian"], pk.GaussianAddress(slots), slots, writer=pk.FrameWriter)
    machines = machines_for(data, slots) | {"ours, the paper's prior, FrameWriter": frame}
    for number in (slots, 2 * slots):
        images = draw(data["images"], seed, args.erase_episodes, number + args.erased).unflatten(-1, data["size"])
        for name, machine in machines.items():
            result = erase_some(machine, images[:, :number], images[:, number:], seed, args.steps)
            results.append({"protocol": "erase", "stored": number, "damage": "", "row": name, "seed": seed, **result})


def erase_some(machine, stored, never, seed, steps):
    """Write ``stored``, and erase as many of them, each alone, as there are images that were ``never`` written."""
    noise = pk.SaltAndPepper(0.3)
    cues = noise(stored, torch.Generator().manual_seed(seed))

    def wrong(memory):
        """Wrong pixels (B, N) in %."""
        recalled = memory.query(cues, channel=noise, num_steps=steps).patterns[-1]
        return 100 * (recalled != stored).flatten(2).float().mean(-1)

    memory = machine.prior_memory(len(stored))
    for image in stored.split(1, 1):
        memory = memory.write(image)
    before, changes, erased, scores, never_scores = wrong(memory), [], [], [], []
    for index in range(never.shape[1]):
        position = index * stored.shape[1] // never.shape[1]
        after = memory.erase(memory.records[position])
        scores.append(familiarity(after, stored[:, position : position + 1]))
        never_scores.append(familiarity(after, never[:, index : index + 1]))
        if index < 2:  # recall takes longer than recognition
            now, stays = wrong(after), torch.arange(stored.shape[1]) != position
            changes.append((now - before)[:, stays].mean().item())
            erased.append(now[:, position].mean().item())
    return {
        "wrong pixels before, %": before.mean().item(),
        "change for the others, points": sum(changes) / len(changes),
        "wrong pixels of the erased, %": sum(erased) / len(erased),
        "AUC of stored, before": roc(familiarity(memory, stored), familiarity(memory, never)).auc,
        "AUC of erased": roc(torch.cat(scores), torch.cat(never_scores)).auc,
    }


def compressed(stored, budget, mean):
    """As many images as fit into ``budget`` bytes, compressed. The one of the highest likelihood, or, where the mean
    image explains the cue better than all of them, cue and mean image."""
    number = min(stored.shape[1], int(budget / likelihood(stored)[1]))
    if number == 0:
        return cue_and_mean(stored, mean)
    recall_kept, kept = likelihood(stored[:, :number])

    def recall(cues, damage):
        found, (off, on), p = recall_kept(cues, damage), binary_evidence(damage, cues), mean.clamp(0.001, 0.999)
        known = torch.where(found > 0, on, off).sum(-1, keepdim=True)
        unknown = torch.logaddexp(p.log() + on, (-p).log1p() + off).sum(-1, keepdim=True)
        return torch.where(known > unknown, found, cue_and_mean(stored, mean)[0](cues, damage))

    return recall, kept


def bytes_protocol(args, data, seed, results):
    """Protocol 4: wrong pixels by the number of stored images and the bytes of the memory."""
    damage, mean, size, code_size = Flipped(0.15), data["basis"][0], data["size"], data["mixture"].code_size
    for number in args.lengths:
        shape, chosen = (max(1, args.cues // number), number), spread(args.cues, number)
        images, beta = draw(data["images"], seed, *shape), best_beta(data["other"], damage, shape)
        for slots in sorted({32, *(max(1, number // part) for part in (1, 2, 4, 8, 16, 32, 64))}):
            torch.manual_seed(seed)
            ours = {"ours, slots": with_slots(data["mixture"], pk.CategoricalAddress(slots), slots, 1.0)}
            if slots <= 128:
                # A wider mixture tells several images of one slot apart.
                prior = pk.MixtureAddress(slots, 0.01 if number <= slots else 0.1)
                ours["ours, mixture"] = with_slots(data["mixture"], prior, slots, 1.0)
                ours["ours, the paper's prior"] = machines_for(data, slots)["ours, the paper's prior"]
            floats = slots * code_size / number  # that our memory keeps of an image; as many bits are 32 times more
            rows = common_rows(mean, beta) | {
                "cue and mean image": partial(cue_and_mean, mean=mean),
                "modern Hopfield, floats": partial(hopfield, beta=beta, share=min(1, floats / len(mean))),
                "modern Hopfield, bits": partial(hopfield, beta=beta, share=min(1, 32 * floats / len(mean))),
                "PCA": partial(principal_components, basis=data["basis"], number=max(1, min(int(floats), len(mean)))),
                "zlib": partial(compressed, budget=4 * slots * code_size, mean=mean),
            }
            rows |= {name: partial(kanerva, machine=one, size=size, steps=args.steps) for name, one in ours.items()}
            labels = {"protocol": "bytes", "stored": number, "slots": slots, "budget": 4 * slots * code_size / number}
            measure(results, rows, images, damage, seed, chosen, **labels)


PROTOCOLS = {
    "uhn": universal_hopfield_protocol,
    "stream": stream_protocol,
    "erase": erase_protocol,
    "bytes": bytes_protocol,
}


# Tables and figures.

LABELS = ("protocol", "stored", "slots", "damage", "row")
FLOATS = ("nearest, Euclidean", "nearest, Manhattan", "modern Hopfield")
COLORS = {  # and markers, of the rows in figures
    "nearest, Euclidean": ("#e69f00", "o"),
    "nearest, Manhattan": ("#56b4e9", "s"),
    "modern Hopfield": ("#7f7f7f", "D"),
    "modern Hopfield, floats": ("#7f7f7f", "D"),
    "modern Hopfield, bits": ("#e69f00", "o"),
    "PCA": ("#56b4e9", "s"),
    "zlib": ("#cc79a7", "P"),
    "cue and mean image": ("#b0b0b0", "x"),
    "likelihood": ("#000000", "v"),
    "likelihood, zlib": ("#000000", "v"),
}
for _index, _name in enumerate(("slots", "mixture", "the paper's prior", "256 slots", "1024 slots")):
    _style = (("#d55e00", "^"), ("#009e73", "<"), ("#0072b2", ">"))[_index % 3]
    COLORS |= {f"ours, {_name}": _style, f"ours, {_name}, empty memory": _style}


def add_ratios(results):
    """Add times relative to the Euclidean nearest neighbor of the same seed and place."""
    places = [(*(result.get(label) for label in LABELS[:-1]), result["seed"]) for result in results]
    pairs = list(zip(places, results, strict=True))
    reference = {place: result for place, result in pairs if result["row"] == "nearest, Euclidean"}
    for place, result in pairs:
        if place in reference:
            for column, seconds in (("time a cue", "seconds a cue"), ("time to write", "seconds to write")):
                result[column] = result[seconds] / reference[place][seconds]


def summarize(results):
    """For each label the mean of every column over the seeds, and half of its 95% interval."""
    groups = {}
    for result in results:
        groups.setdefault(tuple(result.get(label) for label in LABELS), []).append(result)
    rows = []
    for key, members in groups.items():
        row = dict(zip(LABELS, key, strict=True))
        for column in (name for name in members[0] if name not in (*LABELS, "seed")):
            values = torch.tensor([member[column] for member in members], dtype=torch.float64)
            few = len(values) == 1
            half = 0.0 if few else T_QUANTILES[min(len(values), 10) - 2] * values.std().item() / len(values) ** 0.5
            row[column] = (values.mean().item(), half)
        rows.append(row)
    return rows


def write_tables(rows, path):
    """One Markdown table for each protocol, number of stored images and damage: mean ± half of the interval."""
    lines = []
    places = dict.fromkeys(tuple(row[label] for label in LABELS[:-1]) for row in rows)
    for place in places:
        protocol, stored, slots, damage = place
        budget = "" if slots is None else f", bytes of {slots} slots"
        lines += [f"\n### {protocol}: {stored} stored{budget}, {damage}\n"]
        members = [row for row in rows if tuple(row[label] for label in LABELS[:-1]) == place]
        columns = [column for column in members[0] if column not in LABELS]
        lines += ["| row | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
        for row in members:
            cells = [f"{mean:.3g} ± {half:.2g}" for mean, half in (row[column] for column in columns)]
            lines.append(f"| {row['row']} | " + " | ".join(cells) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw_panels(panels, path, title, column, ylabel):
    """``panels``: title, label and ticks of x, the rows, and a function from a row to x. Empty memories are dotted."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4 * len(panels), 8), 5), layout="constrained")
    axes, handles = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], {}
    for ax, (name, xlabel, ticks, rows, x) in zip(axes, panels, strict=True):
        for row, (color, marker) in COLORS.items():
            points = sorted((x(one), *one[column]) for one in rows if one["row"] == row)
            if points:
                at, mean, half = (100 * np.array(values) for values in zip(*points, strict=True))
                empty = {"linestyle": ":", "markerfacecolor": "white"} if row.endswith("empty memory") else {}
                style = {"color": color, "marker": marker, "markersize": 5, "capsize": 2, **empty}
                inside = np.minimum(half, [mean, 100 - mean])  # a share is between 0 and 100%
                handles[row] = ax.errorbar(at / 100, mean, inside, **style)
        ax.set(title=name, xlabel=xlabel)
        if ticks is not None:
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(ylabel)
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def draw_figures(rows, folder):
    """A picture for each protocol that has a curve."""

    def where(**labels):
        return [row for row in rows if all(row[label] == value for label, value in labels.items())]

    def stored(row):
        return row["stored"]

    def level(row):
        return float(row["damage"].split()[-1])

    panels = []
    for protocol, kind in (("uhn", "drawings"), ("colors", "color images")):
        noisy = [row for row in where(protocol=protocol) if row["damage"].startswith("noise")]
        for number in sorted({row["stored"] for row in noisy})[-2:]:
            some = [row for row in noisy if row["stored"] == number]
            panels.append((f"{number:,} {kind}", "standard deviation s", None, some, level))
    if panels:
        title = "Noise min(|x + Normal(0, s)|, 1): how often the recalled image is nearest to its own"
        draw_panels(panels, folder / "comparison_noise.png", title, "identity", "identity accuracy, %")

    panels = []
    for damage in dict.fromkeys(row["damage"] for row in where(protocol="stream")):
        some = where(protocol="stream", damage=damage)
        panels.append((damage, "images written", sorted({stored(row) for row in some})[::2], some, stored))
    if panels:
        title = "Images written one at a time"
        draw_panels(panels, folder / "comparison_stream.png", title, "wrong", "wrong pixels, %")

    some = where(protocol="bytes")
    if some:
        lengths = sorted({stored(row) for row in some})
        some = [row for row in some if row["row"] not in FLOATS]  # their bytes are those of the images
        fixed = [row for row in some if row["slots"] == 32]
        panels = [("32 slots: 25.6 kB", "drawings stored", lengths, fixed, stored)]
        for number in (lengths[len(lengths) // 2], lengths[-1]):
            one = [row for row in where(protocol="bytes", stored=number) if row["row"] not in FLOATS]
            ticks = sorted({4 * row["slots"] * 200 / number for row in one})
            panels.append((f"{number} drawings", "bytes a drawing", ticks, one, lambda row: row["budget"][0]))
        title = "Bytes of the memory; cues with 15% salt and pepper"
        draw_panels(panels, folder / "comparison_bytes.png", title, "wrong", "wrong pixels, %")


@torch.no_grad()
def main(args):
    """Returns the rows of the tables; writes them, the results of each seed, and the figures."""
    results, data, runs = [], load(args), {}
    for name in args.protocols:
        runs[name] = partial(PROTOCOLS[name], args, data)
    if args.colors is not None:
        images = torch.from_numpy(np.load(args.colors)["images"]).permute(0, 3, 1, 2)
        runs["colors"] = partial(color_protocol, args, images.float() / 255)
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seeds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(seed, results)
            print(f"seed {seed}, {name}: {time.perf_counter() - start:.0f} s", flush=True)
        add_ratios(results)
        rows = summarize(results)
        (args.out / "results.json").write_text(json.dumps(results))
        write_tables(rows, args.out / "tables.md")
    draw_figures(rows, args.out)
    print(f"tables and figures: {args.out}")
    return rows


if __name__ == "__main__":
    main(parser().parse_args())
