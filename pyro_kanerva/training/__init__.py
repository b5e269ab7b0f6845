"""Training with progress, checkpoints and resume."""

from pyro_kanerva.training.checkpoint import load_checkpoint
from pyro_kanerva.training.loop import FitResult, FitStep, fit

__all__ = ["FitResult", "FitStep", "fit", "load_checkpoint"]
