"""The Fisher in function space: an N R x N R system instead of a P x P one."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import probability
from kfisher._common.vectors import Tensors, norm
from kfisher.curvature._base import OfRows, last_solution
from kfisher.curvature._factorisation import cholesky_solve, least_shift

# A part of the gradient outside the row space of A below this many machine epsilons is rounding.
_ROUNDING = 1000.0
# The least damping, in precisions of the Gram matrix: its own rounding is less.
_LEAST = 2.0


@keras.saving.register_keras_serializable("kfisher")
class Gram(OfRows):
    """Woodbury's identity on the Gram matrix of A: exact for the batch, and cheap when N R < P.

    With D = diag(ridge) + damping I, s = damping / D, and the gradient split as g = Aᵀ c + h,

        (Aᵀ A + D)⁻¹ g = s o [h / damping + Aᵀ u]
        (A s Aᵀ + damping I) u = c - A (s o h) / damping.

    For exact and empirical labels c is known, and h is what the likelihood does not explain (regularisers,
    `add_loss`). Where the model has nothing beyond L2 regularisers, an h at the level of rounding is taken
    as zero. The textbook form, c = 0 and h = g, is left for sampled labels: it cancels badly as damping goes
    to 0 (Ren & Goldfarb 2019, equation 11). The `(N R, N R)` system is solved in float64; A is never formed
    for dense layers. The damping is no less than twice the precision of the model's dtype times the norm of
    A s Aᵀ: with less, that system may have no solution but rounding.

    With momentum μ it is SPRING: the damping pulls towards a part of the last solution x_{t-1} instead of 0,

        x_t = argmin_x ‖A x - c‖² + damping ‖x - μ x_{t-1}‖²
            = μ x_{t-1} + (Aᵀ A + damping I)⁻¹ Aᵀ (c - μ A x_{t-1}),

    so that what this batch does not see is kept from earlier ones. (Goldshlager, Abrahamsen & Lin 2024,
    arXiv:2401.10190, equation (26).)

    Args:
        momentum: Float in [0, 1), μ. Defaults to `0.0`.

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.Gram())
    """

    def __init__(self, momentum: float = 0.0):
        self.momentum = probability("momentum", momentum)
        self.remembers = bool(self.momentum)

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        super().build(add_variable, variables, blocks, parts)
        if self.momentum:
            self._previous = last_solution(add_variable, variables)

    def remember(self, solution: Any) -> None:
        if self.momentum:
            for variable, x in zip(self._previous, solution):
                variable.assign(x)

    @property
    def remembered(self) -> Any:
        return self._previous if self.momentum else []

    def get_config(self) -> dict[str, Any]:
        return {"momentum": self.momentum}

    def solve(self, batch: Any, gradient: Any, damping: Any) -> Any:
        root = batch.whole_square_root
        ridge_gradient = root.ridge_gradient() if any(root.ridge) else None
        c = root.coordinates
        if not self.momentum:
            return self._solve(root, gradient, damping, c, ridge_gradient)
        kept = [self.momentum * tf.convert_to_tensor(v.value) for v in self._previous]
        seen = root.matvec(kept)
        ridged = [d * x if d else tf.zeros_like(x) for d, x in zip(root.ridge, kept)]
        rest = [g - a - r for g, a, r in zip(gradient, root.rmatvec(seen), ridged)]
        if ridge_gradient is not None:
            ridge_gradient = [g - r for g, r in zip(ridge_gradient, ridged)]
        c = None if c is None else c - tf.cast(seen, c.dtype)
        return [x + k for x, k in zip(self._solve(root, rest, damping, c, ridge_gradient), kept)]

    def _solve(self, root: Any, gradient: Any, damping: Any, c: Any, ridge_gradient: Any) -> Tensors:
        """The solution for a gradient Aᵀ c + ridge_gradient + what neither explains."""
        damping64 = tf.cast(damping, tf.float64)
        s = [_shrinkage(damping, ridge, g.dtype) for ridge, g in zip(root.ridge, gradient)]
        product = root.gram(s)
        kernel = tf.cast(product, tf.float64)
        # With less the system is not positive but for rounding. The ridge grows with it.
        damping64 = tf.maximum(damping64, least_shift(tf.norm(kernel), product.dtype, _LEAST))
        kernel = tf.linalg.set_diag(kernel, tf.linalg.diag_part(kernel) + damping64)

        def solution(c: Any, h: Any) -> Any:
            right = tf.cast(c, tf.float64)
            if h is not None:
                right -= tf.cast(root.matvec(_times(s, h)), tf.float64) / damping64
            u = tf.reshape(cholesky_solve(kernel, tf.reshape(right, [-1]), root.xla), tf.shape(right))
            x = root.rmatvec(u)
            if h is not None:
                x = [a + part * tf.cast(1 / damping64, part.dtype) for a, part in zip(x, h)]
            return _times(s, x)

        if c is None:
            return solution(0.0, gradient)
        unexplained = [g - a for g, a in zip(gradient, root.rmatvec(c))]
        if ridge_gradient is not None:
            unexplained = [h - part for h, part in zip(unexplained, ridge_gradient)]
        explained = norm(unexplained) <= _rounding(gradient)

        def otherwise() -> Any:
            h = unexplained
            if ridge_gradient is not None:
                h = [a + b for a, b in zip(h, ridge_gradient)]
            return solution(c, h)

        if root.loss.other_losses:
            return otherwise()
        return tf.cond(explained, lambda: solution(c, ridge_gradient), otherwise)


def _shrinkage(damping: tf.Tensor, ridge: float, dtype: tf.DType) -> tf.Tensor | float:
    """damping / D for one variable; the number 1 costs no pass over the parameters."""
    damping = tf.cast(damping, dtype)
    return damping / (damping + ridge) if ridge else 1.0


def _times(s: list, tensors: Tensors) -> Tensors:
    return [t if isinstance(c, float) else c * t for c, t in zip(s, tensors)]


def _rounding(gradient: Tensors) -> tf.Tensor:
    """The norm that rounding alone may leave of a gradient that was computed in two ways."""
    epsilon = max(2.0**-52 if g.dtype == tf.float64 else 2.0**-23 for g in gradient)
    return _ROUNDING * epsilon * norm(gradient)
