"""The Fisher in function space: an N R x N R system instead of a P x P one."""

from __future__ import annotations

import keras
import tensorflow as tf

from kfisher.curvature.base import Curvature, cholesky_solve
from kfisher.square_root import SquareRoot

# A part of the gradient outside the row space of A below this many machine epsilons is rounding.
_ROUNDING = 1000.0


@keras.saving.register_keras_serializable("kfisher")
class Gram(Curvature):
    """Woodbury's identity on the Gram matrix of A: exact for the batch, and cheap when N R < P.

    With D = diag(ridge) + damping I and the gradient split as g = A^T c + h,

        (A^T A + D)^{-1} g = D^{-1} [h + A^T (I + A D^{-1} A^T)^{-1} (c - A D^{-1} h)].

    For exact and empirical labels c is known, and h is what the likelihood does not explain (regularisers,
    `add_loss`); beyond L2 regularisers, an h at the level of rounding is taken as zero. The textbook form,
    c = 0 and h = g, is left for sampled labels: it cancels badly as damping goes to 0 (Ren & Goldfarb 2019,
    equation 11). The `(N R, N R)` system is solved in float64; A is never formed for dense layers.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.Gram())
    """

    def solve(self, root: SquareRoot, gradient: list[tf.Tensor], damping: tf.Tensor) -> list[tf.Tensor]:
        inverse = [1 / (tf.cast(damping, g.dtype) + d) for g, d in zip(gradient, root.ridge)]  # D^{-1}
        kernel = tf.cast(root.gram(inverse), tf.float64)
        kernel = tf.linalg.set_diag(kernel, tf.linalg.diag_part(kernel) + 1)  # I + A D^{-1} A^T

        def solution(c, h):
            right = tf.cast(c, tf.float64)
            if h is not None:
                right -= tf.cast(root.matvec([i * part for i, part in zip(inverse, h)]), tf.float64)
            u = cholesky_solve(kernel, tf.reshape(right, [-1]), root.xla)
            inside = root.rmatvec(tf.reshape(u, tf.shape(right)))
            total = inside if h is None else [a + part for a, part in zip(inside, h)]
            return [i * t for i, t in zip(inverse, total)]

        if root.coordinates is None:
            return solution(0.0, gradient)
        c = root.coordinates
        shrinkage = root.ridge_gradient()
        unexplained = [g - a - s for g, a, s in zip(gradient, root.rmatvec(c), shrinkage)]
        explained = tf.linalg.global_norm(unexplained) <= _rounding(gradient)
        h = [u + s for u, s in zip(unexplained, shrinkage)]
        without = shrinkage if any(root.ridge) else None
        return tf.cond(explained, lambda: solution(c, without), lambda: solution(c, h))


def _rounding(gradient: list[tf.Tensor]) -> tf.Tensor:
    """The norm that rounding alone may leave of a gradient that was computed in two ways."""
    epsilon = max(2.0**-52 if g.dtype == tf.float64 else 2.0**-23 for g in gradient)
    return _ROUNDING * epsilon * tf.linalg.global_norm(gradient)
