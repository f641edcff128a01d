"""Eigenvalues and eigenvectors of one Fisher: all of a small matrix, the leading ones of a large one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from kfisher.diagnosis.limits import SMALL
from kfisher.spectra import quadrature

LEADING = 16  # eigenpairs of each kind, where there are too many for all
_QUADRATURE = (2, 20)  # start vectors and Lanczos steps, for the effective dimension in that case


@dataclass
class Eigen:
    """Eigenvalues of one kind (of one draw).

    Attributes:
        values: Descending.
        complete: Whether these are all that are not zero.
        trace: Of the whole matrix M.
        effective_dimension: tr(M (M + λ I)⁻¹).
        error: One standard error of that, where it is estimated.
    """

    values: np.ndarray
    complete: bool
    trace: float
    effective_dimension: float
    error: float = 0.0


def eigenvalues(matrix: np.ndarray, epsilon: float) -> np.ndarray:
    """As by `eigenpairs`, without the vectors, which are most of the work for a small matrix."""
    if len(matrix) > SMALL:
        return eigenpairs(matrix, epsilon)[0]
    _refuse_not_finite(matrix)
    values = scipy.linalg.eigvalsh(matrix.astype(np.float64), check_finite=False)[::-1]
    return values[_above_rounding(values, epsilon)]


def eigenpairs(matrix: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """All of a small matrix that are above rounding, else the leading ones by Lanczos; descending."""
    _refuse_not_finite(matrix)
    if len(matrix) <= SMALL:
        values, vectors = scipy.linalg.eigh(matrix.astype(np.float64), check_finite=False)
    elif not np.any(np.diag(matrix)):  # on which ARPACK fails
        return np.zeros(0), np.zeros((len(matrix), 0))
    else:
        start = np.random.default_rng(0).normal(size=len(matrix)).astype(matrix.dtype)
        values, vectors = scipy.sparse.linalg.eigsh(products(matrix), LEADING, v0=start, tol=1e-4)
    order = np.argsort(-values)
    values, vectors = values[order].astype(np.float64), vectors[:, order].astype(np.float64)
    kept = _above_rounding(values, epsilon)
    return values[kept], vectors[:, kept]


def _refuse_not_finite(matrix: np.ndarray) -> None:
    if not np.all(np.isfinite(np.diag(matrix))):
        raise FloatingPointError("The Fisher matrices have entries that are not finite.")


def _above_rounding(values: np.ndarray, epsilon: float) -> np.ndarray:
    return values > 10 * epsilon * max(values[0], np.finfo(np.float64).tiny)


def described(matrix: np.ndarray, values: np.ndarray, damping: float) -> Eigen:
    """What is told of a matrix with these eigenvalues; its effective dimension by Lanczos if it is large."""
    trace = float(np.trace(matrix, dtype=np.float64))
    if len(matrix) <= SMALL:
        return Eigen(values, True, trace, float(np.sum(values / (values + damping))))
    operator = products(matrix)
    found = quadrature(lambda v: operator @ v.astype(matrix.dtype), len(matrix), *_QUADRATURE, seed=0)
    mean, error = found.mean(lambda t: np.maximum(t, 0) / (np.maximum(t, 0) + damping))
    return Eigen(values, False, trace, mean * len(matrix), error * len(matrix))


def products(matrix: np.ndarray, damping: float = 0.0) -> scipy.sparse.linalg.LinearOperator:
    """v → (M + λ I) v that reads one half of M: such products wait for the memory."""
    symv = scipy.linalg.get_blas_funcs("symv", (matrix,))
    return scipy.sparse.linalg.LinearOperator(
        matrix.shape,
        lambda v: symv(1.0, matrix, v.ravel(), beta=damping, y=v.ravel()),
        dtype=matrix.dtype,
    )
