"""Tensors with rows in their first axis, or positions in their middle ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    first_of_last = t.shape.rank - trailing
    middle, last = t.shape[leading:first_of_last].num_elements(), t.shape[first_of_last:]
    if last.is_fully_defined():
        return reshape_behind(t, leading, [middle, *last])
    parts = [tf.shape(t)[:leading], [-1 if middle is None else middle], tf.shape(t)[first_of_last:]]
    return tf.ensure_shape(tf.reshape(t, tf.concat(parts, 0)), [*t.shape[:leading], middle, *last])


def at_positions(t: tf.Tensor, leading: int, shape: Sequence[int]) -> tf.Tensor:
    """`(..., S.., C)` as `(..., S, *shape)`: axes behind the `leading` first in one, the last split."""
    return reshape_behind(t, leading, [t.shape[leading:-1].num_elements(), *shape])


def of_shape(t: tf.Tensor, shape: Any) -> tf.Tensor:
    """`tf.ensure_shape`, which is an operation of its own, where something of the shape is not known yet."""
    shape = tf.TensorShape(shape)
    known = shape.is_fully_defined() and t.shape.is_fully_defined() and t.shape == shape
    return t if known else tf.ensure_shape(t, shape)


def reshape_behind(t: tf.Tensor, leading: int, shape: Sequence[int | None]) -> tf.Tensor:
    """With axes of this `shape` behind the `leading` first; of one, `None`, the size is what is left."""
    static = [*t.shape[:leading], *shape]
    known = [-1 if n is None else n for n in static]
    if known.count(-1) <= 1 and 0 not in known:  # one operation where TensorFlow needs no help
        return tf.reshape(t, known)
    return tf.ensure_shape(tf.reshape(t, tf.concat([tf.shape(t)[:leading], known[leading:]], 0)), static)


def broadcast_counts(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Tensors `(R, ...)` or `(1, ...)`, all with R."""
    static = {t.shape[0] for t in tensors}
    if len(static) == 1:
        return tensors
    count = tf.shape(next(t for t in tensors if t.shape[0] != 1))[0]
    known = next(iter(static - {1}))
    full = [tf.broadcast_to(t, tf.concat([[count], tf.shape(t)[1:]], 0)) for t in tensors]
    return [tf.ensure_shape(f, [known, *t.shape[1:]]) for f, t in zip(full, tensors)]
