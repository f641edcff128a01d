"""Factors that cross as the examples that they are made of, where these have fewer numbers.

Each replica then has the examples of all, in their order, and makes the factor by itself.
"""

from __future__ import annotations

import tensorflow as tf

from kfisher.jacobian.batch import Batch
from kfisher.jacobian.layers.outer_products import second_moment

# A number whose square float32 holds many times over.
_FAR = 1e15


def in_place(t: tf.Tensor, axis: int, batch: Batch) -> tf.Tensor | None:
    """A tensor that, summed over all replicas, has the examples of all: zeros stand for those of others.

    `None` if this may have more numbers than half of the second moment of its last axis.

    Args:
        t: Inputs, or gradients at outputs.
        axis: That of the examples.
        batch: Of which they are.
    """
    others = t.shape[:axis] + t.shape[axis + 1 : -1]  # vectors, positions, groups
    width, most = t.shape[-1], batch.most
    if most is None or not others.is_fully_defined():
        return None
    if 2 * most * others.num_elements() > width + 1:
        return None
    before, size = batch.placed
    here = tf.shape(t)[axis]
    before = tf.minimum(before, size - here)  # of one that does not count: it is zero, wherever it is
    padding = [[0, 0] for _ in t.shape]
    padding[axis] = [before, size - before - here]
    return tf.pad(t, padding)


def moment_of(examples: tf.Tensor) -> tf.Tensor:
    """The second moment of their last axis, NaN if it might overflow: on all replicas or on none."""
    # Exact, which a sum of squares is not on hosts of several kinds.
    largest = tf.reduce_max(tf.abs(examples))
    nan = tf.constant(float("nan"), examples.dtype)
    return second_moment(tf.where(largest <= _FAR, examples, nan), False)
