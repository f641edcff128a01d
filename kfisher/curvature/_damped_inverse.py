"""(M + d I)⁻¹ for one factor: formed, or of a large one what is close enough and cheaper.

Most large M have most of their eigenvalues far below the damping d. With the eigenpairs (v, q) above `tail`
times d, and m the mean of the other eigenvalues,

    (M + d I)⁻¹ ~ [I - Σ_v (v - m) / (v + d) q qᵀ] / (m + d),

in which the eigenvalues of the inverse are off by about `tail` at most, relative to themselves. A product
with it costs 4 n k a column instead of 2 n². Others are close to their diagonal, as B of independent outputs
is but for the noise of drawn labels. With D = diag(M) + d I,

    (M + d I)⁻¹ ~ D⁻¹,    where    D / (1 + tail) ≤ M + d I ≤ (1 + tail) D,

so that xᵀ (M + d I)⁻¹ x is off by as little for every x, at no cost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.linalg import lapack

from kfisher._common.rows import of_shape
from kfisher.curvature._factorisation import (
    by_lapack,
    each,
    enough,
    inverses,
    positive_inverse,
    shaped,
)
from kfisher.curvature._kronecker import times, times_right

# From this size on a truncated product may be faster; smaller inverses are always formed.
_LARGE = 256
# The share of eigenpairs from which on it is not.
_WORTH = 0.4
# An incomplete factorisation with more columns than this share is hardly one.
_INCOMPLETE = 0.7


class FormedInverse:
    """The inverse itself, `(G, n, n)`, or of a diagonal factor `(G, n)`.

    Args:
        add: Makes a variable from a shape, a dtype and a name.
        factor: The variable with M.
    """

    def __init__(self, add: Callable, factor: keras.Variable):
        self.inverse = add(factor.shape, tf.as_dtype(factor.dtype), f"{factor.name}_inverse")

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.inverse]

    def times(self, matrix: tf.Tensor, xla: bool) -> tf.Tensor:
        """(M + d I)⁻¹ X for X of shape `(G, n, m)`, or `(n, m)` where G is 1."""
        return times(tf.convert_to_tensor(self.inverse.value), matrix)

    def times_right(self, matrix: tf.Tensor, xla: bool) -> tf.Tensor:
        """X (M + d I)⁻¹ for X of shape `(G, m, n)`, or `(m, n)` where G is 1."""
        return times_right(matrix, tf.convert_to_tensor(self.inverse.value))


# The `rank` of an inverse that is a diagonal, and of one that is formed.
_DIAGONAL, _FORMED = np.int32(-1), np.int32(0)


class TruncatedInverse(FormedInverse):
    """Scaled eigenvectors as the first `rank` rows of `inverse`; at rank 0 the inverse itself; at -1 its
    diagonal as the first row."""

    def __init__(self, add: Callable, factor: keras.Variable):
        super().__init__(add, factor)
        self.scale = add((), tf.as_dtype(factor.dtype), f"{factor.name}_inverse_scale")
        self.rank = add((), tf.int32, f"{factor.name}_inverse_rank")

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.inverse, self.scale, self.rank]

    def is_formed(self, rank: tf.Tensor) -> tf.Tensor:
        """True if, at this rank, `inverse` is the inverse itself."""
        return tf.equal(rank, _FORMED)

    def times(self, matrix: Any, xla: bool) -> Any:
        return self._product(matrix, False, xla)

    def times_right(self, matrix: Any, xla: bool) -> Any:
        return self._product(matrix, True, xla)

    def _product(self, matrix: tf.Tensor, right: bool, xla: bool) -> tf.Tensor:
        if matrix.shape.rank == 3:
            return tf.expand_dims(self._product(tf.squeeze(matrix, 0), right, xla), 0)
        inverse, scale, rank = (tf.convert_to_tensor(v.value) for v in self.variables)
        product = _cheapest if tf.executing_eagerly() else _cheapest_of_shape
        return of_shape(product(tf.squeeze(inverse, 0), scale, rank, matrix, right, xla), matrix.shape)


def _cheapest(
    rows: tf.Tensor, scale: tf.Tensor, rank: tf.Tensor, x: tf.Tensor, right: bool, xla: bool
) -> tf.Tensor:
    """The product of a `TruncatedInverse`, `(n, n)`, and a matrix on its right or left."""

    def of_diagonal() -> tf.Tensor:
        return x * (rows[0] if right else rows[0][:, tf.newaxis])

    def of_inverse() -> tf.Tensor:
        return tf.matmul(x, rows) if right else tf.matmul(rows, x)

    def truncated() -> tf.Tensor:
        # The other rows are zero; XLA cannot leave them out, as their number is not known to it.
        q = rows if xla else rows[:rank]
        if right:
            part = tf.matmul(tf.matmul(x, q, transpose_b=True), q)
        else:
            part = tf.matmul(q, tf.matmul(q, x), transpose_a=True)
        return (x - part) * scale

    return tf.switch_case(tf.sign(rank) + 1, [of_diagonal, of_inverse, truncated])


# A switch takes long to trace, and networks have many layers of one shape: once for each.
_cheapest_of_shape = tf.function(_cheapest, autograph=False)


def damped_inverse(add: Callable, factor: keras.Variable, tail: float) -> FormedInverse:
    """The kind that suits the size of a factor."""
    large = len(factor.shape) == 3 and factor.shape[0] == 1 and factor.shape[1] >= _LARGE
    return TruncatedInverse(add, factor) if large and tail else FormedInverse(add, factor)


def compute(
    kinds: list[FormedInverse], factors: list[tf.Tensor], shifts: list[tf.Tensor], tail: float, xla: bool
) -> list[tf.Tensor]:
    """Values for all `variables` of all `kinds`, in order; NaN where a factor is not finite or not positive.

    Args:
        kinds: What they are for.
        factors: M, `(G, n, n)` or diagonals `(G, n)`.
        shifts: d, `(G,)`.
        tail: Of the truncation.
        xla: Whether XLA compiles this, which knows neither LAPACK nor a truncation.
    """
    found: dict[int, list[tf.Tensor]] = {}
    formed, truncated = [], []
    for i, (kind, factor, shift) in enumerate(zip(kinds, factors, shifts)):
        if factor.shape.rank == 2:
            found[i] = [1 / (factor + shift[:, tf.newaxis])]
        elif isinstance(kind, TruncatedInverse) and not xla:
            truncated.append(i)
        else:
            formed.append(i)
    for i, x in zip(formed, inverses([factors[i] for i in formed], [shifts[i] for i in formed], xla)):
        truncates = isinstance(kinds[i], TruncatedInverse)
        found[i] = [x, tf.ones((), x.dtype), tf.constant(_FORMED)] if truncates else [x]
    triples = _truncated([factors[i] for i in truncated], [shifts[i] for i in truncated], tail)
    found.update(zip(truncated, triples))
    return [x for i in range(len(kinds)) for x in found[i]]


def _truncated(matrices: list[tf.Tensor], shifts: list[tf.Tensor], tail: float) -> list[list[tf.Tensor]]:
    if not matrices:
        return []

    def truncate(*arrays: Any) -> Any:
        half = len(arrays) // 2
        found = each(lambda m, d: _truncate(m[0], d[0], tail), arrays[:half], arrays[half:])
        return [part for triple in found for part in triple]

    dtypes = [kind for m in matrices for kind in (m.dtype, m.dtype, tf.int32)]
    found = by_lapack(truncate, [*matrices, *shifts], dtypes)
    triples = [found[i : i + 3] for i in range(0, len(found), 3)]
    return [
        [shaped(rows, m.shape), shaped(scale, []), shaped(rank, [])]
        for m, (rows, scale, rank) in zip(matrices, triples)
    ]


def _truncate(matrix: np.ndarray, shift: np.ndarray, tail: float) -> tuple:
    """Values for a `TruncatedInverse`, by an incomplete Cholesky factorisation M = L Lᵀ + E.

    The pivots are the largest entries left on the diagonal, until all are below a tenth of `tail` times d;
    the eigenpairs are then those of the small Lᵀ L. Harbrecht, Peters & Schneider 2012.
    """
    n, dtype = len(matrix), matrix.dtype
    rows = np.zeros((1, n, n), dtype)
    if _is_close_to_its_diagonal(matrix, shift, tail):
        rows[0, 0] = 1 / (np.diag(matrix) + shift)
        return rows, dtype.type(1), _DIAGONAL
    (shifts,) = enough(shift[np.newaxis], matrix[np.newaxis])
    if (shifts > shift).any():  # what is left of a leading eigenvector by a difference would be rounding
        return _formed(matrix, shifts)
    pstrf, syevr = lapack.get_lapack_funcs(("pstrf", "syevr"), dtype=dtype)
    small = tail * float(shift)
    factor, pivots, columns, _ = pstrf(matrix.T, tol=small / 10, lower=1)
    found = None
    if np.isfinite(matrix).all() and 0 < columns < _INCOMPLETE * n:
        lower = np.tril(factor[:, :columns])
        values, vectors, rank, _, info = syevr(lower.T @ lower, range="V", vl=small, vu=np.inf, lower=1)
        if info == 0 and rank < _WORTH * n:
            found = values[:rank], vectors[:, :rank]
    if found is None:
        return _formed(matrix, shift)
    # In float64: of the largest all but 1 in 10⁶ or so is taken away, and float32 holds that much to a tenth.
    values, q = found[0].astype(np.float64), (lower @ found[1]).astype(np.float64)
    rest = max(0.0, float(np.trace(matrix) - values.sum()) / (n - rank))
    rows[0, :rank, pivots - 1] = q * np.sqrt(
        np.maximum(values - rest, 0) / (values + shift) / np.square(q).sum(0)
    )
    return rows, dtype.type(1 / (rest + shift)), np.int32(rank)


def _formed(matrix: np.ndarray, shift: np.ndarray) -> tuple:
    inverse = positive_inverse(_shifted(matrix, shift))
    return inverse[np.newaxis].astype(matrix.dtype), matrix.dtype.type(1), _FORMED


def _is_close_to_its_diagonal(matrix: np.ndarray, shift: np.ndarray, tail: float) -> bool:
    """True if D / (1 + tail) ≤ M + d I ≤ (1 + tail) D."""
    n, diagonal = len(matrix), np.diag(matrix) + shift
    # Within these bounds the eigenvalues of D^(-1/2) (M + d I) D^(-1/2), whose mean is 1, have no larger mean
    # square: most M are seen to be none of these before anything is factorised.
    with np.errstate(all="ignore"):  # what is not finite fails below
        rows = np.square(matrix) @ (1 / diagonal) / diagonal
    squares = rows.sum() + n - np.square(np.diag(matrix) / diagonal).sum()
    if not squares <= n * (1 + tail**2 / (1 + tail)):
        return False
    shifted, largest = _shifted(matrix, shift), (1 + tail) * np.diag(diagonal)
    (potrf,) = lapack.get_lapack_funcs(("potrf",), dtype=matrix.dtype)
    # Positive definite is what has a Cholesky factor.
    return all(
        potrf(bound.T, lower=1, clean=0, overwrite_a=1)[1] == 0
        for bound in (largest - shifted, (1 + tail) ** 2 * shifted - largest)
    )


def _shifted(matrix: np.ndarray, shift: np.ndarray) -> np.ndarray:
    shifted = matrix.copy()
    np.einsum("ii->i", shifted)[:] += shift
    return shifted
