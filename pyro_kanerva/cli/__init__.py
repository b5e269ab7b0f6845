"""The command ``pyro-kanerva``."""

from pyro_kanerva.cli.commands import main

__all__ = ["main"]
