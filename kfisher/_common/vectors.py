"""Lists of tensors in the shapes of the variables, taken for one vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

Tensors = list[tf.Tensor]

# From so many entries on a copy costs more than an operation.
_LARGE = 2**16


class Packing:
    """How variables are packed in vectors: small ones of one dtype in one, each large one in its own.

    What is done to all of them takes few operations there, and few are soon traced.

    Args:
        variables: With known shapes.
    """

    def __init__(self, variables: list[keras.Variable]):
        self._shapes = [tuple(v.shape) for v in variables]
        self._sizes = [math.prod(shape) for shape in self._shapes]
        dtypes = [tf.as_dtype(v.dtype) for v in variables]
        together: dict[str | int, list[int]] = {}
        for i, (size, dtype) in enumerate(zip(self._sizes, dtypes)):
            # By name: to TensorFlow its dtypes equal their numbers.
            together.setdefault(dtype.name if size < _LARGE else i, []).append(i)
        self._vectors = [(dtypes[places[0]], places) for places in together.values()]

    def variables(self, add_variable: Callable, name: str) -> list[keras.Variable]:
        """Vectors of zeros, made by `add_variable` of an optimizer."""
        return [
            add_variable((sum(self._sizes[i] for i in places),), "zeros", dtype=dtype.name, name=name)
            for dtype, places in self._vectors
        ]

    def pack(self, tensors: list[Any]) -> Tensors:
        """Tensors in the shapes of the variables, as vectors in their dtypes."""
        line, found = tf.constant([-1]), []
        for dtype, places in self._vectors:
            parts = [tf.cast(tf.convert_to_tensor(tensors[i]), dtype) for i in places]
            parts = [p if p.shape.rank == 1 else tf.reshape(p, line) for p in parts]
            found.append(parts[0] if len(parts) == 1 else tf.concat(parts, 0))
        return found

    def unpack(self, vectors: list[Any]) -> Tensors:
        """Vectors as tensors in the shapes of the variables, in the dtypes of the vectors."""
        found: dict[int, tf.Tensor] = {}
        for vector, (_, places) in zip(vectors, self._vectors):
            parts = tf.split(vector, [self._sizes[i] for i in places]) if len(places) > 1 else [vector]
            for i, part in zip(places, parts):
                found[i] = part if len(self._shapes[i]) == 1 else tf.reshape(part, self._shapes[i])
        return [found[i] for i in range(len(self._shapes))]


def alike(tensors: Tensors) -> Tensors:
    """Tensors in the widest of their dtypes."""
    dtype = max((t.dtype for t in tensors), key=lambda dtype: dtype.size)
    return [tf.cast(t, dtype) for t in tensors]


def flatten(tensors: Tensors) -> tf.Tensor:
    """As one float64 vector `(P,)`; of at least one."""
    line = tf.constant([-1])
    vectors = [t if t.shape.rank == 1 else tf.reshape(t, line) for t in alike(tensors)]
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


def all_finite(tensors: Tensors) -> tf.Tensor:
    """True if the sums of all are finite, as they are not where an entry is not."""
    axes = {rank: tf.range(rank) for rank in {t.shape.rank for t in tensors}}
    sums = [tf.reduce_sum(t, axes[t.shape.rank]) for t in tensors]
    return tf.reduce_all(tf.math.is_finite(stacked(sums)))


def norm(tensors: Tensors) -> tf.Tensor:
    """The Euclidean length, in float64 of sums in the dtypes of the tensors, of half precision in float32."""
    wide = [t if t.dtype.size >= 4 else tf.cast(t, tf.float32) for t in tensors]
    return tf.sqrt(2 * tf.reduce_sum(stacked([tf.nn.l2_loss(t) for t in wide])))


def dot(a: Tensors, b: Tensors) -> tf.Tensor:
    """a . b, summed over tensors in float64."""
    # Row times row: TensorFlow's product of a row and a column, as in `tensordot`, is many times slower.
    row = tf.constant([1, -1])
    pairs = [(tf.reshape(p, row), tf.reshape(tf.cast(q, p.dtype), row)) for p, q in zip(a, b)]
    products = [tf.matmul(p, q, transpose_b=True) for p, q in pairs]
    return tf.reduce_sum(stacked(products))
