"""Sequences of tokens instead of images: words are stored, and recalled from cues with replaced and hidden letters.

A pattern is a word of up to 10 letters, a vector of classes: 0 is the blank after its end, 1 to 26 are letters. Words
come from a Markov chain over the letters of the names that Python's own modules define, so no file is needed. The
likelihood is Categorical, and the encoder begins with an embedding of the letters. Two controls tell what the memory
contributes: the same cues are queried against an empty memory, and against a memory of other words.

    python examples/tokens.py
"""

import argparse
import builtins
import keyword
import sys

import torch
from torch import nn

import pyro_kanerva as pk
from pyro_kanerva.evaluation import evaluate_recall_control

CLASSES = 27


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=10, help="most letters of a word")
    parser.add_argument("--words", type=int, default=8000, help="words to train on")
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--code-size", type=int, default=128)
    parser.add_argument("--width", type=int, default=256, help="units of a hidden layer")
    parser.add_argument("--episode-length", type=int, default=32, help="words stored together")
    parser.add_argument("--batch-size", type=int, default=8, help="episodes in a step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--noise", type=float, default=0.3, help="share of the letters of a cue that are replaced")
    parser.add_argument("--test-episodes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def words(number, length, seed):
    """Different words as int64 (number, length), from a Markov chain of order 2; shuffled."""
    names = {*keyword.kwlist, *dir(builtins), *sys.stdlib_module_names}
    names |= {name for module in (str, torch, nn) for name in dir(module)}
    follows = {}
    for name in sorted(names):
        letters = [ord(letter) - 96 for letter in name.lower() if "a" <= letter <= "z"]
        for triple in zip([0, 0, *letters], [0, *letters], [*letters, 0], strict=False):
            follows.setdefault(triple[:2], []).append(triple[2])
    generator, found = torch.Generator().manual_seed(seed), {}
    while len(found) < number:
        word = [0, 0]
        while len(word) < length + 2 and (len(word) == 2 or word[-1]):
            options = follows[tuple(word[-2:])]
            word.append(options[int(torch.randint(len(options), (), generator=generator))])
        letters = [letter for letter in word[2:] if letter]
        if len(letters) > min(3, length - 1):
            found[tuple(letters + [0] * (length - len(letters)))] = None  # a dict keeps the order
    return torch.tensor(list(found))


def text(word):
    """The letters of a word (length,)."""
    return "".join(chr(96 + int(letter)) if letter else "." for letter in word)


class EmbeddingEncoder(nn.Sequential):
    """Words (N, length), which the machine passes as floats, -> codes (N, C)."""

    def __init__(self, length, code_size, size=16):
        super().__init__(nn.Embedding(CLASSES, size), pk.LinearEncoder((length, size), code_size))
        self.event_shape = (length,)

    def forward(self, patterns):
        return super().forward(patterns.long())


def main(args):
    """Returns the share of right letters of each kind of cue, and of what each memory recalls from it."""
    torch.manual_seed(args.seed)
    number = args.test_episodes * args.episode_length
    patterns = words(args.words + number, args.length, args.seed)
    machine = pk.KanervaMachine(
        EmbeddingEncoder(args.length, args.code_size),
        pk.ShortcutDecoder(args.code_size, (args.length, CLASSES), args.width),  # logits of each class
        memory_prior=pk.GaussianMemory(args.slots, args.code_size, 1.0),
        address_prior=pk.MixtureAddress(args.slots),
        likelihood=pk.CategoricalLikelihood(CLASSES),
        code_scale=0.1,
    )
    episodes = pk.Episodes(patterns[number:], args.episode_length, args.batch_size, seed=args.seed)
    options = {"learning_rate": 2e-3, "memory_kl_weight": 0.0, "seed": args.seed, "progress": False}
    pk.fit(machine, episodes, num_steps=args.steps, **options)

    new = patterns[:number].view(args.test_episodes, args.episode_length, args.length)
    hidden = torch.arange(args.length) >= args.length // 2
    noise, half = pk.Replace(args.noise, CLASSES), pk.Occlusion(~hidden)
    results = {}
    print(f"{'right letters':<36}{'cue':>8}{'right':>8}{'other':>8}{'empty':>8}")
    for name, channel, entries in (
        (f"{args.noise:.0%} of the letters replaced", noise, None),
        ("half missing, accuracy there", half, hidden),
    ):
        control = evaluate_recall_control(machine, [new], channel, channel=channel, entries=entries, seed=args.seed)
        errors = [control.right.cue, *(part.steps[-1] for part in control)]
        results[name] = [1 - error for error in errors]
        print(f"{name:<36}" + "".join(f"{accuracy:8.1%}" for accuracy in results[name]))

    memory = machine.write(new)
    cues = noise(new, torch.Generator().manual_seed(args.seed))
    recalled = memory.query(cues, channel=noise).patterns[-1]
    print("\nstored, cue, recalled")
    for word, cue, found in list(zip(new[0], cues[0], recalled[0], strict=True))[:8]:
        print(f"  {text(word)}  {text(cue)}  {text(found)}")
    return results


if __name__ == "__main__":
    main(parser().parse_args())
