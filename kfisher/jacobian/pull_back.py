"""V carried back from the outputs to every layer call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kfisher._common.rows import map_rows, of_shape
from kfisher.jacobian.layer_calls import LayerCall, floating
from kfisher.jacobian.plan import Plan


def pull_back(
    plan: Plan,
    tape: tf.GradientTape,
    layer_calls: list[LayerCall],
    groups: list[list[tuple[tf.Tensor, tf.Tensor]]],
) -> None:
    """Sets `grads` of every layer_call: V carried back from the outputs to z.

    Args:
        plan: That of the model.
        tape: The persistent tape of the recorded pass.
        layer_calls: Its layer_calls.
        groups: For each group of columns, `(outputs, V)` pairs with V of shape `(R_g, *outputs.shape)`;
            the columns of one group reach all its outputs together, different groups are stacked.
    """
    zs = [floating(layer_call.z) for layer_call in layer_calls]
    flat = [z for call_zs in zs for z in call_zs]
    columns = []
    for group in groups:
        outputs = [f for f, _ in group]

        def back(vectors: Any, outputs: Any = outputs) -> Any:
            return tape.gradient(outputs, flat, list(vectors), unconnected_gradients="zero")

        vectors = tuple(v for _, v in group)
        if vectors[0].shape[0] == 1:
            columns.append([tf.expand_dims(g, 0) for g in back([tf.squeeze(v, 0) for v in vectors])])
        else:
            columns.append(_map(back, vectors, plan))
    stacked = [tf.concat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*columns)]
    # Products of half-precision gradients would under- and overflow.
    stacked = [tf.cast(g, tf.float32) if g.dtype.size < 4 else g for g in stacked]
    # What a loop has lost of the static shape.
    stacked = [of_shape(g, [g.shape[0], *z.shape]) for g, z in zip(stacked, flat)]
    for layer_call, call_zs in zip(layer_calls, zs):
        layer_call.grads, stacked = stacked[: len(call_zs)], stacked[len(call_zs) :]


def _map(back: Callable, vectors: tuple[tf.Tensor, ...], plan: Plan) -> list[tf.Tensor]:
    """Several vectors carried back at once; one by one through a single example.

    TensorFlow's product of matrices with shapes `(R, 1, T, D)` and `(D, D)` writes past the end of its memory
    on some processors.
    """
    size = vectors[0].shape[1]
    if not plan.vectorizes or not plan.broadcasts or (size or 0) > 1:
        return map_rows(back, vectors, plan.vectorizes)
    if size == 1:
        return map_rows(back, vectors, False)
    one = tf.equal(tf.shape(vectors[0])[1], 1)
    return tf.cond(one, lambda: map_rows(back, vectors, False), lambda: map_rows(back, vectors, True))
