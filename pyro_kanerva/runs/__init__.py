"""Runs: their folders, data and machines."""

from pyro_kanerva.runs.data import CONFIG, batches_on, digest, held_out_episodes, images_of, load_split
from pyro_kanerva.runs.folder import DIGEST, Run, check_size, load_config, load_run, missing_data, save_episodes

__all__ = [
    "CONFIG", "DIGEST", "Run", "batches_on", "check_size", "digest", "held_out_episodes", "images_of", "load_config",
    "load_run", "load_split", "missing_data", "save_episodes",
]  # fmt: skip
