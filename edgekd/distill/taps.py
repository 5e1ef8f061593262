"""Features of a network's inner layers, by module path, without changing the network."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import torch
from torch import nn

from edgekd.errors import RecipeError, near_matches


class Tap:
    """While it is open, keeps what the named modules gave in the latest forward pass.

    A feature is copied when it is caught, so that an in-place ReLU, or an in-place sum, after
    the module does not change it. A module that is called several times in one pass, because
    it is shared, must be named with the call that is meant: ``relu:0`` is its first. A network
    in DistributedDataParallel is looked up inside it.

    Args:
        model: the network.
        layers: module path by the name that the feature gets.

    Raises:
        RecipeError: a path does not exist; near matches are named.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, str]) -> None:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        self._model = model
        self._layers: dict[str, tuple[str, int | None]] = {}
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, place in layers.items():
            path, colon, call = place.partition(":")
            if path not in modules or not path or (colon and not call.isdigit()):
                raise RecipeError(
                    f"{type(model).__name__} has no layer '{place}'",
                    near_matches(place, (each for each in modules if each)),
                    field="distill.layers",
                )
            self._layers[name] = path, int(call) if colon else None
        self._modules = {path: modules[path] for path, _ in self._layers.values()}
        self._calls: dict[str, list[torch.Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Tap:
        self._hooks.append(self._model.register_forward_pre_hook(lambda *_: self._calls.clear()))
        for path, module in self._modules.items():
            self._hooks.append(module.register_forward_hook(self._catcher(path)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()
        self._calls.clear()

    def features(self) -> dict[str, torch.Tensor]:
        """The features of the latest forward pass, by name, in the order of ``layers``.

        Raises:
            RecipeError: a module was not called, was called more often than its path allows
                for, or gives something else than one tensor.
        """
        return {name: self._feature(*place) for name, place in self._layers.items()}

    def _feature(self, path: str, call: int | None) -> torch.Tensor:
        calls = self._calls.get(path, [])
        if call is None and len(calls) > 1:
            problem = f"is called {len(calls)} times in a pass"
            hint = f"name the call that is meant, such as '{path}:0'"
        elif len(calls) <= (call or 0):
            problem, hint = f"is called {len(calls)} times in a pass", "name another layer"
        else:
            return calls[call or 0]
        raise RecipeError(f"layer '{path}' {problem}", hint, field="distill.layers")

    def _catcher(self, path: str) -> Any:
        def catch(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor):
                raise RecipeError(
                    f"layer '{path}' gives a {type(output).__name__}, not a tensor",
                    "name a layer within it",
                    field="distill.layers",
                )
            self._calls.setdefault(path, []).append(output.clone())

        return catch
