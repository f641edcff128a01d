"""Factorisations on the CPU: by LAPACK through SciPy wherever that is faster than TensorFlow.

TensorFlow's own kernels run on one thread and are up to four times slower; XLA can call nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.linalg import blas, lapack

from kfisher._common.threads import one_thread


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
        lambda: by_lapack(_lapack_solve, [matrix, right], [tf.float64])[0],
    )


# Where LAPACK starts to pay, measured on 2 cores; the name is what XLA's error message shows.
_LAPACK_FROM = 512
LAPACK = "compile_the_model_with_jit_compile_to_use_xla"


def _tensorflow_solve(matrix: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
    finite = tf.reduce_all(tf.math.is_finite(matrix))
    safe = tf.where(finite, matrix, tf.eye(tf.shape(matrix)[0], dtype=matrix.dtype))
    x = tf.linalg.cholesky_solve(tf.linalg.cholesky(safe), right[:, tf.newaxis])[:, 0]
    return tf.where(finite, x, tf.constant(float("nan"), x.dtype))


def _lapack_solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    # On one thread: others would spin against TensorFlow's, which costs more than they bring.
    with one_thread():
        x = _refined_solve(matrix, right)
        if x is None:
            # The transpose of a symmetric matrix is itself, in the memory order that LAPACK wants.
            factor, info = lapack.dpotrf(matrix.T, lower=1, clean=0)
            x = lapack.dpotrs(factor, right, lower=1)[0] if info == 0 else np.full_like(right, np.nan)
        return x


def _refined_solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """The float64 solution from a float32 factor, in half the time, or `None` if that does not converge.

    Iterative refinement as in LAPACK's dsposv, which SciPy does not wrap: x + (L Lᵀ)⁻¹ (b - M x) until
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


# The least shift of a row, as a share of its diagonal entry: so many times the precision times the norm of
# the matrix with unit diagonal. An inverse is off by the precision of its largest entries: with less it would
# say nothing of the leading eigenvectors. Rows and columns may be of any size beside each other.
_LEAST_SHIFT = 10.0


def least_shift(norm: Any, dtype: Any, times: float = _LEAST_SHIFT) -> Any:
    """So many precisions of a matrix of this norm; by default its inverse is then right to a tenth."""
    return times * float(np.finfo(tf.as_dtype(dtype).as_numpy_dtype).eps) * norm


