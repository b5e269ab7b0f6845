"""Runs: their folders, data and machines."""

from pyro_kanerva.runs.data import CONFIG, batches_on, digest, held_out_episodes, images_of, load_split
from pyro_kanerva.runs.folder import DIGEST, Run, check_size, load_config, load_run, missing_data, save_episodes
from pyro_kanerva.runs.images import describe, event_shape, image_mode, is_binary, prepare, read_images

__all__ = [
    "CONFIG", "DIGEST", "Run", "batches_on", "check_size", "describe", "digest", "event_shape", "held_out_episodes",
    "image_mode", "images_of", "is_binary", "load_config", "load_run", "load_split", "missing_data", "prepare",
    "read_images", "save_episodes",
]  # fmt: skip
