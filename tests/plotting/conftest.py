"""Fixtures of the tests of figures."""

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_kanerva import Flip, Retrieval


@pytest.fixture
def new_ax() -> Axes:
    """The axes of an empty figure."""
    return Figure().add_subplot()


@pytest.fixture
def retrieval(make_machine, patterns) -> Retrieval:
    """A query of 5 steps, of damaged ``patterns``."""
    return make_machine().write(patterns).query(Flip(0.2)(patterns), num_steps=5, channel=Flip(0.2))
