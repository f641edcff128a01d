"""What a curvature is: it takes the square root of a Fisher and solves with it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kfisher.square_root import SquareRoot


class Curvature:
    """A representation of F that can solve (F + damping I) x = gradient."""

    def solve(self, root: SquareRoot, gradient: list[tf.Tensor], damping: tf.Tensor) -> list[tf.Tensor]:
        """x with (A^T A + diag(ridge) + damping I) x = gradient.

        Args:
            root: A and the ridge, from one batch.
            gradient: Gradient of the loss, tensors in the shapes of `root.variables`.
            damping: Scalar, lambda > 0, in the units of F (loss / parameter^2).

        Returns:
            Tensors in the shapes and dtypes of the gradient; NaN where F or the gradient is not finite.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Curvature:
        return cls(**config)


def cholesky_solve(matrix: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    """x with M x = b in float64, for a positive definite M `(n, n)` and a vector b `(n,)`.

    A matrix that is not finite gives NaN instead of the error that TensorFlow's factorisation raises, so
    that the caller can skip a step.
    """
    finite = tf.reduce_all(tf.math.is_finite(matrix))
    safe = tf.where(finite, matrix, tf.eye(tf.shape(matrix)[0], dtype=matrix.dtype))
    x = tf.linalg.cholesky_solve(tf.linalg.cholesky(safe), right[:, tf.newaxis])[:, 0]
    return tf.where(finite, x, tf.constant(float("nan"), x.dtype))


def flatten(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Tensors in the shapes of the variables as one float64 vector `(P,)`."""
    return tf.concat([tf.reshape(tf.cast(t, tf.float64), [-1]) for t in tensors], 0)


def unflatten(vector: tf.Tensor, like: list[tf.Tensor]) -> list[tf.Tensor]:
    """A vector `(P,)` as tensors in the shapes and dtypes of `like`."""
    parts = tf.split(vector, [t.shape.num_elements() for t in like])
    return [tf.cast(tf.reshape(p, t.shape), t.dtype) for p, t in zip(parts, like)]
