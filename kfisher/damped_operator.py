"""F + λ I as a linear operator: what can be solved, as F in general cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from kfisher._common.checks import positive
from kfisher._common.vectors import flatten, unflatten

if TYPE_CHECKING:
    from kfisher.operator import FisherOperator

# Up to so many rows a matrix is formed and factorised, in seconds.
_DIRECT = 4096
# How often the solution by the Gram matrix is corrected by what is left of the right-hand side.
_CORRECTIONS = 2
# How far such a solution may be off, relative to its length.
_SOLVED = 0.1
# Of conjugate gradients, at most.
_ITERATIONS = 2000


class DampedFisherOperator(tf.linalg.LinearOperator):
    """F + λ I, self-adjoint and positive definite: what `FisherOperator.damped` returns.

    It solves, with the number of rows N R (examples times vectors of each) and of parameters P,

    - where N R < P, and N R ≤ 4096, by Woodbury's identity on the Gram matrix of A, F = Aᵀ A + ridge;
    - else where P ≤ 4096 by a Cholesky factorisation of the matrix, both in float64;
    - else by conjugate gradients, up to a residual of the square root of the dtype's precision.

    The log-determinant comes from the same factors (matrix determinant lemma).

    Args:
        fisher: A `kfisher.FisherOperator`.
        damping: Positive float, λ.

    Raises:
        ValueError: If `damping` is no positive float.
        tf.errors.InvalidArgumentError: From `solve`, where conjugate gradients do not converge, or λ is so
            far below the precision of the model's dtype times F that Woodbury's identity may be off by a
            tenth. Under XLA the solution is NaN.

    Example:

    >>> F = kfisher.FisherOperator(model, x)
    >>> F.damped(1e-3).solvevec(gradient)
    >>> F.damped(1e-3).log_abs_determinant()
    """

    def __init__(self, fisher: FisherOperator, damping: float):
        damping = positive("damping", damping)
        self._fisher = fisher
        self._damping = damping
        self._root = fisher.root
        self._like = [tf.zeros(v.shape, v.dtype) for v in self._root.variables]
        self._lambda = tf.constant(damping, tf.float64)
        self._kept: tf.Tensor | None = None
        super().__init__(
            dtype=fisher.dtype,
            is_non_singular=True,
            is_self_adjoint=True,
            is_positive_definite=True,
            is_square=True,
            parameters={"fisher": fisher, "damping": damping},
            name="DampedFisherOperator",
        )

    def _shape(self) -> Any:
        return self._fisher.shape

    def _shape_tensor(self) -> Any:
        return self._fisher.shape_tensor()

    # --- products -------------------------------------------------------------------------------------

    def _matvec(self, x: Any, adjoint: Any = False) -> Any:
        return self._fisher.matvec(x) + self._damping * x

    def _matmul(self, x: Any, adjoint: Any = False, adjoint_arg: Any = False) -> Any:
        right = tf.linalg.matrix_transpose(x) if adjoint_arg else x
        return self._fisher.matmul(right) + self._damping * right

    def _to_dense(self) -> Any:
        matrix = self._fisher.to_dense()
        return tf.linalg.set_diag(matrix, tf.linalg.diag_part(matrix) + self._damping)

    def _diag_part(self) -> Any:
        return self._fisher.diag_part() + self._damping

    def _eigvals(self) -> Any:
        return self._fisher.eigvals() + self._damping

    # --- solutions ------------------------------------------------------------------------------------

    def _solvevec(self, rhs: Any, adjoint: Any = False) -> Any:
        return self._solver()(rhs) if rhs.shape.rank == 1 else super()._solvevec(rhs, adjoint)

    def _solve(self, rhs: Any, adjoint: Any = False, adjoint_arg: Any = False) -> Any:
        columns = rhs if adjoint_arg else tf.linalg.matrix_transpose(rhs)
        solver = tf.autograph.experimental.do_not_convert(self._solver())
        solutions = tf.map_fn(solver, tf.reshape(columns, [-1, self.shape[-1]]))
        return tf.linalg.matrix_transpose(tf.reshape(solutions, tf.shape(columns)))

    def _determinant(self) -> Any:
        return tf.exp(self.log_abs_determinant())

    def _log_abs_determinant(self) -> Any:
        way = self._way()
        if way == "products":
            raise ValueError(
                "The log-determinant takes a factorisation, and this matrix is too large for one. Estimate "
                "it: P * kfisher.spectra.density(F).mean(lambda t: np.log(t + damping)). Received: "
                f"operator of shape {tuple(self.shape)}, with {self._root.num_rows} rows of examples"
            )
        total = 2 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(self._factor(way))))
        if way == "gram":  # det(D + AᵀA) = det D det(I + A D⁻¹Aᵀ), with D = ridge + damping I
            total -= self._root.num_rows * tf.math.log(self._lambda)
            total += tf.reduce_sum(tf.math.log(self._diagonal()))
        return tf.cast(total, self.dtype)

    def _way(self) -> str:
        """Which matrix to factorise, or none."""
        rows, size = self._root.num_rows, self.shape[-1]
        if not tf.is_tensor(rows) and rows < min(size, _DIRECT + 1):
            return "gram"
        return "dense" if size <= _DIRECT else "products"

    def _factor(self, way: str) -> tf.Tensor:
        """The Cholesky factor of Aᵀ A + D, or of λ (I + A D⁻¹ Aᵀ), in float64."""
        if self._kept is not None and tf.executing_eagerly():  # a tensor of a graph ends with the graph
            return self._kept
        if way == "gram":
            shrunk = [tf.cast(self._lambda / (self._lambda + d), v.dtype) for d, v in self._ridges()]
            matrix, shift = tf.cast(self._root.gram(shrunk), tf.float64), self._lambda
        else:
            rows = tf.cast(self._root.rows(), tf.float64)
            matrix, shift = tf.matmul(rows, rows, transpose_a=True), self._diagonal()
        factor = tf.linalg.cholesky(tf.linalg.set_diag(matrix, tf.linalg.diag_part(matrix) + shift))
        if tf.executing_eagerly():
            self._kept = factor
        return factor

    def _solver(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The function from a vector `(P,)` to the solution."""
        way = self._way()
        if way == "products":
            return self._by_products
        factor = self._factor(way)

        def solver(right: Any) -> Any:
            right = tf.cast(right, tf.float64)
            found = self._by_gram(factor, right) if way == "gram" else _with_factor(factor, right)
            return tf.cast(found, self.dtype)

        return solver

    def _by_gram(self, factor: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        """D⁻¹ [b - Aᵀ (I + A D⁻¹ Aᵀ)⁻¹ A D⁻¹ b], and the same for what it leaves of b."""
        diagonal = self._diagonal()

        def seen(v: Any) -> Any:
            return tf.cast(self._root.matvec(unflatten(v, self._like)), tf.float64)

        def pulled(u: Any) -> Any:
            return flatten(self._root.rmatvec(u))

        def solved(b: Any) -> Any:
            a = seen(b / diagonal)
            u = _with_factor(factor, self._lambda * tf.reshape(a, [-1]))
            return (b - pulled(tf.reshape(u, tf.shape(a)))) / diagonal

        x, rest = tf.zeros_like(right), right
        for _ in range(1 + _CORRECTIONS):
            better = x + solved(rest)
            left = right - pulled(seen(better)) - diagonal * better
            # Where lambda is so small that rounding rules, a correction may be none.
            closer = tf.norm(left) < tf.norm(rest)
            x, rest = tf.where(closer, better, x), tf.where(closer, left, rest)
        message = (
            f"With so little damping the products with F in {self.dtype.name} are rounding: raise `damping`, "
            "or take a model in float64."
        )
        # Of F + λ I no eigenvalue is below λ: this bounds the error of x by as much.
        return self._unless(tf.norm(rest) <= _SOLVED * self._lambda * tf.norm(x), message, rest, right, x)

    def _by_products(self, right: tf.Tensor) -> tf.Tensor:
        tolerance = self.dtype.as_numpy_dtype(np.sqrt(np.finfo(self.dtype.as_numpy_dtype).eps))
        solved = tf.linalg.experimental.conjugate_gradient(self, right, tol=tolerance, max_iter=_ITERATIONS)
        left = right - self._matvec(solved.x)
        reached = tf.norm(left) <= 10 * tolerance * tf.norm(right)  # the iteration's own has rounding, too
        message = (
            "Conjugate gradients have not converged: raise `damping`, take fewer examples, or a model in "
        )
        return self._unless(reached, f"{message}float64.", left, right, solved.x)

    def _unless(
        self, good: tf.Tensor, message: str, left: tf.Tensor, right: tf.Tensor, x: tf.Tensor
    ) -> tf.Tensor:
        """The solution x that leaves `left` of the right-hand side, or an error if that is not `good`.

        NaN for a right-hand side that is not finite, and under XLA, which knows no error.
        """
        good |= tf.reduce_all(tf.equal(right, 0))
        message += f" Received: damping={self._damping}, a residual, and a right-hand side, of norm"
        finite = tf.reduce_all(tf.math.is_finite(right))
        assertion = tf.debugging.Assert(good | ~finite, [message, tf.norm(left), tf.norm(right)])
        with tf.control_dependencies([] if assertion is None else [assertion]):
            return tf.where(good & finite, x, tf.constant(float("nan"), x.dtype))

    def _ridges(self) -> list[tuple[float, tf.Tensor]]:
        return list(zip(self._root.ridge, self._like))

    def _diagonal(self) -> tf.Tensor:
        """D = ridge + λ, `(P,)` in float64."""
        return tf.concat([tf.fill([tf.size(v)], self._lambda + d) for d, v in self._ridges()], 0)


def _with_factor(factor: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    return tf.linalg.cholesky_solve(factor, right[:, tf.newaxis])[:, 0]
