"""Lists of tensors in the shapes of the variables, taken for one vector."""

from __future__ import annotations

import keras
import tensorflow as tf

Tensors = list[tf.Tensor]


def alike(tensors: Tensors) -> Tensors:
    """Tensors in the widest of their dtypes."""
    dtype = max((t.dtype for t in tensors), key=lambda dtype: dtype.size)
    return [tf.cast(t, dtype) for t in tensors]


def flatten(tensors: Tensors) -> tf.Tensor:
    """As one float64 vector `(P,)`; of at least one."""
    vectors = [t if t.shape.rank == 1 else tf.reshape(t, [-1]) for t in alike(tensors)]
    return tf.cast(tf.concat(vectors, 0), tf.float64)  # a single cast is traced sooner than one for each


def unflatten(vector: tf.Tensor, like: Tensors) -> Tensors:
    """A vector `(P,)` as tensors in the shapes and dtypes of `like`."""
    parts = tf.split(vector, [t.shape.num_elements() for t in like])
    return [tf.cast(tf.reshape(p, t.shape), t.dtype) for p, t in zip(parts, like)]


def path_of(variable: keras.Variable) -> str:
    """Its path as the first part of a name."""
    return variable.path.replace("/", "_")


def stacked(tensors: Tensors) -> tf.Tensor:
    """Tensors of one shape, at least one, along a new first axis, in float64."""
    return tf.cast(tf.stack(alike(tensors)), tf.float64)


def all_finite(numbers: Tensors) -> tf.Tensor:
    """True if all of some scalars are finite."""
    return tf.reduce_all(tf.math.is_finite(stacked(numbers)))


def norm(tensors: Tensors) -> tf.Tensor:
    """The Euclidean length, in float64 of sums in the dtypes of the tensors."""
    return tf.sqrt(2 * tf.reduce_sum(stacked([tf.nn.l2_loss(t) for t in tensors])))


def dot(a: Tensors, b: Tensors) -> tf.Tensor:
    """a . b, summed over tensors in float64."""
    # Row times row: TensorFlow's product of a row and a column, as in `tensordot`, is many times slower.
    row = tf.constant([1, -1])
    pairs = [(tf.reshape(p, row), tf.reshape(tf.cast(q, p.dtype), row)) for p, q in zip(a, b)]
    products = [tf.matmul(p, q, transpose_b=True) for p, q in pairs]
    return tf.reduce_sum(stacked(products))
