"""Types of options: each turns the text of an option into its value, or says what was expected."""

import math
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

#: The largest size, rate, scale or weight. Larger ones are slips, which would end in an error of memory or in NaN.
LARGEST = 1_000_000


def integer(least: int, most: int | None = None) -> Callable[[str], int]:
    """An integer from ``least`` to ``most``."""
    wanted = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least or (most is not None and value > most):
            raise ArgumentTypeError(f"{text} is not {wanted}")
        return value

    return parse


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive(text: str) -> float:
    """A positive number."""
    if not 0 < _float(text) <= LARGEST:
        raise ArgumentTypeError(f"{text} is not a number above 0, at most {LARGEST}")
    return _float(text)


def positive_or_none(text: str) -> float | None:
    """A positive number, or None."""
    return None if text == "None" else positive(text)


def weight(text: str) -> float:
    """A number of at least 0."""
    if not 0 <= _float(text) <= LARGEST:
        raise ArgumentTypeError(f"{text} is not a number from 0 to {LARGEST}")
    return _float(text)


def probability(text: str) -> float:
    """A number above 0 and below 1."""
    if not 0 < _float(text) < 1:
        raise ArgumentTypeError(f"{text} is not a number above 0 and below 1")
    return _float(text)


def folder(text: str) -> Path:
    """A folder, which need not exist."""
    path = Path(text)
    if any(part.exists() and not part.is_dir() for part in (path, *path.parents)):
        raise ArgumentTypeError(f"{text} is a file, or in a file; expected a folder")
    return Path(text)


def new_file(text: str) -> Path:
    """A file to write, in a folder that exists."""
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise ArgumentTypeError(f"{text} is in a folder that does not exist; make the folder first")
    if path.is_dir():
        raise ArgumentTypeError(f"{text} is a folder; expected the name of a file")
    return path
