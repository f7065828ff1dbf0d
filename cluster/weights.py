"""The weights of a Keras model, layer by layer, with the names plans and reports use.

Keras paths are not unique (two nested models may share them), so names follow the tree of layers and repeats
are numbered; variables are told apart by identity, which also finds a kernel that two layers share.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class LayerWeight:
    """One variable of one layer: `name` is `layer/…/variable`, unique in the model."""

    name: str
    layer_name: str
    layer_type: str
    layer: Any
    variable: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the variable."""
        return tuple(int(size) for size in self.variable.shape)


def layer_weights(model: Any) -> Iterator[LayerWeight]:
    """Every variable of every layer once, in the order layers were made; a shared one under its first layer."""
    seen_layers: set[int] = set()
    seen_variables: set[int] = set()
    taken: dict[str, int] = {}

    def walk(layer: Any, prefix: str) -> Iterator[LayerWeight]:
        if id(layer) in seen_layers:
            return
        seen_layers.add(id(layer))
        # _trainable_variables/_non_trainable_variables: a layer's own, without its sublayers'
        for variable in [*layer._trainable_variables, *layer._non_trainable_variables]:
            if id(variable) in seen_variables:
                continue
            seen_variables.add(id(variable))
            yield LayerWeight(
                _unique(f"{prefix or layer.name}/{variable.name}", taken),
                prefix or layer.name,
                type(layer).__name__,
                layer,
                variable,
            )
        # the public `layers` exists on models only; custom layers hold sublayers too
        for sublayer in layer._layers:
            yield from walk(sublayer, f"{prefix}/{sublayer.name}" if prefix else sublayer.name)

    yield from walk(model, "")


def _unique(name: str, taken: dict[str, int]) -> str:
    taken[name] = taken.get(name, 0) + 1
    return name if taken[name] == 1 else f"{name}#{taken[name]}"
