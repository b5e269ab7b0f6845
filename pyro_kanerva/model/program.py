"""Pyro programs that are modules, and their name in Pyro's parameter store."""

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn

_instances = itertools.count()
_living: weakref.WeakValueDictionary[str, "InParamStore"] = weakref.WeakValueDictionary()


class InParamStore(nn.Module):
    """A module with a key of its own in Pyro's parameter store.

    Two modules of equal key would share, or silently freeze, their parameters. So a module without a name gets a key
    that no other module of the process has. A copy of a named module gets such a key too, and an unpickled one if a
    living module has the name.

    :param name: the key. Without one, the key depends on the order in which modules are made.
    :raises ValueError: if the name is empty or contains "$$$", or a living module has it.
    """

    def __init__(self, name: str | None = None) -> None:
        super().__init__()
        if name is not None and (not isinstance(name, str) or not name or "$$$" in name):
            raise ValueError(f'KanervaMachine: name is {name!r}; expected a text without "$$$", or None.')
        self.name = name
        self._take_key()

    def _take_key(self) -> None:
        self._key = f"kanerva_machine_{next(_instances)}" if self.name is None else self.name
        self._registered: dict[str, int] = {}  # the identity of what Pyro's store has of this machine
        self._claim()

    def _claim(self) -> None:
        if _living.setdefault(self._key, self) is not self:
            raise ValueError(
                f"KanervaMachine: a living machine has the name {self._key!r}, and two machines of one name would "
                "share parameters in Pyro's store. Choose another name, or call release() of the other machine before."
            )

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():  # Pyro's store leaves weak references there, which cannot be pickled
            vars(parameter).pop("unconstrained", None)
        return super().__getstate__()  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if self.name in _living:
            self.name = None
        self._take_key()

    def register(self) -> None:
        """Put the parameters into Pyro's store, as every model and guide has to.

        Parameters that the store has already under the name of the machine, for instance from
        ``pyro.get_param_store().load(path)``, are copied into the machine.

        :raises ValueError: if the store has other parameters under the key of a machine without a name, or parameters
            of another shape, or another machine has taken the name since :meth:`release`.
        """
        self._claim()
        store = pyro.get_param_store()
        parameters = {f"{self._key}$$${name}": parameter for name, parameter in self.named_parameters()}
        for key in parameters.keys() & store.keys():
            stored = store[key]
            if stored is not parameters[key]:
                if id(stored) != self._registered.get(key):  # else a part of the machine was replaced since
                    self._copy_from_store(key, stored.detach(), parameters[key])
                del store[key]  # pyro.module() stores the parameter itself, which optimizers may hold
        pyro.module(self._key, self)
        self._registered = {key: id(parameter) for key, parameter in parameters.items()}

    def _copy_from_store(self, key: str, stored: Tensor, parameter: Tensor) -> None:
        if self.name is None:
            raise ValueError(
                f"Pyro's parameter store has another parameter {key!r} than the machine, perhaps from a file. The key "
                "of a machine without a name depends on the order in which machines are made. Build the machine with "
                "a name, KanervaMachine(..., name=...), or use machine.save() and load(); release() empties the store."
            )
        if stored.shape != parameter.shape:
            raise ValueError(
                f"Pyro's parameter store has {key!r} of shape {tuple(stored.shape)}; the machine's parameter has shape "
                f"{tuple(parameter.shape)}. Load the store of an equal machine, or call release() of this one."
            )
        with torch.no_grad():
            parameter.copy_(stored)

    def release(self) -> None:
        """Remove the parameters from Pyro's store, which keeps them in memory, once a machine is no longer used.

        Another machine may then have its name.
        """
        store = pyro.get_param_store()
        for name in [name for name in store if name.startswith(f"{self._key}$$$")]:
            del store[name]
        if _living.get(self._key) is self:
            del _living[self._key]


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
