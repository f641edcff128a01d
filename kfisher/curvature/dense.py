"""The Fisher matrix itself."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import memory
from kfisher._common.vectors import flatten, unflatten
from kfisher.curvature._base import OfRows
from kfisher.curvature._factorisation import cholesky_solve
from kfisher.jacobian.square_root import SquareRoot


@keras.saving.register_keras_serializable("kfisher")
class Dense(OfRows):
    """The dense `(P, P)` matrix, solved by a Cholesky factorisation in float64.

        x = (F + damping I)⁻¹ gradient,   F = Aᵀ A + diag(ridge)

    The oracle, and the choice for linear models: memory P² + N R P, time N R P² + P^3 / 3, so for P up
    to a few thousand.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.Dense())
    """

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        size = sum(math.prod(v.shape) for v in variables)
        memory.require(
            16.0 * size**2,  # in float64, and once more with the damping
            "The matrix of curvature='dense'",
            "Use curvature='gram' for small batches, 'kfac', or 'matrix_free'.",
            parameters=size,
        )
        super().build(add_variable, variables, blocks, parts)

    def solve(self, batch: Any, gradient: Any, damping: Any) -> Any:
        root = batch.whole_square_root
        matrix = matrix_of(root)
        damping = tf.cast(damping, tf.float64)
        shift = [tf.fill(g.shape, damping + ridge) for g, ridge in zip(gradient, root.ridge)]
        shifted = tf.linalg.set_diag(matrix, tf.linalg.diag_part(matrix) + flatten(shift))
        return unflatten(cholesky_solve(shifted, flatten(gradient), root.xla), gradient)


def matrix_of(root: SquareRoot) -> tf.Tensor:
    """Aᵀ A in float64, `(P, P)`."""
    rows = tf.cast(root.rows(), tf.float64)
    return tf.matmul(rows, rows, transpose_a=True)
