"""Gradients as the optimizer is given them, in the order of the model."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.rows import of_shape


def in_order(
    grads: list, variables: list[keras.Variable], own: list[keras.Variable], scale: Any
) -> list[tf.Tensor]:
    """The gradient in the order of the variables of the model, zero where there is none.

    Args:
        grads: Those of `variables`; `None` where the loss does not depend on one.
        variables: In any order.
        own: The trainable variables of the model.
        scale: What the loss was multiplied with, or `None`.

    Raises:
        ValueError: If `variables` are not those of the model.
    """
    given = {id(v): g for v, g in zip(variables, grads)}
    if set(given) != {id(v) for v in own}:
        raise ValueError(
            "The gradients must be those of all trainable variables of the observed model. Received: "
            f"{len(given)} gradients for {[v.name for v in variables]}, a model with "
            f"{len(own)} trainable variables"
        )
    gradient = []
    for variable in own:
        g = given[id(variable)]
        g = tf.zeros(variable.shape, variable.dtype) if g is None else tf.convert_to_tensor(g)
        gradient.append(of_shape(g if scale is None else g / scale, variable.shape))
    return gradient


def apart(grads: list, variables: list[keras.Variable]) -> tuple[dict[int, tf.Tensor], list]:
    """Values that Keras writes over variables (scales of float8), by `id`, and the gradients of the others.

    The former have zeros among the latter.
    """
    written = {}
    for variable, g in zip(variables, grads):
        if g is not None and getattr(variable, "overwrite_with_gradient", False):
            written[id(variable)] = g
    return written, [tf.zeros_like(g) if id(v) in written else g for v, g in zip(variables, grads)]
