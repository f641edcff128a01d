"""Tensors with rows in their first axis, or positions in their middle ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def map_rows(function: Callable, elements: tuple, vectorizes: bool) -> list[tf.Tensor]:
    """`function`, which returns a list of tensors, over the first axis of all `elements`, stacked."""
    if vectorizes:
        count = elements[0].shape[0]
        if count is None:
            # A loop that turns out to have a single turn mixes up axes, so there are always two.
            size = tf.shape(elements[0])[0]
            turns = tf.range(tf.maximum(size, 2)) % size
            elements = tuple(tf.gather(t, turns) for t in elements)
        rows = tf.vectorized_map(function, elements, fallback_to_while_loop=True)
        return [row[:size] for row in rows] if count is None else rows

    @tf.function(autograph=False)  # or every turn of the loop would be compiled anew
    def loop() -> Any:
        first = function(tuple(t[0] for t in elements))
        like = [tf.TensorSpec(t.shape, t.dtype) for t in first]
        return tf.map_fn(function, elements, fn_output_signature=like)

    return loop()


def flatten_positions(t: tf.Tensor, leading: int, trailing: int) -> tf.Tensor:
    """All axes between the `leading` first and the `trailing` last in one, its size static if known."""
    middle = t.shape[leading : t.shape.rank - trailing].num_elements()
    shape = tf.shape(t)
    parts = [shape[:leading], [-1 if middle is None else middle], shape[t.shape.rank - trailing :]]
    flat = tf.reshape(t, tf.concat(parts, 0))
    static = [*t.shape[:leading], middle, *t.shape[t.shape.rank - trailing :]]
    return tf.ensure_shape(flat, static)


def broadcast_counts(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Tensors `(R, ...)` or `(1, ...)`, all with R."""
    static = {t.shape[0] for t in tensors}
    if len(static) == 1:
        return tensors
    count = tf.shape(next(t for t in tensors if t.shape[0] != 1))[0]
    known = next(iter(static - {1}))
    full = [tf.broadcast_to(t, tf.concat([[count], tf.shape(t)[1:]], 0)) for t in tensors]
    return [tf.ensure_shape(f, [known, *t.shape[1:]]) for f, t in zip(full, tensors)]
