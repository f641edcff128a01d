"""Symmetric matrices, of which half says all."""

from __future__ import annotations

import tensorflow as tf


def triangle(matrices: tf.Tensor) -> tf.Tensor:
    """The lower triangles of a stack, `(G, n, n)`, as `(G, n (n + 1) / 2)`."""
    import tensorflow_probability as tfp  # when it is first needed: that takes seconds

    return tfp.math.fill_triangular_inverse(tf.linalg.band_part(matrices, -1, 0))


def from_triangle(triangles: tf.Tensor) -> tf.Tensor:
    """The symmetric matrices with these lower triangles; nothing is rounded."""
    import tensorflow_probability as tfp

    lower = tfp.math.fill_triangular(triangles)
    return tf.linalg.set_diag(lower + tf.linalg.matrix_transpose(lower), tf.linalg.diag_part(lower))


def diagonal(matrices: tf.Tensor) -> tf.Tensor:
    """The diagonals of square matrices, `(..., n)`, as one operation: `tf.linalg.diag_part` traces four."""
    return tf.raw_ops.MatrixDiagPart(input=matrices)
