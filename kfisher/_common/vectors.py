"""Lists of tensors in the shapes of the variables, taken for one vector."""

from __future__ import annotations

import keras
import tensorflow as tf

Tensors = list[tf.Tensor]


def flatten(tensors: Tensors) -> tf.Tensor:
    """As one float64 vector `(P,)`."""
    return tf.concat([tf.reshape(tf.cast(t, tf.float64), [-1]) for t in tensors], 0)


def unflatten(vector: tf.Tensor, like: Tensors) -> Tensors:
    """A vector `(P,)` as tensors in the shapes and dtypes of `like`."""
    parts = tf.split(vector, [t.shape.num_elements() for t in like])
    return [tf.cast(tf.reshape(p, t.shape), t.dtype) for p, t in zip(parts, like)]


def path_of(variable: keras.Variable) -> str:
    """Its path as the first part of a name."""
    return variable.path.replace("/", "_")


def dot(a: Tensors, b: Tensors) -> tf.Tensor:
    """a . b, summed over tensors in float64."""
    return tf.add_n([tf.cast(_dot(p, tf.cast(q, p.dtype)), tf.float64) for p, q in zip(a, b)])


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    # Row times row: TensorFlow's product of a row and a column, as in `tensordot`, is many times slower.
    return tf.squeeze(tf.matmul(tf.reshape(a, [1, -1]), tf.reshape(b, [1, -1]), transpose_b=True))
