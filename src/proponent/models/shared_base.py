"""The base model of adapters: loaded once, and shared by the models of all checkpoints."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

from torch import nn


class LoadedBase(NamedTuple):
    """A base model, and the names of its weights that its files lack: a head, which the adapter holds."""

    model: nn.Module
    missing: Sequence[str]


class SharedBases:
    """Base models by what was loaded; copies have modules of their own over the same weights."""

    def __init__(self) -> None:
        self._held: dict[object, tuple[LoadedBase, list[int]]] = {}

    def copy(self, key: object, load: Callable[[], LoadedBase]) -> LoadedBase:
        """Copy a base model, loading it where it has not been loaded, or where a copy has changed its weights."""
        if key not in self._held or self._held[key][1] != _versions(self._held[key][0].model):
            made = load()
            made.model.requires_grad_(requires_grad=False)
            self._held[key] = (made, _versions(made.model))
        held = self._held[key][0]
        weights: dict[int, Any] = {id(one): nn.Parameter(one.detach(), requires_grad=False) for one in _weights(held)}
        return LoadedBase(copy.deepcopy(held.model, weights), held.missing)


def own_weights(model: nn.Module, names: Iterable[str]) -> None:
    """Give a copy weights of its own where an adapter overwrites them."""
    parameters = dict(cast("Iterable[tuple[str, nn.Parameter]]", model.named_parameters(remove_duplicate=False)))
    for one in {id(parameters[name]): parameters[name] for name in names if name in parameters}.values():
        one.data = one.detach().clone()


def _weights(base: LoadedBase) -> list[nn.Parameter]:
    return list(base.model.parameters())


def _versions(model: nn.Module) -> list[int]:
    """How often each weight was changed in place, by any of the models that share it."""
    return [int(cast("Any", one)._version) for one in model.parameters()]
