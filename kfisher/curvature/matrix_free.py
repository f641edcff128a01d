"""The Fisher as a product only: conjugate gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import between_0_and_1, positive_integer
from kfisher._common.vectors import dot, flatten, unflatten
from kfisher.curvature._base import OfOneBatch, last_solution


@keras.saving.register_keras_serializable("kfisher")
class MatrixFree(OfOneBatch):
    """Conjugate gradients on products F v: for any model and any layer, and any size.

        find x with ‖(F + damping I) x - gradient‖ ≤ tolerance · ‖gradient‖

    F v = Jᵀ F_f J v needs one reverse-mode product to each side and no rule of any layer. There is no
    preconditioner: what is known of all models is the damping, and that is a multiple of I. The iteration
    starts from the last solution (Martens 2010, section 4.3), and stops at `max_iterations` at the latest;
    the step is then the one of that iteration.

    Args:
        max_iterations: Positive integer; each takes less than two gradients. Defaults to `50`.
        tolerance: Float in (0, 1), relative to the norm of the gradient. Defaults to `1e-4`.

    Reference:
        Martens 2010, "Deep learning via Hessian-free optimization".

    Example:

    >>> optimizer = kfisher.optimizers.NaturalGradient(curvature=kfisher.curvature.MatrixFree())
    """

    remembers = True

    def __init__(self, max_iterations: int = 50, tolerance: float = 1e-4):
        self.max_iterations = positive_integer("max_iterations", max_iterations)
        self.tolerance = between_0_and_1("tolerance", tolerance)

    def build(self, add_variable: Any, variables: Any, blocks: Any, parts: Any) -> None:
        super().build(add_variable, variables, blocks, parts)
        self._start = last_solution(add_variable, variables)

    def remember(self, solution: Any) -> None:
        for variable, x in zip(self._start, solution):
            variable.assign(x)

    def observe(self, batch: Any, step: Any, damping: Any, part: Any) -> None:
        self.weigh(batch.linearization.heads)  # its pass runs now

    def solve(self, batch: Any, gradient: Any, damping: Any) -> Any:
        linearization = batch.linearization
        start = flatten([tf.convert_to_tensor(v.value) for v in self._start])

        def product(x: tf.Tensor) -> tf.Tensor:
            return flatten(linearization.matvec(unflatten(x, gradient)))

        vectors = [flatten(gradient), start, tf.cast(damping, tf.float64)]
        return unflatten(replicas.looped(self._iterate, product, vectors), gradient)

    def _iterate(
        self, product: Callable, right: tf.Tensor, start: tf.Tensor, damping: tf.Tensor
    ) -> tf.Tensor:
        solved = tf.linalg.experimental.conjugate_gradient(
            _Damped(product, right.shape[0], damping),
            right,
            x=start,
            tol=self.tolerance,
            max_iter=self.max_iterations,
        )
        # The iteration stops at a residual that is not a number, and returns where it started.
        finite = tf.math.is_finite(tf.norm(solved.r))
        return tf.where(finite, solved.x, tf.constant(float("nan"), tf.float64))

    @property
    def remembered(self) -> Any:
        return self._start

    def squared_length(self, batch: Any, gradient: Any, solution: Any, damping: Any) -> Any:
        own = batch.linearization.quadratic([solution])[0, 0]
        return own + tf.cast(damping, tf.float64) * dot(solution, solution)

    def get_config(self) -> dict[str, Any]:
        return {"max_iterations": self.max_iterations, "tolerance": self.tolerance}


class _Damped(tf.linalg.LinearOperator):
    """F + damping I on vectors `(P,)` in float64; products in the dtype of the model."""

    def __init__(self, product: Callable, size: int, damping: tf.Tensor):
        parameters = {"product": product, "size": size, "damping": damping}
        self._product, self._size, self._damping = product, size, damping
        super().__init__(
            dtype=tf.float64,
            is_self_adjoint=True,
            is_positive_definite=True,
            is_square=True,
            parameters=parameters,
        )

    def _shape(self) -> Any:
        return tf.TensorShape([self._size, self._size])

    def _shape_tensor(self) -> Any:
        return tf.constant([self._size, self._size])

    def _matvec(self, x: Any, adjoint: Any = False) -> Any:
        return self._product(x) + self._damping * x

    def _matmul(self, x: Any, adjoint: Any = False, adjoint_arg: Any = False) -> Any:
        columns = x if adjoint_arg else tf.linalg.matrix_transpose(x)
        return tf.linalg.matrix_transpose(tf.map_fn(self._matvec, columns))
