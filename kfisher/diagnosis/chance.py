"""What chance does to the numbers of a measurement: over draws of labels, over examples, over signs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats

from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.rows import EMPIRICAL, EXACT

_AT_ONCE = 2**22  # numbers of drawn labels in the curved directions
_RECENT = 5  # measurements, whose spread over draws is pooled


def effective_number(frame: Frame) -> float:
    """How many examples: N, for equal weights."""
    return float(1 / np.sum(frame.shares**2))


def margin_of_draws(history: Sequence[Measurement], name: str, draws: int, confidence: float) -> float:
    """How far from the mean over draws that of one more draw may lie: half a prediction interval.

    Args:
        history: The spread is pooled over the last few; of the number `name` in `Measurement.error`.
        name: "cosine", or "step_norm", of which it is the margin of the logarithm.
        draws: How many labels are drawn for each measurement.
        confidence: Of the interval, two-sided.

    Returns:
        Infinity if there are no two draws.
    """
    squares = []
    for m in history[-_RECENT:]:
        error = m.error.get(name, np.nan) / (m.step_norm["sampled"] if name == "step_norm" else 1.0)
        if np.isfinite(error):
            squares.append(draws * error**2)
    if draws < 2 or not squares:
        return np.inf
    freedom = len(squares) * (draws - 1)
    t = scipy.stats.t.ppf((1 + confidence) / 2, freedom)
    return float(t * np.sqrt(np.mean(squares) * (1 + 1 / draws)))


class Interval(NamedTuple):
    """Low and high end; infinite where the examples say nothing."""

    low: float
    high: float


ANY = Interval(-np.inf, np.inf)


def over_examples(frame: Frame, cosine: float, length: float, confidence: float) -> tuple[Interval, Interval]:
    """Intervals of the cosine of the EF step, and of the logarithm of its length over the natural step's.

    The jackknife: EF and the gradient are made without one example after the other, while F stays, as the
    inputs are given and only labels vary. The inverse of an EF of few examples is too large on average, and
    its step too long; by how much the jackknife says as well, and the interval of the length is moved by it.
    Beyond the error itself that is more than a first order knows: then the interval holds both. That of the
    cosine stays about the estimate, as there is nothing above 1 to move to.
    """
    if not holds_gradients(frame) or np.isnan(cosine + length) or np.sum(frame.shares > 0) < 2:
        return ANY, ANY
    point = np.array([cosine, np.log(length)])
    moved = _without_each(frame) - point
    if not np.all(np.isfinite(moved)):
        return ANY, ANY
    rest = 1 - frame.shares[:, np.newaxis]
    error = np.sqrt(np.sum(rest * moved**2, 0))
    half = scipy.stats.t.ppf((1 + confidence) / 2, effective_number(frame) - 1) * error
    centre = point - np.array([0.0, np.sum(rest[:, 0] * moved[:, 1])])
    other = np.where(np.abs(centre - point) > half, point, centre)
    low, high = np.minimum(centre, other) - half, np.maximum(centre, other) + half
    return Interval(max(low[0], -1.0), min(high[0], 1.0)), Interval(low[1], high[1])


def holds_gradients(frame: Frame, rounding: float = 0.0) -> bool:
    """True if the row of EF of each example is its gradient, up to a factor.

    Not where its positions or outputs weigh differently: w enters the row by its root. Nor, with no
    `rounding` as a share of all that is added up, where the gradient is nothing else.
    """
    rows, gradient = frame.of(EMPIRICAL), np.linalg.norm(frame.gradient)
    off = np.linalg.norm(rows.T @ frame.roots + frame.gradient)
    return bool(off <= max(1e-2 * gradient, rounding * (frame.roots @ np.linalg.norm(rows, axis=1))))


def _without_each(frame: Frame) -> np.ndarray:
    """Cosine and logarithm of the length ratio without each example in turn, `(N, 2)`.

    The weights of the others grow by 1 / (1 - w_n / Σ w), for which the damping shrinks here.
    """
    roots = frame.roots
    left, singular, basis = np.linalg.svd(frame.of(EMPIRICAL), full_matrices=False)
    u, rest = left * singular, 1 - frame.shares
    scale = 1 / (singular**2 + np.outer(rest, np.full(len(singular), frame.damping)))
    descent = roots @ u - roots[:, np.newaxis] * u
    with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is no interval in the end
        along = np.sum(scale * u * descent, 1) / (1 - np.sum(scale * u**2, 1))  # Sherman and Morrison
        step = (scale * (descent + along[:, np.newaxis] * u)) @ basis
    natural = descent @ basis / (frame.values + frame.damping) / rest[:, np.newaxis]
    one, two = np.linalg.norm(step, axis=1), np.linalg.norm(natural, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([np.sum(step * natural, 1) / (one * two), np.log(one / two)], 1)


class Gradient(NamedTuple):
    """∇Lᵀ EF⁻¹ ∇L of the mean loss in the curved directions: its square over its noise in one example.

    Attributes:
        found: On these examples.
        within_noise: Whether no gradient at all would make it as large, by chance.
        bound: What it surely is below without that noise.
    """

    found: float
    within_noise: bool
    bound: float


def whole_gradient_over_noise(
    frame: Frame, confidence: float, replicates: int, seed: int
) -> tuple[float, float]:
    """‖∇L‖² in all directions, curved or not, over what its noise makes of it, and how large that may get.

    In the metric (F + λI)⁻¹, so that it is about what a damped step would gain. At a minimum the gradients of
    the examples cancel as any signs do that are drawn for them.
    """
    own = np.sqrt(frame.shares * frame.total_weight)
    rows = frame.roots[:, np.newaxis] * frame.of(EMPIRICAL) / np.sqrt(frame.values + frame.damping)
    gram = rows[own > 0] @ rows[own > 0].T
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], (replicates, len(gram)))
    by_chance = np.sum(signs @ gram * signs, 1)
    mean = float(by_chance.mean())
    if mean <= 0:
        return 0.0, 0.0
    return float(gram.sum()) / mean, float(np.quantile(by_chance, confidence)) / mean


def gradient_over_noise(frame: Frame, curved: int, confidence: float) -> Gradient:
    """Of the first directions of the frame, by Hotelling's T².

    With n examples in k directions, n times the value without noise is what T² is noncentral by. The noise is
    that between examples: the positions of one are no sample of their own.
    """
    own = np.sqrt(frame.shares * frame.total_weight)
    scale = np.divide(frame.roots, own, out=np.zeros_like(own), where=own > 0)
    rows = scale[:, np.newaxis] * frame.of(EMPIRICAL)[:, :curved] / np.sqrt(frame.values[:curved])
    gradient = frame.gradient[:curved] / np.sqrt(frame.values[:curved])
    share = float(gradient @ np.linalg.pinv(rows.T @ rows, hermitian=True) @ gradient) / frame.total_weight
    share = min(max(share, 0.0), 1 - 1e-9)  # of EF, that the mean of the gradients makes
    n = effective_number(frame)
    statistic, freedom = share / (1 - share) * (n - curved) / curved, (curved, n - curved)
    probability = float(scipy.stats.f.cdf(statistic, *freedom))

    def excess(noncentral: float) -> float:
        # SciPy's distribution function is NaN where it is far below all that counts here.
        below = float(scipy.stats.ncf.cdf(statistic, *freedom, noncentral))
        return (0.0 if math.isnan(below) else below) - (1 - confidence)

    if probability <= 1 - confidence:  # smaller than noise makes it nearly always: fitted to these examples
        return Gradient(share, True, 0.0)
    if probability > confidence:
        return Gradient(share, False, share / (1 - share))
    most = 4 * (n * share + 4 * curved + 4 * np.sqrt(n * share + curved) + 10)
    return Gradient(share, True, scipy.optimize.brentq(excess, 0.0, most, xtol=1e-3) / n)


class Moments(NamedTuple):
    """Of each example, in the most curved directions, whitened by F, `(N, k, k)`: their sum over n is F (the
    identity) or EF."""

    exact: np.ndarray
    empirical: np.ndarray


def moments(frame: Frame, size: int) -> Moments:
    """Σ_r u_rn u_rnᵀ of each kind in the first `size` directions."""

    def of(key: tuple[str, int | None]) -> np.ndarray:
        rows = _whitened(frame, key, size)
        return np.einsum("rni,rnj->nij", rows, rows)

    return Moments(of(EXACT), of(EMPIRICAL))


def _whitened(frame: Frame, key: tuple[str, int | None], size: int) -> np.ndarray:
    rows = frame.of(key)[:, :size] / np.sqrt(frame.values[:size])
    return rows.reshape(-1, frame.layout.examples, size)


def of_drawn_labels(frame: Frame, size: int, fitted: bool, count: int) -> np.ndarray:
    """F⁻¹ M in the first `size` directions for as many sets of labels that the model draws, `(count, k, k)`.

    Args:
        fitted: Whether the weights were fitted to these very examples, which takes a part of the noise away:
            then they are moved to the minimum of the drawn labels, too, by one step of Newton's method.
    """
    exact = _whitened(frame, EXACT, size)
    own = np.einsum("rni,rnj->nij", exact, exact)
    roots = frame.roots
    inverse = np.divide(1, roots, out=np.zeros_like(roots), where=roots > 0)
    most = max(1, _AT_ONCE // exact.size)
    found = []
    for first in range(0, count, most):
        scores = frame.draw(min(most, count - first), first)
        rows = np.einsum("drn,rnk->dnk", scores, exact)
        if fitted:
            rows -= np.einsum(
                "nij,dj,n->dni", own, np.einsum("dni,n->di", rows, roots), inverse, optimize=True
            )
        found.append(np.swapaxes(rows, 1, 2) @ rows)
    return np.concatenate(found)


def extremes(matrices: np.ndarray, confidence: float) -> tuple[Interval, Interval]:
    """Where the eigenvalues of matrices lie, and where their sum lies.

    Each of the four ends has a quarter of what the confidence leaves, so that both hold at once.
    """
    values = np.linalg.eigvalsh(matrices)
    tail = (1 - confidence) / 4

    def between(low: np.ndarray, high: np.ndarray) -> Interval:
        return Interval(float(np.quantile(low, tail)), float(np.quantile(high, 1 - tail)))

    return between(values[:, 0], values[:, -1]), between(values.sum(1), values.sum(1))


def half_width(differences: np.ndarray, confidence: float, replicates: int, seed: int) -> float:
    """How far each eigenvalue of F⁻¹ EF may be off, all at once.

    By Weyl's inequality no further than the norm of the error of the matrix, here of sums of the
    `differences` of examples, `(N, k, k)`, with random signs (wild bootstrap).
    """
    examples, size = differences.shape[:2]
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(replicates, examples))
    centred = (differences - differences.mean(0)).reshape(examples, -1)
    values = np.linalg.eigvalsh((signs @ centred).reshape(-1, size, size))
    return float(np.quantile(np.abs(values).max(1), confidence))
