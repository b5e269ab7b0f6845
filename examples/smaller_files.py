"""How small can the file of a memory be? Recall against bytes, for each dtype of ``memory.save``.

    python examples/smaller_files.py
    python examples/smaller_files.py --machines omniglot --data omniglot.npz --data-where split=1

The patterns are not those of the training. Each memory is saved, loaded, and queried with noisy cues. *Numbers* are the
bytes of q(M), its mean R (K, C) and the Cholesky factor of U (K, K), for one memory of T patterns. *File* is a file of
one memory, without records and with them. The errors are wrong pixels in %, with the memory that holds the pattern,
with another one, and with an empty one.
"""

import argparse
import tempfile
from pathlib import Path

import torch

import pyro_kanerva as pk
from pyro_kanerva.evaluation.control import empty_memory, roll
from pyro_kanerva.evaluation.recall import recall_errors

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int8)


def parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", nargs="+", default=["letters"], help="as for pk.pretrained")
    parser.add_argument("--data", default="glyphs", help="glyphs (embedded), or an .npz file with an array images")
    parser.add_argument("--data-where", metavar="NAME=VALUE", help="use images of this integer label of the file")
    parser.add_argument("--patterns", type=int, default=32, help="T")
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--noise", type=float, default=0.3, help="salt-and-pepper noise of the cues")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def load(args):
    """Images (N, 28, 28), uint8."""
    if args.data == "glyphs":
        return pk.glyphs("test").images
    if args.data_where is None:
        return pk.load_images(args.data).images
    name, _, value = args.data_where.partition("=")
    images, labels = pk.load_images(args.data, name)
    return images[labels == int(value)]


@torch.no_grad()
def main(args):
    """Returns the rows of the table: machine, dtype, bytes and errors."""
    patterns = pk.Episodes(load(args), args.patterns, args.episodes, seed=args.seed)[0]
    noise, rows = pk.SaltAndPepper(args.noise), []
    print("| machine | dtype | numbers | per pattern | file | file with records | right | other | empty |")
    print("|" + "---|" * 9)
    for name in args.machines:
        machine = pk.pretrained(name)
        memory, single = machine.write(patterns), machine.write(patterns[:1])
        for dtype in DTYPES:
            with tempfile.TemporaryDirectory() as folder:
                path, sizes = Path(folder, "memory.pt"), []
                for records in (False, True):
                    single.save(path, dtype=dtype, records=records)
                    sizes.append(path.stat().st_size)
                memory.save(path, dtype=dtype)
                loaded = pk.Memory.load(path, machine)
            scales = 4 * machine.num_slots if dtype == torch.int8 else 0
            factor = 2 if dtype == torch.int8 else dtype.itemsize
            numbers = machine.num_slots * (machine.code_size * dtype.itemsize + machine.num_slots * factor) + scales
            memories = [loaded, roll(loaded), empty_memory(loaded)]
            found = recall_errors([(patterns, memories)], noise, noise, seed=args.seed)
            wrong = [error.errors[:, -1].mean().item() for error in found]
            rows.append((name, dtype, numbers, *sizes, *wrong))
            bytes_ = [f"{size:,.0f}" for size in (numbers, numbers / args.patterns, *sizes)]
            errors = [f"{error:.2%}" for error in wrong]
            print(f"| {name} | {str(dtype).removeprefix('torch.')} | {' | '.join(bytes_ + errors)} |", flush=True)
    return rows


if __name__ == "__main__":
    main(parser().parse_args())
