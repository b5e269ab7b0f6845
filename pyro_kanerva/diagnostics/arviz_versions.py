"""ArviZ 0.23 and 1.x."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def import_arviz() -> Any:
    with warnings.catch_warnings():  # 0.23 announces 1.0 at its first import, which is no news to the user here
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
        return importlib.import_module("arviz")


def is_old(arviz: Any) -> bool:
    return int(arviz.__version__.split(".")[0]) < 1
