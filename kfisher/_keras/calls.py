"""Calls of models and layers, and the training mode that goes from one to the next."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras


def call_model(layer: keras.layers.Layer, x: Any, training: bool) -> Any:
    """`layer(x, training=training)`, without the argument where `call` does not take it."""
    parameters = inspect.signature(layer.call).parameters
    takes = "training" in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )
    return layer(x, training=training) if takes else layer(x)


class _Mode(keras.layers.Layer):
    """Keras' training mode goes from layer to layer in a context that only a layer can read or set."""

    def __init__(self) -> None:
        # Not in the dtype of a mixed policy, which would open a context of its own.
        super().__init__(name="mode", dtype="float32")
        self.built = True

    def call(self, function: Any = None, training: Any = None) -> None:
        function(training)


def training_mode() -> bool | None:
    """The mode that the layers around this call run in."""
    found: list[bool | None] = []
    _Mode()(function=found.append)
    return found[0]


def in_mode(training: bool | None, function: Callable[[], Any]) -> Any:
    """The result of `function`, called as from inside a layer in this mode."""
    found: list[Any] = []
    _Mode()(function=lambda _: found.append(function()), training=training)
    return found[0]
