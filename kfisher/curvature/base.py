"""What a curvature is: it takes the square root of a Fisher and solves with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
import threadpoolctl
from scipy.linalg import blas, lapack

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


def cholesky_solve(matrix: tf.Tensor, right: tf.Tensor, xla: bool) -> tf.Tensor:
    """x with M x = b in float64, for a positive definite M `(n, n)` and a vector b `(n,)`.

    A large system goes to LAPACK through SciPy, a small one is not worth the call, and XLA cannot make it. A
    matrix that is not finite gives NaN instead of an error, so that the caller can skip a step.
    """
    if xla:
        return _tensorflow_solve(matrix, right)
    return tf.cond(
        tf.shape(right)[0] < _LAPACK_FROM,
        lambda: _tensorflow_solve(matrix, right),
        lambda: tf.numpy_function(_lapack_solve, [matrix, right], tf.float64, stateful=False, name=_LAPACK),
    )


# Where LAPACK starts to pay, measured on 2 cores; the name is what XLA's error message shows.
_LAPACK_FROM = 512
_LAPACK = "compile_the_model_with_jit_compile_to_use_xla"
_threads = threadpoolctl.ThreadpoolController()


def _tensorflow_solve(matrix: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    finite = tf.reduce_all(tf.math.is_finite(matrix))
    safe = tf.where(finite, matrix, tf.eye(tf.shape(matrix)[0], dtype=matrix.dtype))
    x = tf.linalg.cholesky_solve(tf.linalg.cholesky(safe), right[:, tf.newaxis])[:, 0]
    return tf.where(finite, x, tf.constant(float("nan"), x.dtype))


def _lapack_solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    # On one thread: others would spin against TensorFlow's, which costs more than they bring.
    with _threads.limit(limits=1, user_api="blas"):
        x = _refined_solve(matrix, right)
        if x is None:
            # The transpose of a symmetric matrix is itself, in the memory order that LAPACK wants.
            factor, info = lapack.dpotrf(matrix.T, lower=1, clean=0)
            x = lapack.dpotrs(factor, right, lower=1)[0] if info == 0 else np.full_like(right, np.nan)
        return x


def _refined_solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """The float64 solution from a float32 factor, in half the time, or `None` if that does not converge.

    Iterative refinement as in LAPACK's dsposv, which SciPy does not wrap: x + (L L^T)^{-1} (b - M x) until
    the residual is that of a backward stable float64 solve.
    """
    factor, info = lapack.spotrf(matrix.T.astype(np.float32), lower=1, clean=0, overwrite_a=1)
    if info != 0:
        return None
    x, residual = np.zeros_like(right), right
    stable = np.finfo(np.float64).eps * np.linalg.norm(matrix)
    for _ in range(8):
        x = x + lapack.spotrs(factor, residual.astype(np.float32), lower=1)[0]
        before, residual = np.linalg.norm(residual), right - blas.dsymv(1.0, matrix.T, x, lower=1)
        if np.linalg.norm(residual) <= stable * np.linalg.norm(x):
            return x
        if not np.linalg.norm(residual) < before / 2:
            return None
    return None


def flatten(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Tensors in the shapes of the variables as one float64 vector `(P,)`."""
    return tf.concat([tf.reshape(tf.cast(t, tf.float64), [-1]) for t in tensors], 0)


def unflatten(vector: tf.Tensor, like: list[tf.Tensor]) -> list[tf.Tensor]:
    """A vector `(P,)` as tensors in the shapes and dtypes of `like`."""
    parts = tf.split(vector, [t.shape.num_elements() for t in like])
    return [tf.cast(tf.reshape(p, t.shape), t.dtype) for p, t in zip(parts, like)]
