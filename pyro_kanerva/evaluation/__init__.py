"""Evaluation on held-out data: bound, recall and its control, where queries end, capacity, basins, recognition.

``batches`` is any iterable of patterns (B, T) + E, for example :class:`~pyro_kanerva.Episodes`; every function iterates
once. Confidence intervals are over episodes.
"""

from pyro_kanerva.evaluation.attractors import Attractors, Ends, classify_ends, evaluate_attractors, random_start
from pyro_kanerva.evaluation.baselines import autoencoder, evaluate_baselines, hopfield, nearest_pattern
from pyro_kanerva.evaluation.bound import evaluate_bound
from pyro_kanerva.evaluation.capacity import evaluate_basins, evaluate_capacity
from pyro_kanerva.evaluation.completion import evaluate_completion
from pyro_kanerva.evaluation.control import ControlMemories, RecallControl, control_memories, evaluate_recall_control
from pyro_kanerva.evaluation.curve import Curve, interval, join
from pyro_kanerva.evaluation.recall import (
    Metric,
    RecallError,
    entry_error,
    error_text,
    evaluate_recall,
    likelihood_metric,
    metric_of,
    recall_error,
)
from pyro_kanerva.evaluation.recognition import ROC, evaluate_recognition, familiarity, roc

__all__ = [
    "ROC", "Attractors", "ControlMemories", "Curve", "Ends", "Metric", "RecallControl", "RecallError", "autoencoder",
    "classify_ends", "control_memories", "entry_error", "error_text", "evaluate_attractors", "evaluate_baselines",
    "evaluate_basins", "evaluate_bound", "evaluate_capacity", "evaluate_completion", "evaluate_recall",
    "evaluate_recall_control", "evaluate_recognition", "familiarity", "hopfield", "interval", "join",
    "likelihood_metric", "metric_of", "nearest_pattern", "random_start", "recall_error", "roc",
]  # fmt: skip
