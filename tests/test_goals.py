"""What the commands of the README and the docs reach; long, so not in the default run."""

import json
import time

import numpy as np
import pytest
from conftest import data_file

from pyro_kanerva.cli import main


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_main_job(tmp_path):
    """Under 6 minutes on two cores; cues with 7.5% wrong pixels end at 2.0% or less, on new characters."""
    start = time.monotonic()
    assert main(["train", "--run", str(tmp_path / "run")]) == 0
    assert time.monotonic() - start < 360
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["cue_error"] == pytest.approx(0.075, abs=0.002)
    assert evaluation["error_told_the_channel"][-1] <= 0.02
    assert evaluation["never_rose"] == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_omniglot(tmp_path):
    """At most 104 nats for the negative bound and 94 for the conditional one, in under 30 minutes on two cores."""
    np.savez(tmp_path / "omniglot.npz", images=np.load(data_file("data/omniglot_28x28.npz"))["images"])
    command = ["train", "--held-out", "8070", "--steps", "2800", "--learning-rate", "6e-3", "--memory-kl-weight", "0.6"]
    start = time.monotonic()
    assert main([*command, "--data", str(tmp_path / "omniglot.npz"), "--run", str(tmp_path / "run")]) == 0
    assert time.monotonic() - start < 1800
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["negative_bound"] <= 104
    assert evaluation["negative_conditional_bound"] <= 94
    assert evaluation["never_rose"] == 1
