"""Diagnostics of the guide: importance weights, k-hat, calibration, and export to ArviZ.

All functions read traces of ``machine.guide`` and ``machine.model``. They work for all priors, readers and writers, and
for guides with further latent sites. ArviZ is imported only by the functions that need it.
"""

from pyro_kanerva.diagnostics.arviz_export import bound_data, guide_data, mcmc_data, retrieval_data
from pyro_kanerva.diagnostics.calibration import CalibrationRanks, calibration_ranks, rank_counts
from pyro_kanerva.diagnostics.importance import importance_bound, importance_weights, khat

__all__ = [
    "CalibrationRanks", "bound_data", "calibration_ranks", "guide_data", "importance_bound", "importance_weights",
    "khat", "mcmc_data", "rank_counts", "retrieval_data",
]  # fmt: skip
