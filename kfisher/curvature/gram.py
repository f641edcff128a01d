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
    equation 11). The `(N R, N R)` system is solved in
    float64; A is never formed for dense layers.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.Gram())
    """

    def solve(self, root: SquareRoot, gradient: list[tf.Tensor], damping: tf.Tensor) -> list[tf.Tensor]:
        inverse = [1 / (tf.cast(damping, g.dtype) + d) for g, d in zip(gradient, root.ridge)]  # D^{-1}
        if root.coordinates is None:
            outside, c = gradient, 0.0
        else:
            c = root.coordinates
            shrink = [d * v.value if d else tf.zeros_like(g) for d, v, g in zip(root.ridge, root.variables, gradient)]
            unknown = [g - a - s for g, a, s in zip(gradient, root.rmatvec(c), shrink)]
            outside = [h + s for h, s in zip(_rounded(unknown, gradient), shrink)]
        right = c - root.matvec([i * h for i, h in zip(inverse, outside)])
        kernel = tf.cast(root.gram(inverse), tf.float64)
        kernel = tf.linalg.set_diag(kernel, tf.linalg.diag_part(kernel) + 1)
        u = cholesky_solve(kernel, tf.cast(tf.reshape(right, [-1]), tf.float64))
        inside = root.rmatvec(tf.reshape(tf.cast(u, right.dtype), tf.shape(right)))
        return [i * (h + tf.cast(a, h.dtype)) for i, h, a in zip(inverse, outside, inside)]


def _rounded(outside: list[tf.Tensor], gradient: list[tf.Tensor]) -> list[tf.Tensor]:
    """`outside`, or zeros where all of it is rounding error of the gradient."""
    epsilon = max(2.0**-23 if g.dtype != tf.float64 else 2.0**-52 for g in gradient)
    small = tf.linalg.global_norm(outside) <= _ROUNDING * epsilon * tf.linalg.global_norm(gradient)
    return [tf.where(small, tf.zeros_like(h), h) for h in outside]
