"""An orthonormal basis in which F is diagonal, and the rows of all Fishers in it: where they are compared.

With Q the basis, `(P, d)` and never formed, and U the rows of all kinds, all follows from X = U Q and Qᵀ ∇L.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from kfisher.diagnosis.limits import SMALL
from kfisher.diagnosis.rows import EMPIRICAL, EXACT, JointRoot, Layout, draws
from kfisher.spectra import quadrature

Lift = Callable[[np.ndarray], np.ndarray]

_LEADING = 16  # eigenpairs of each kind, where there are too many for all
_QUADRATURE = (2, 20)  # start vectors and Lanczos steps, for the effective dimension in that case
_ITERATIONS = 50  # of conjugate gradients, for a step with the exact Fisher in that case


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


@dataclass
class Frame:
    """The rows of all Fishers in a common basis.

    Attributes:
        layout: Which rows are whose.
        rows: X = U Q, `(R N, d)`, float64.
        gradient: Qᵀ ∇L, `(d,)`.
        values: The diagonal of F in this basis, descending, `(d,)`.
        damping: λ.
        eigen: By kind and draw ("sampled", 0), ...: eigenvalues of the whole matrix.
        complete: Whether Q spans all rows.
        shares, total_weight, roots: As in `JointRoot`.
        lift: From a vector a in the frame, `(d,)`, to the coefficients z with Uᵀ z = Q a, `(R N,)`.
        draw: Labels that the model draws, see `DrawnScores`.
    """

    layout: Layout
    rows: np.ndarray
    gradient: np.ndarray
    values: np.ndarray
    damping: float
    eigen: dict[tuple[str, int | None], Eigen]
    complete: bool
    shares: np.ndarray
    total_weight: float
    roots: np.ndarray
    lift: Lift
    draw: Callable[[int, int], np.ndarray]

    def of(self, key: tuple[str, int | None]) -> np.ndarray:
        """The rows of one kind or draw."""
        return self.rows[self.layout.rows(*key)]

    def matrix(self, key: tuple[str, int | None]) -> np.ndarray:
        """Qᵀ M Q for the matrix M of one kind or draw, `(d, d)`."""
        rows = self.of(key)
        return rows.T @ rows


def curved_directions(frame: Frame) -> int:
    """In how many directions, the first ones, F rises above the damping."""
    return int(np.sum(frame.values > frame.damping))


def frame(root: JointRoot, layout: Layout, damping: float | None, draw: Callable) -> Frame:
    """Decomposes the matrices of `root`, whose entries are NumPy arrays.

    Args:
        damping: λ; or `None` for √(precision of the products) times the largest eigenvalue of F: below that
            there are no digits left in them.
        draw: Of the `Frame`.
    """
    epsilon = _epsilon(root)
    coordinates = root.coordinates.astype(np.float64)
    own, pairs = decompose(root, layout)
    values, _ = pairs[EXACT]
    if damping is None:
        damping = float(np.sqrt(epsilon) * values[0]) if len(values) else epsilon
    eigen = {key: _eigen(own[key], pairs[key][0], damping) for key in own}
    if root.gram is None:
        rows, lift = _of_rows(root.rows, layout, own, epsilon)
    elif eigen[EXACT].complete:
        rows, lift = _joint_span(root.gram, layout, epsilon)
    else:
        rows, lift = _leading(root.gram, layout, own, pairs, coordinates, damping, epsilon)
    rows, values, rotation = _diagonal(rows, layout)
    return Frame(
        layout=layout,
        rows=rows,
        gradient=rows.T @ coordinates,
        values=values,
        damping=damping,
        eigen=eigen,
        complete=eigen[EXACT].complete,
        shares=root.shares.astype(np.float64),
        total_weight=float(root.total_weight),
        roots=root.roots.astype(np.float64),
        lift=lambda a: lift(rotation @ a),
        draw=draw,
    )


def decompose(root: JointRoot, layout: Layout) -> tuple[dict, dict]:
    """U_k U_kᵀ (or U_kᵀ U_k) of each kind and draw, and its eigenvalues, descending, with their vectors."""
    keys = [EXACT, EMPIRICAL, *draws(layout)]
    if root.gram is None:
        blocks = {key: root.rows[layout.rows(*key)].astype(np.float64) for key in keys}
        own = {key: u.T @ u for key, u in blocks.items()}
    else:  # Fortran order is what BLAS reads without a copy, and the same for a symmetric matrix
        own = {key: np.ascontiguousarray(root.gram[layout.rows(*key), layout.rows(*key)]).T for key in keys}
    return own, {key: _eigenpairs(matrix, _epsilon(root)) for key, matrix in own.items()}


def _epsilon(root: JointRoot) -> float:
    return float(np.finfo((root.rows if root.gram is None else root.gram).dtype).eps)


def _eigenpairs(matrix: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray]:
    """All of a small matrix that are above rounding, else the leading ones by Lanczos; descending."""
    if not np.all(np.isfinite(np.diag(matrix))):
        raise FloatingPointError("The Fisher matrices have entries that are not finite.")
    if len(matrix) <= SMALL:
        values, vectors = scipy.linalg.eigh(matrix.astype(np.float64), check_finite=False)
    elif not np.any(np.diag(matrix)):  # on which ARPACK fails
        return np.zeros(0), np.zeros((len(matrix), 0))
    else:
        start = np.random.default_rng(0).normal(size=len(matrix)).astype(matrix.dtype)
        values, vectors = scipy.sparse.linalg.eigsh(_products(matrix), _LEADING, v0=start, tol=1e-4)
    order = np.argsort(-values)
    values, vectors = values[order].astype(np.float64), vectors[:, order].astype(np.float64)
    kept = values > 10 * epsilon * max(values[0], np.finfo(np.float64).tiny)
    return values[kept], vectors[:, kept]


def _eigen(matrix: np.ndarray, values: np.ndarray, damping: float) -> Eigen:
    trace = float(np.trace(matrix, dtype=np.float64))
    if len(matrix) <= SMALL:
        return Eigen(values, True, trace, float(np.sum(values / (values + damping))))
    products = _products(matrix)
    found = quadrature(lambda v: products @ v.astype(matrix.dtype), len(matrix), *_QUADRATURE, seed=0)
    mean, error = found.mean(lambda t: np.maximum(t, 0) / (np.maximum(t, 0) + damping))
    return Eigen(values, False, trace, mean * len(matrix), error * len(matrix))


def _of_rows(rows: np.ndarray, layout: Layout, own: dict, epsilon: float) -> tuple[np.ndarray, Lift]:
    """X, and how to lift, in the span of the rows of F and of EF, from the rows themselves."""
    values, vectors = _eigenpairs(own[EXACT] + own[EMPIRICAL], epsilon)
    found, chosen = rows.astype(np.float64) @ vectors, _of_both(layout)
    return found, lambda a: _placed(found[chosen] @ (a / values), chosen, len(rows))


def _joint_span(gram: np.ndarray, layout: Layout, epsilon: float) -> tuple[np.ndarray, Lift]:
    """The same from the Gram matrix: also where F is flat, EF and the gradient may be large."""
    chosen = _of_both(layout)
    values, vectors = scipy.linalg.eigh(gram[np.ix_(chosen, chosen)].astype(np.float64), check_finite=False)
    kept = values > 10 * epsilon * values[-1]
    basis = vectors[:, kept] / np.sqrt(values[kept])
    return gram[:, chosen].astype(np.float64) @ basis, lambda a: _placed(basis @ a, chosen, len(gram))


def _of_both(layout: Layout) -> np.ndarray:
    return np.r_[layout.rows("exact"), layout.rows("empirical")]


def _placed(coefficients: np.ndarray, rows: Any, count: int) -> np.ndarray:
    found = np.zeros(count)
    found[rows] = coefficients
    return found


def _diagonal(rows: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The basis turned so that F is diagonal, descending: X, that diagonal, and the rotation."""
    exact = rows[layout.rows("exact")]
    values, rotation = np.linalg.eigh(exact.T @ exact)
    rotation = rotation[:, ::-1]
    return rows @ rotation, np.maximum(values[::-1], 0), rotation


