"""The Fisher in function space: an N R x N R system instead of a P x P one."""

from __future__ import annotations

import keras
import tensorflow as tf

from kfisher.curvature.base import Curvature, cholesky_solve
from kfisher.square_root import SquareRoot, Tensors

# A part of the gradient outside the row space of A below this many machine epsilons is rounding.
_ROUNDING = 1000.0


@keras.saving.register_keras_serializable("kfisher")
class Gram(Curvature):
    """Woodbury's identity on the Gram matrix of A: exact for the batch, and cheap when N R < P.

    With D = diag(ridge) + damping I, s = damping / D, and the gradient split as g = A^T c + h,

        (A^T A + D)^{-1} g = s o [h / damping + A^T u]
        (A s A^T + damping I) u = c - A (s o h) / damping.

    For exact and empirical labels c is known, and h is what the likelihood does not explain (regularisers,
    `add_loss`). Where the model has nothing beyond L2 regularisers, an h at the level of rounding is taken
    as zero. The textbook form, c = 0 and h = g, is left for sampled labels: it cancels badly as damping goes
    to 0 (Ren & Goldfarb 2019, equation 11). The `(N R, N R)` system is solved in float64; A is never formed
    for dense layers.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.Gram())
    """

    def solve(self, root: SquareRoot, gradient: Tensors, damping: tf.Tensor) -> Tensors:
        damping64 = tf.cast(damping, tf.float64)
        s = [_shrinkage(damping, ridge, g.dtype) for ridge, g in zip(root.ridge, gradient)]
        kernel = tf.cast(root.gram(s), tf.float64)
        kernel = tf.linalg.set_diag(kernel, tf.linalg.diag_part(kernel) + damping64)

        def solution(c, h):
            right = tf.cast(c, tf.float64)
            if h is not None:
                right -= tf.cast(root.matvec(_times(s, h)), tf.float64) / damping64
            u = tf.reshape(cholesky_solve(kernel, tf.reshape(right, [-1]), root.xla), tf.shape(right))
            x = root.rmatvec(u)
            if h is not None:
                x = [a + part * (1 / tf.cast(damping, part.dtype)) for a, part in zip(x, h)]
            return _times(s, x)

        if root.coordinates is None:
            return solution(0.0, gradient)
        c = root.coordinates
        unexplained = [g - a for g, a in zip(gradient, root.rmatvec(c))]
        shrinkage = root.ridge_gradient() if any(root.ridge) else None
        if shrinkage is not None:
            unexplained = [h - part for h, part in zip(unexplained, shrinkage)]
        explained = tf.linalg.global_norm(unexplained) <= _rounding(gradient)

        def otherwise():
            h = unexplained if shrinkage is None else [a + b for a, b in zip(unexplained, shrinkage)]
            return solution(c, h)

        if root.other_losses:
            return otherwise()
        return tf.cond(explained, lambda: solution(c, shrinkage), otherwise)


def _shrinkage(damping: tf.Tensor, ridge: float, dtype: tf.DType) -> tf.Tensor | float:
    """damping / D for one variable; the number 1 costs no pass over the parameters."""
    damping = tf.cast(damping, dtype)
    return damping / (damping + ridge) if ridge else 1.0


def _times(s: list, tensors: Tensors) -> Tensors:
    return [t if isinstance(c, float) else c * t for c, t in zip(s, tensors)]


def _rounding(gradient: Tensors) -> tf.Tensor:
    """The norm that rounding alone may leave of a gradient that was computed in two ways."""
    epsilon = max(2.0**-52 if g.dtype == tf.float64 else 2.0**-23 for g in gradient)
    return _ROUNDING * epsilon * tf.linalg.global_norm(gradient)
