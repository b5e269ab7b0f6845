"""A test battery for your own priors, likelihoods, writers, readers and machines.

::

    from pyro_kanerva.testing import check_memory_prior

    def test_my_prior():
        check_memory_prior(lambda: MyPrior(num_slots=6, code_size=10))

``build`` is a callable without arguments that returns a new part, because the checks need several instances. A part is
a module, a function or a distribution. Every check

- fails with an ``AssertionError`` that states the part, what was expected, what was found and a remedy;
- draws from a fixed seed, and does not change the random state or Pyro's parameter store;
- allows 6 standard errors when it compares random numbers.

:func:`check_density` states what is tested for a single distribution, and :func:`check_machine` for the bound.
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
    "check_address_prior", "check_density", "check_likelihood", "check_machine", "check_memory_prior", "check_reader",
    "check_writer",
]  # fmt: skip