def _leading(
    gram: Any, layout: Any, own: Any, pairs: Any, coordinates: Any, damping: Any, epsilon: Any
) -> tuple[np.ndarray, Lift]:
    """X, and how to lift, in the span of leading eigenvectors and steps of all kinds and the gradient.

    So the eigenvectors are those of the whole matrices, the steps as well, as far as conjugate gradients
    have come (the exact one, at a damping far below the leading eigenvalues, has not), and the rest is
    Rayleigh and Ritz.
    """
    columns = [(slice(None), coordinates[:, np.newaxis])]
    seen = gram @ coordinates.astype(gram.dtype)  # U grad L
    for key, (values, vectors) in pairs.items():
        rows = layout.rows(*key)
        columns.append((rows, (vectors / np.sqrt(values))[:, :_LEADING]))
        columns.append((rows, _solve(own[key], seen[rows], values, vectors, damping)[:, np.newaxis]))
    images = np.concatenate([gram[:, rows] @ block.astype(gram.dtype) for rows, block in columns], 1)  # K C
    images = images.astype(np.float64)
    inner = np.concatenate([block.T @ images[rows] for rows, block in columns])  # C^T K C
    scale = 1 / np.sqrt(np.maximum(np.diag(inner), np.finfo(np.float64).tiny))
    values, vectors = _eigenpairs((inner + inner.T) / 2 * scale * scale[:, np.newaxis], 10 * epsilon)
    basis = scale[:, np.newaxis] * vectors / np.sqrt(values)

    def lift(a: np.ndarray) -> np.ndarray:
        parts = np.split(basis @ a, np.cumsum([block.shape[1] for _, block in columns])[:-1])
        placed = [_placed(block @ part, rows, len(gram)) for (rows, block), part in zip(columns, parts)]
        return np.sum(placed, axis=0)

    return images @ basis, lift


def _solve(gram: Any, seen: Any, values: Any, vectors: Any, damping: Any) -> np.ndarray:
    """z = (U Uᵀ + λ I)⁻¹ U ∇L: the step is in the span of Uᵀ z and the gradient."""
    if len(gram) <= SMALL:
        return vectors @ (vectors.T @ seen / (values + damping))
    damped = _products(gram, damping)
    return scipy.sparse.linalg.cg(damped, seen, rtol=1e-5, maxiter=_ITERATIONS)[0].astype(np.float64)


def _products(matrix: np.ndarray, damping: float = 0.0) -> scipy.sparse.linalg.LinearOperator:
    """v → (M + λ I) v that reads one half of M: such products wait for the memory."""
    symv = scipy.linalg.get_blas_funcs("symv", (matrix,))
    return scipy.sparse.linalg.LinearOperator(
        matrix.shape,
        lambda v: symv(1.0, matrix, v.ravel(), beta=damping, y=v.ravel()),
        dtype=matrix.dtype,
    )
