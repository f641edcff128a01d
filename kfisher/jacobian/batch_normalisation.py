"""BatchNormalization with its statistics held: p(y | x_n) is a function of x_n alone."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kfisher._keras.patching import patched_layer_call, replaced


def hold_statistics(layer: Any, call: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """BatchNormalization with the statistics of this batch, held constant.

    p(y | x_n) must be a function of x_n alone. With momentum 0 the layer writes the statistics of the
    batch into its moving ones (in the scope, so nothing moves); inference mode then uses them.
    """
    if not kwargs.get("training") or not layer.trainable:
        return kwargs
    if getattr(layer, "renorm", False):  # older versions of Keras have none
        raise ValueError(
            "BatchNormalization(renorm=True) couples the examples of a batch in a way that leaves no Fisher "
            f"matrix of one example. Use `renorm=False`. Received: layer={layer.name!r}"
        )
    with replaced(layer, "momentum", 0.0):
        call(*args, **kwargs)
    for variable in (layer.moving_mean, layer.moving_variance):
        variable.assign(tf.stop_gradient(variable.value))
    return {**kwargs, "training": False}


@contextlib.contextmanager
def statistics_held() -> Iterator[None]:
    """For the length of the block, BatchNormalization of any model holds its statistics as `tapped` does."""

    def wrap(original: Any) -> Any:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if not isinstance(layer, keras.layers.BatchNormalization):
                return original(layer, *args, **kwargs)
            inner = layer.call

            @functools.wraps(inner)
            def held(*args: Any, **kwargs: Any) -> Any:
                return inner(*args, **hold_statistics(layer, inner, args, kwargs))

            with replaced(layer, "call", held):
                return original(layer, *args, **kwargs)

        return call

    with patched_layer_call(wrap):
        yield
