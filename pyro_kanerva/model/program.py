"""Pyro programs that are modules, and their name in Pyro's parameter store."""

import itertools
from collections.abc import Callable
from typing import Any

import pyro
from torch import Tensor, nn

_instances = itertools.count()


class InParamStore(nn.Module):
    """A module with a key of its own in Pyro's parameter store.

    Two modules of equal key would share, or silently freeze, their parameters. So copies and unpickled modules get
    new keys.
    """

    def __init__(self) -> None:
        super().__init__()
        self._key = f"kanerva_machine_{next(_instances)}"

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro's store leaves weak references there, which cannot be pickled
            vars(parameter).pop("unconstrained", None)
        return super().__getstate__()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._key = f"kanerva_machine_{next(_instances)}"

    def register(self) -> None:
        """Put the parameters into Pyro's store, as every model and guide has to."""
        pyro.module(self._key, self)

    def release(self) -> None:
        """Remove the parameters from Pyro's store, which keeps them in memory, once a machine is no longer used."""
        store = pyro.get_param_store()
        for name in [name for name in store if name.startswith(f"{self._key}$$$")]:
            del store[name]


class Program(nn.Module):
    """A Pyro model or guide that is also a module, so that ELBO modules and DDP find its parameters.

    ``program(machine, patterns, **options, **sizes)`` makes the sites.
    """

    def __init__(self, machine: InParamStore, program: Callable[..., Any], **options: Any) -> None:
        super().__init__()
        self.machine, self.program, self.options = machine, program, options

    def forward(self, patterns: Tensor | None = None, **sizes: int) -> Any:
        self.machine.register()
        return self.program(self.machine, patterns, **self.options, **sizes)
