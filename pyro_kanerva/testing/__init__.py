"""A test battery for parts of your own: priors, likelihoods, writers, readers and whole machines.

::

    from pyro_kanerva.testing import check_memory_prior

    def test_my_prior():
        check_memory_prior(lambda: MyPrior(num_slots=6, code_size=10))

``build`` is a callable without arguments that returns a fresh part, since several instances are needed. A part
may be a module, a plain function or a plain distribution. Every check of the battery

- fails with an ``AssertionError`` that names the part, what was expected, what came and the remedy;
- draws from a fixed seed, and leaves the random state and Pyro's parameter store as they were;
- where it compares random figures, allows 6 standard errors of their difference.

What is proved, and up to which error, stands at the function that proves it: :func:`check_density` for a single
distribution, :func:`check_machine` for the bound.
"""

from pyro_kanerva.testing.density import check_density
from pyro_kanerva.testing.machine import check_machine
from pyro_kanerva.testing.parts import (
    check_address_prior,
    check_likelihood,
    check_memory_prior,
    check_reader,
    check_writer,
)

__all__ = [
    "check_address_prior",
    "check_density",
    "check_likelihood",
    "check_machine",
    "check_memory_prior",
    "check_reader",
    "check_writer",
]
