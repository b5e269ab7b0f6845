"""``python -m pyro_kanerva``: the command line."""

import sys

from pyro_kanerva.cli import main

if __name__ == "__main__":
    sys.exit(main())