def enough(shifts: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Shifts of all rows, `(G, n)`, of a stack `(G, n, n)`: those given, `(G,)`, or the least."""
    diagonals = np.einsum("gii->gi", matrices)
    with np.errstate(all="ignore"):  # what is not finite or positive has no inverse anyway
        roots = np.where(diagonals > 0, 1 / np.sqrt(diagonals), 0).astype(matrices.dtype)
        scaled = matrices * roots[:, np.newaxis] * roots[:, :, np.newaxis]  # whose squares are 1 at most
        norms = np.sqrt(np.einsum("gij,gij->g", scaled, scaled))
        least = least_shift(norms[:, np.newaxis], matrices.dtype) * diagonals
        return np.maximum(shifts[:, np.newaxis], least).astype(shifts.dtype)


def inverses(matrices: list[tf.Tensor], shifts: list[tf.Tensor], xla: bool) -> list[tf.Tensor]:
    """(M + shift I)⁻¹ for stacks of positive semidefinite matrices, `(G, n, n)`, and shifts `(G,)`.

    No shift of a row is smaller than the least. A matrix that is not finite, or too close to singular for its
    dtype, gives NaN.
    """
    if not matrices:
        return []
    if xla:
        return [_tensorflow_inverse(m, s) for m, s in zip(matrices, shifts)]
    found = by_lapack(_lapack_inverses, [*matrices, *shifts], [m.dtype for m in matrices])
    return [shaped(x, m.shape) for x, m in zip(found, matrices)]


def eigensystems(matrices: list[tf.Tensor], xla: bool) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Eigenvalues `(G, n)`, ascending, and eigenvectors `(G, n, n)` of stacks of symmetric matrices."""
    if not matrices:
        return []
    if xla:
        return [_tensorflow_eigensystem(m) for m in matrices]
    kinds = [m.dtype for m in matrices for _ in range(2)]
    found = by_lapack(_lapack_eigensystems, matrices, kinds)
    pairs = zip(found[::2], found[1::2], matrices)
    return [(shaped(v, m.shape[:2]), shaped(q, m.shape)) for v, q, m in pairs]


def by_lapack(function: Callable, tensors: list[tf.Tensor], dtypes: list[tf.DType]) -> list[tf.Tensor]:
    """What a function of NumPy arrays returns, a tensor for each of `dtypes`."""
    found = tf.numpy_function(function, tensors, dtypes, stateful=False, name=LAPACK)
    return list(found) if isinstance(found, (list, tuple)) else [found]  # eagerly, a single one


def shaped(found: tf.Tensor, shape: Any) -> tf.Tensor:
    """What Python has returned, whose shape TensorFlow does not know."""
    found.set_shape(shape)
    return found


def _tensorflow_inverse(matrix: tf.Tensor, shift: tf.Tensor) -> tf.Tensor:
    diagonal = tf.linalg.diag_part(matrix)
    roots = tf.where(diagonal > 0, tf.math.rsqrt(diagonal), tf.zeros_like(diagonal))
    scaled = matrix * roots[:, tf.newaxis] * roots[:, :, tf.newaxis]
    least = least_shift(tf.norm(scaled, axis=[-2, -1])[:, tf.newaxis], matrix.dtype) * diagonal
    shifted = tf.linalg.set_diag(matrix, diagonal + tf.maximum(shift[:, tf.newaxis], least))
    finite = tf.reduce_all(tf.math.is_finite(shifted))
    identity = tf.eye(matrix.shape[-1], batch_shape=matrix.shape[:1], dtype=matrix.dtype)
    x = tf.linalg.cholesky_solve(tf.linalg.cholesky(tf.where(finite, shifted, identity)), identity)
    return tf.where(finite, x, tf.constant(float("nan"), x.dtype))


def _tensorflow_eigensystem(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    finite = tf.reduce_all(tf.math.is_finite(matrix))
    identity = tf.eye(matrix.shape[-1], batch_shape=matrix.shape[:1], dtype=matrix.dtype)
    values, vectors = tf.linalg.eigh(tf.where(finite, matrix, identity))
    return tf.where(finite, values, tf.constant(float("nan"), values.dtype)), vectors


# Below this size float64 costs nothing.
_SMALL = 256
# Up to these sizes calls take longer than what they do: a depthwise convolution has one for each channel.
_TINY, _TINY_EIGENSYSTEM = 16, 32


def _lapack_inverses(*arrays: np.ndarray) -> list[np.ndarray]:
    half = len(arrays) // 2
    return each(_inverse, arrays[:half], arrays[half:])


def _inverse(matrices: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    n, dtype = matrices.shape[-1], matrices.dtype
    shifted = matrices.astype(np.float64 if n <= _SMALL else dtype)
    diagonal = np.einsum("gii->gi", shifted)
    diagonal += enough(shifts, matrices)
    found = _tiny_inverses(shifted) if len(shifted) > 1 and n <= _TINY else None
    return (np.stack([positive_inverse(m) for m in shifted]) if found is None else found).astype(dtype)


def _tiny_inverses(stack: np.ndarray) -> np.ndarray | None:
    """M⁻¹ of each matrix of a float64 stack, or `None` unless all are finite and positive."""
    if not np.isfinite(stack).all():
        return None
    try:
        lower = np.linalg.inv(np.linalg.cholesky(stack))
    except np.linalg.LinAlgError:
        return None
    found = np.matmul(lower.swapaxes(1, 2), lower)
    return (found + found.swapaxes(1, 2)) / 2


def positive_inverse(matrix: np.ndarray) -> np.ndarray:
    """M⁻¹, again in float64 if float32 cannot, else NaN."""
    kinds = (np.float32, np.float64) if matrix.dtype == np.float32 else (np.float64,)
    for kind in kinds if np.isfinite(matrix).all() else ():
        potrf, potri = lapack.get_lapack_funcs(("potrf", "potri"), dtype=kind)
        factor, info = potrf(matrix.T.astype(kind), lower=1, clean=1, overwrite_a=1)
        if info == 0:
            lower, info = potri(factor, lower=1, overwrite_c=1)
            if info == 0 and np.isfinite(lower[-1, 0]):
                full = lower + lower.T
                np.einsum("ii->i", full)[:] /= 2
                return full
    return np.full_like(matrix, np.nan)


def _lapack_eigensystems(*matrices: np.ndarray) -> list[np.ndarray]:
    return [array for pair in each(_eigensystem, matrices) for array in pair]


def _eigensystem(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(matrices) > 1 and matrices.shape[-1] <= _TINY_EIGENSYSTEM and np.isfinite(matrices).all():
        with contextlib.suppress(np.linalg.LinAlgError):
            values, vectors = np.linalg.eigh(matrices.astype(np.float64))
            return values.astype(matrices.dtype), vectors.astype(matrices.dtype)
    pairs = [_symmetric_eigensystem(m) for m in matrices]
    values, vectors = (np.stack(part).astype(matrices.dtype) for part in zip(*pairs))
    return values, vectors


def _symmetric_eigensystem(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n = len(matrix)
    nothing = np.full(n, np.nan), np.eye(n)
    if not np.isfinite(matrix).all():
        return nothing
    work = matrix.T.astype(np.float64 if n <= _SMALL else matrix.dtype)
    (syevd,) = lapack.get_lapack_funcs(("syevd",), (work,))
    values, vectors, info = syevd(work, lower=1, overwrite_a=1)
    return (values, vectors) if info == 0 else nothing


def each(function: Any, *columns: Any) -> list:
    """`function` of every row, one after the other: SciPy's LAPACK does not let go of Python's lock."""
    with one_thread():
        return [function(*row) for row in zip(*columns)]
