"""Eigenvalues and spectral densities of a linear operator, through products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse.linalg
import tensorflow as tf

from kfisher._common import memory
from kfisher._common.checks import function as check_function
from kfisher._common.checks import positive, positive_integer, wrong
from kfisher._common.checks import seed as check_seed

_DENSE = 2048  # rows; up to this size all eigenvalues take less than two seconds


def eigenvalues(operator: tf.linalg.LinearOperator, k: int | None = None) -> np.ndarray:
    """The non-zero eigenvalues of a Fisher matrix, or its k largest, in descending order.

    Args:
        operator: A `kfisher.FisherOperator`, or any symmetric positive semidefinite
            `tf.linalg.LinearOperator` of shape `(P, P)`.
        k: Positive integer, smaller than P: only so many of the largest, by Lanczos with restarts (ARPACK),
            from products with vectors alone. Defaults to `None`: all that are not zero to the precision of
            the operator's dtype; through the Gram matrix A Aᵀ, which has the same ones, where that is
            smaller than P x P.

    Returns:
        `(r,)` float64, in the units of F (loss / parameter²).

    Raises:
        ValueError: If all are asked for of a matrix that is too large, or k is not a positive integer
            smaller than P.

    Example:

    >>> F = kfisher.FisherOperator(model, x)
    >>> kfisher.spectra.eigenvalues(F)
    """
    size = _size(operator)
    if k is None:
        count = min(size, int(getattr(getattr(operator, "root", None), "num_rows", size)))
        if count > _DENSE:
            raise ValueError(
                f"All of {count} eigenvalues would take long. Pass "
                "`k` for the largest, use kfisher.spectra.density for their distribution, or fewer examples. "
                f"Received: k=None, operator of shape ({size}, {size})"
            )
        values = np.sort(operator.eigvals().numpy().astype(np.float64))[::-1]
        return values[values > count * np.finfo(operator.dtype.as_numpy_dtype).eps * max(values[0], 0)]
    kind = f"a positive integer smaller than the size of the operator, {size}"
    k = positive_integer("k", k, kind)
    if k >= size:
        raise wrong("k", kind, k)
    _fits(max(2 * k + 1, 20), size, "Take a smaller `k`.")  # the vectors that ARPACK keeps
    product = scipy.sparse.linalg.LinearOperator((size, size), _matvec(operator), dtype=np.float64)
    start = np.random.default_rng(0).normal(size=size)  # ARPACK's own start is another one at each call
    values = scipy.sparse.linalg.eigsh(product, k, which="LA", v0=start, return_eigenvectors=False)
    return np.sort(values)[::-1]


@dataclass
class Density:
    """A spectral density as point masses.

    Attributes:
        nodes: `(num_vectors, num_steps)` eigenvalues.
        weights: Of the same shape; all add up to 1.
        size: P, by which a weight becomes a number of eigenvalues.
    """

    nodes: np.ndarray
    weights: np.ndarray
    size: int

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """The mean of a function over all eigenvalues, and one standard error over the start vectors."""
        function = check_function("function", function, "a function of an array of eigenvalues")
        each = np.sum(self.weights * function(self.nodes), 1) * len(self.nodes)
        error = np.std(each, ddof=1) / np.sqrt(len(each)) if len(each) > 1 else float("nan")
        return float(each.mean()), float(error)

    def __call__(self, points: np.ndarray, width: float) -> np.ndarray:
        """The density at `points`, the masses smoothed by Gaussians of standard deviation `width`."""
        width = positive("width", width, dtype="float64")
        try:
            points = np.asarray(points, np.float64)
        except (TypeError, ValueError):
            raise wrong("points", "an array of numbers", points) from None
        z = (points[..., np.newaxis] - self.nodes.ravel()) / width
        return np.exp(-(z**2) / 2) @ self.weights.ravel() / (width * np.sqrt(2 * np.pi))


def density(
    operator: tf.linalg.LinearOperator, num_vectors: int = 8, num_steps: int = 64, seed: int = 0
) -> Density:
    """The distribution of all eigenvalues, by stochastic Lanczos quadrature.

        phi(t) = 1/P Σ_i δ(t - lambda_i)  ~  1/n Σ_v Σ_j tau_vj² δ(t - theta_vj)

    with theta_vj the Ritz values of `num_steps` Lanczos steps from the random unit vector v, and tau_vj the
    first entries of their eigenvectors. Reorthogonalised in full.

    Args:
        operator: As for `eigenvalues`; of any size, only products with vectors are taken.
        num_vectors: Positive integer n, start vectors.
        num_steps: Positive integer, Lanczos steps for each (at most P).
        seed: Integer, of the start vectors.

    Raises:
        ValueError: If `num_vectors` or `num_steps` is not a positive integer, or another argument is wrong.

    Reference:
        Ubaru, Chen, Saad 2017; Ghorbani, Krishnan, Xiao 2019 (arXiv:1901.10159).

    Example:

    >>> phi = kfisher.spectra.density(kfisher.FisherOperator(model, x))
    >>> phi(np.linspace(0, 1, 200), width=0.01)
    """
    size = _size(operator)
    num_vectors = positive_integer("num_vectors", num_vectors)
    num_steps = positive_integer("num_steps", num_steps)
    return quadrature(_matvec(operator), size, num_vectors, num_steps, check_seed("seed", seed))


def quadrature(
    matvec: Callable[[np.ndarray], np.ndarray], size: int, num_vectors: int, num_steps: int, seed: int
) -> Density:
    """`density` for a product with NumPy vectors."""
    rng = np.random.default_rng(seed)
    num_steps = min(num_steps, size)
    _fits(num_steps, size, "Take a smaller `num_steps`.")
    nodes, weights = np.zeros((2, num_vectors, num_steps))
    for i in range(num_vectors):
        diagonal, off = _lanczos(matvec, rng.normal(size=size), num_steps)
        theta, vectors = scipy.linalg.eigh_tridiagonal(diagonal, off)
        nodes[i, : len(theta)], weights[i, : len(theta)] = theta, vectors[0] ** 2 / num_vectors
    return Density(nodes, weights, size)


def _lanczos(matvec: Any, start: np.ndarray, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The tridiagonal matrix; shorter if the Krylov space is exhausted."""
    basis = np.zeros((num_steps, len(start)))
    diagonal, off = [], []
    q = start / np.linalg.norm(start)
    for j in range(num_steps):
        basis[j] = q
        w = np.asarray(matvec(q), np.float64)
        diagonal.append(q @ w)
        for _ in range(2):  # twice is enough (Kahan)
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        norm = np.linalg.norm(w)
        if j + 1 == num_steps or norm < 1e-10 * max(np.abs(diagonal).max(), 1e-300):
            break
        off.append(norm)
        q = w / norm
    return np.array(diagonal), np.array(off)


def _fits(vectors: int, size: int, instead: str) -> None:
    """Raises if so many float64 vectors do not fit into memory."""
    memory.require(8.0 * vectors * size, "Lanczos' vectors", instead, vectors=vectors, parameters=size)


def _size(operator: Any) -> int:
    shape = tuple(operator.shape) if isinstance(operator, tf.linalg.LinearOperator) else ()
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(
            "`operator` must be a square tf.linalg.LinearOperator without batch axes, say a "
            f"kfisher.FisherOperator. Received: {operator!r}"
        )
    return int(shape[0])


def _matvec(operator: Any) -> Callable[[np.ndarray], np.ndarray]:
    @tf.function(autograph=False)
    def product(v: Any) -> Any:
        return operator.matvec(v)

    def matvec(v: Any) -> np.ndarray:
        return product(tf.constant(np.ravel(v), operator.dtype)).numpy().astype(np.float64)

    return matvec
