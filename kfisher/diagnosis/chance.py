"""What chance does to the numbers of a measurement: over draws of labels, over examples, over signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.stats

from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.rows import EMPIRICAL, EXACT, draws

_GROUPS = 16  # of examples, which the jackknife leaves out in turn
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

    The jackknife over groups of examples: EF and the gradient are made without one group after the other,
    while F stays, as the inputs are given and only labels vary.
    """
    rows, roots = frame.of(EMPIRICAL), np.sqrt(frame.shares * frame.total_weight)
    count, size = rows.shape
    scale = np.linalg.norm(frame.gradient)
    if np.linalg.norm(rows.T @ roots + frame.gradient) > 1e-2 * scale or np.isnan(cosine + length):
        return ANY, ANY  # the gradient is no sum of these rows: positions have weights of their own
    groups = min(_GROUPS, count)
    if groups < 2:
        return ANY, ANY
    found = np.array([_without(frame, rows, roots, np.arange(count) % groups != g) for g in range(groups)])
    if not np.all(np.isfinite(found)):
        return ANY, ANY
    error = np.sqrt((groups - 1) * np.var(found, 0))
    half = scipy.stats.t.ppf((1 + confidence) / 2, groups - 1) * error
    low, high = np.array([cosine, np.log(length)]) - half, np.array([cosine, np.log(length)]) + half
    return Interval(max(low[0], -1.0), min(high[0], 1.0)), Interval(low[1], high[1])


def _without(frame: Frame, rows: np.ndarray, roots: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    """Cosine and logarithm of the length ratio from the examples that are kept."""
    u, factor = rows[kept], 1 / frame.shares[kept].sum()
    descent = factor * (u.T @ roots[kept])
    if len(u) < u.shape[1]:
        step = u.T @ np.linalg.solve(factor * u @ u.T + frame.damping * np.eye(len(u)), factor * roots[kept])
    else:
        step = np.linalg.solve(factor * u.T @ u + frame.damping * np.eye(u.shape[1]), descent)
    natural = descent / (frame.values + frame.damping)
    one, two = np.linalg.norm(step), np.linalg.norm(natural)
    if not one * two:
        return np.nan, np.nan
    return float(step @ natural / (one * two)), float(np.log(one / two))


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


def gradient_over_noise(frame: Frame, curved: int, confidence: float) -> Gradient:
    """Of the first directions of the frame, by Hotelling's T².

    With n examples in k directions, n times the value without noise is what T² is noncentral by.
    """
    rows = frame.of(EMPIRICAL)[:, :curved] / np.sqrt(frame.values[:curved])
    gradient = frame.gradient[:curved] / np.sqrt(frame.values[:curved])
    share = float(gradient @ np.linalg.pinv(rows.T @ rows, hermitian=True) @ gradient) / frame.total_weight
    share = min(max(share, 0.0), 1 - 1e-9)  # of EF, that the mean of the gradients makes
    n = effective_number(frame)
    statistic, freedom = share / (1 - share) * (n - curved) / curved, (curved, n - curved)
    probability = float(scipy.stats.f.cdf(statistic, *freedom))

    def excess(noncentral: float) -> float:
        return float(scipy.stats.ncf.cdf(statistic, *freedom, noncentral)) - (1 - confidence)

    if probability <= 1 - confidence:  # smaller than noise makes it nearly always: fitted to these examples
        return Gradient(share, True, 0.0)
    if probability > confidence:
        return Gradient(share, False, share / (1 - share))
    most = 4 * (n * share + 4 * curved + 4 * np.sqrt(n * share + curved) + 10)
    return Gradient(share, True, scipy.optimize.brentq(excess, 0.0, most, xtol=1e-3) / n)


class Moments(NamedTuple):
    """Of each example, in the most curved directions, whitened by F, `(N, k, k)`: their sum over n is F (the
    identity), EF, or one draw of labels."""

    exact: np.ndarray
    empirical: np.ndarray
    sampled: list[np.ndarray]


def moments(frame: Frame, size: int) -> Moments:
    """Σ_r u_rn u_rnᵀ of each kind in the first `size` directions."""

    def of(key: tuple[str, int | None]) -> np.ndarray:
        rows = frame.of(key)[:, :size] / np.sqrt(frame.values[:size])
        rows = rows.reshape(-1, frame.layout.examples, size)
        return np.einsum("rni,rnj->nij", rows, rows)

    return Moments(of(EXACT), of(EMPIRICAL), [of(key) for key in draws(frame.layout)])


def extremes_of_draws(
    sampled: list[np.ndarray], confidence: float, replicates: int, seed: int
) -> tuple[Interval, Interval]:
    """Where the eigenvalues of F⁻¹ M - 1 lie for labels that the model draws, and where their sum lies.

    Each replicate takes for every example one of its draws, about their mean: as many sets of labels as
    there are, from few passes. Each of the four ends has a quarter of what the confidence leaves, so that
    both hold at once.
    """
    several = np.stack(sampled)  # (draws, N, k, k)
    number, examples, size = several.shape[:3]
    deviations = (several - several.mean(0)) * np.sqrt(number / (number - 1))
    rng = np.random.default_rng(seed)
    chosen = rng.integers(number, size=(replicates, examples)) == np.arange(number)[:, np.newaxis, np.newaxis]
    noise = sum(c.astype(float) @ d.reshape(examples, -1) for c, d in zip(chosen, deviations))
    values = np.linalg.eigvalsh(noise.reshape(-1, size, size))
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
