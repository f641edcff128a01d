"""Models and batches as arguments."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import instance, shown, wrong


def model(name: str, value: Any) -> keras.Model:
    """`value`, a `keras.Model`."""
    return instance(name, value, keras.Model, "an instance of keras.Model (not its class, not a layer)")


def built(name: str, value: Any) -> keras.Model:
    """`value`, a model that has its variables."""
    if not model(name, value).built and not value.trainable_variables:
        raise ValueError(
            f"`{name}` must be built, so that it has its variables. Call it on a batch, or `build` it. "
            f"Received: {name}={shown(value)}"
        )
    return value


def compiled(name: str, value: Any) -> keras.Model:
    """`value`, a model that has a loss."""
    own = type(model(name, value)).compute_loss is not keras.Model.compute_loss
    if not value.compiled or (value.loss is None and not own):
        raise ValueError(
            f"The model {value.name!r} is not compiled with a loss, so it has no likelihood. Call "
            f"`model.compile(loss=...)` first. Received: {name}={shown(value)}"
        )
    return value


def first_batch(x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
    """x, y and sample_weight; those of the first batch where x is a dataset of batches and y is `None`."""
    if y is None and isinstance(x, keras.utils.PyDataset):
        return keras.utils.unpack_x_y_sample_weight(x[0])
    if y is None and isinstance(x, tf.data.Dataset):
        return keras.utils.unpack_x_y_sample_weight(next(iter(x)))
    return x, y, sample_weight


def tensors(**structures: Any) -> list[Any]:
    """Structures of arrays as structures of tensors; those that are `None`, or have it inside, keep it."""
    return [
        keras.tree.map_structure(lambda t: t if t is None else _tensor(name, t), structure)
        for name, structure in structures.items()
    ]


def _tensor(name: str, value: Any) -> tf.Tensor:
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        tensor = None
    if tensor is None or tensor.shape.rank == 0 or tensor.dtype in (tf.variant, tf.resource):
        # A list is taken for several inputs, as Keras does.
        raise wrong(name, "an array or tensor with a batch axis, or a structure of these", value)
    if tensor.dtype == tf.string and name in ("y", "sample_weight"):
        raise wrong(name, "numbers", value)
    return tensor
