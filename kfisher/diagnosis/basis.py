"""An orthonormal basis in which F is diagonal, and the rows of all Fishers in it: where they are compared.

With Q the basis, `(P, d)` and never formed, and U the rows of all kinds, all follows from X = U Q and Qᵀ ∇L.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from kfisher.diagnosis.eigen import LEADING, Eigen, described, eigenpairs, eigenvalues, products
from kfisher.diagnosis.limits import SMALL
from kfisher.diagnosis.rows import EMPIRICAL, EXACT, JointRoot, Layout, draws

Lift = Callable[[np.ndarray], np.ndarray]

_ITERATIONS = 50  # of conjugate gradients, for a step with the exact Fisher in that case


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
    own = matrices(root, layout)
    whole = root.gram is None or len(own[EXACT]) <= SMALL
    pairs = {} if whole else {key: eigenpairs(matrix, epsilon) for key, matrix in own.items()}
    found = {key: pairs[key][0] if pairs else eigenvalues(own[key], epsilon) for key in own}
    if damping is None:
        largest = found[EXACT][:1]
        damping = float(np.sqrt(epsilon) * largest[0]) if len(largest) else epsilon
    eigen = {key: described(own[key], found[key], damping) for key in own}
    if root.gram is None:
        rows, lift = _of_rows(root.rows, layout, own, epsilon)
    elif whole:
        rows, lift = _joint_span(root.gram, layout, epsilon)
    else:
        rows, lift = _leading(root, layout, own, pairs, coordinates, damping, epsilon)
    rows, values, rotation = _diagonal(rows, layout)
    drawn = [
        _combination(root, key) @ rows[layout.rows(*EXACT)] for key in draws(layout) if _combines(root, key)
    ]
    return Frame(
        layout=layout,
        rows=np.concatenate([rows, *drawn]),
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


def matrices(root: JointRoot, layout: Layout) -> dict[tuple[str, int | None], np.ndarray]:
    """U_k U_kᵀ (or U_kᵀ U_k) of each kind and draw."""
    return {key: _matrix(root, layout, key) for key in [EXACT, EMPIRICAL, *draws(layout)]}


def _matrix(root: JointRoot, layout: Layout, key: tuple[str, int | None]) -> np.ndarray:
    combined = _combines(root, key)
    pulled = layout.rows(*(EXACT if combined else key))
    if root.gram is None:
        u = root.rows[pulled].astype(np.float64)
        u = _combination(root, key) @ u if combined else u
        return u.T @ u
    own = root.gram[pulled, pulled]
    if combined:
        a = _combination(root, key)
        own = a @ (a @ own).T
    # Fortran order is what BLAS reads without a copy, and the same for a symmetric matrix
    return np.ascontiguousarray(own).T


def _combines(root: JointRoot, key: tuple[str, int | None]) -> bool:
    """True if the rows of a draw of labels are not pulled back, but combinations of those of F."""
    return key[0] == "sampled" and root.draws is not None


def _combination(root: JointRoot, draw: tuple[str, int | None]) -> scipy.sparse.csr_array:
    """What makes them: Σ_r a_rn x_rn from rows x of F, `(N, R N)`."""
    a = root.draws[draw[1]]
    example = np.broadcast_to(np.arange(a.shape[1]), a.shape)
    return scipy.sparse.csr_array((a.ravel(), (example.ravel(), np.arange(a.size))))


def eigenvalues_of_all(root: JointRoot, layout: Layout) -> dict[tuple[str, int | None], np.ndarray]:
    """The eigenvalues of each kind and draw, descending."""
    return {key: eigenvalues(matrix, _epsilon(root)) for key, matrix in matrices(root, layout).items()}


def _epsilon(root: JointRoot) -> float:
    return float(np.finfo((root.rows if root.gram is None else root.gram).dtype).eps)


def _of_rows(rows: np.ndarray, layout: Layout, own: dict, epsilon: float) -> tuple[np.ndarray, Lift]:
    """X, and how to lift, in the span of the rows of F and of EF, from the rows themselves."""
    values, vectors = eigenpairs(own[EXACT] + own[EMPIRICAL], epsilon)
    found, chosen = rows.astype(np.float64) @ vectors, _of_both(layout)
    return found, lambda a: _placed(found[chosen] @ (a / values), chosen, len(rows))


def _joint_span(gram: np.ndarray, layout: Layout, epsilon: float) -> tuple[np.ndarray, Lift]:
    """The same from the Gram matrix: also where F is flat, EF and the gradient may be large."""
    chosen = _of_both(layout)
    values, vectors = scipy.linalg.eigh(gram[np.ix_(chosen, chosen)].astype(np.float64), check_finite=False)
    kept = values > 10 * epsilon * values[-1]
    values, vectors = values[kept], vectors[:, kept]
    basis = vectors / np.sqrt(values)
    rows = np.empty((len(gram), len(values)))
    rows[chosen] = vectors * np.sqrt(values)  # what the product below would give
    others = np.setdiff1d(np.arange(len(gram)), chosen)
    rows[others] = gram[np.ix_(others, chosen)] @ basis
    return rows, lambda a: _placed(basis @ a, chosen, len(gram))


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
    root: JointRoot, layout: Any, own: Any, pairs: Any, coordinates: Any, damping: Any, epsilon: Any
) -> tuple[np.ndarray, Lift]:
    """X, and how to lift, in the span of leading eigenvectors and steps of all kinds and the gradient.

    So the eigenvectors are those of the whole matrices, the steps as well, as far as conjugate gradients
    have come (the exact one, at a damping far below the leading eigenvalues, has not), and the rest is
    Rayleigh and Ritz.
    """
    gram = root.gram
    columns, steps = [], [coordinates]
    seen = gram @ coordinates.astype(gram.dtype)  # U ∇L
    for key, (values, vectors) in pairs.items():
        a = _combination(root, key) if _combines(root, key) else None
        rows = layout.rows(*(key if a is None else EXACT))
        leading = (vectors / np.sqrt(values))[:, :LEADING]
        z = _solve(own[key], seen[rows] if a is None else a @ seen[rows], values, vectors, damping)
        if a is not None:
            leading, z = a.T @ leading, a.T @ z
        columns.append((rows, leading))
        # The step itself, as z beside the gradient would be nearly parallel to it.
        steps.append(coordinates.copy())
        steps[-1][rows] -= z
    columns.append((slice(None), np.stack(steps, 1)))
    images = np.concatenate([gram[:, rows] @ block.astype(gram.dtype) for rows, block in columns], 1)  # K C
    images = images.astype(np.float64)
    inner = np.concatenate([block.T @ images[rows] for rows, block in columns])  # Cᵀ K C
    scale = 1 / np.sqrt(np.maximum(np.diag(inner), np.finfo(np.float64).tiny))
    values, vectors = eigenpairs((inner + inner.T) / 2 * scale * scale[:, np.newaxis], 10 * epsilon)
    basis = scale[:, np.newaxis] * vectors / np.sqrt(values)

    def lift(a: np.ndarray) -> np.ndarray:
        parts = np.split(basis @ a, np.cumsum([block.shape[1] for _, block in columns])[:-1])
        placed = [_placed(block @ part, rows, len(gram)) for (rows, block), part in zip(columns, parts)]
        return np.sum(placed, axis=0)

    return images @ basis, lift


def _solve(gram: Any, seen: Any, values: Any, vectors: Any, damping: Any) -> np.ndarray:
    """z = (U Uᵀ + λ I)⁻¹ U ∇L: the step is (∇L - Uᵀ z) / λ."""
    if len(gram) <= SMALL:
        return vectors @ (vectors.T @ seen / (values + damping))
    damped = products(gram, damping)
    return scipy.sparse.linalg.cg(damped, seen, rtol=1e-5, maxiter=_ITERATIONS)[0].astype(np.float64)
