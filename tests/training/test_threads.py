"""Two runs of fit in one process."""

import threading

import pytest
from helpers import small_machine

from pyro_kanerva import fit


def test_a_second_thread_is_refused(episodes):
    machine, other = small_machine(), small_machine()
    errors: list[Exception] = []

    def train_too():
        try:
            fit(other, episodes, num_steps=1, progress=False)
        except Exception as error:
            errors.append(error)

    def callback(step):
        thread = threading.Thread(target=train_too)
        thread.start()
        thread.join()

    fit(machine, episodes, num_steps=1, progress=False, callback=callback)
    (error,) = errors
    with pytest.raises(RuntimeError, match=r"fit\(\): another thread of this process trains"):
        raise error
    fit(other, episodes, num_steps=1, progress=False)  # the lock is free again, also after an error
    with pytest.raises(ValueError, match="num_steps"):
        fit(other, episodes, num_steps=0, progress=False)
    fit(other, episodes, num_steps=1, progress=False, callback=lambda step: fit(machine, episodes, num_steps=1))
