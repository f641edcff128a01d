"""Findings on the empirical Fisher, each on its own: a level, a sentence and the numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.stats

from kfisher._common import checks
from kfisher.diagnosis.basis import EMPIRICAL, EXACT, Frame, draws
from kfisher.diagnosis.measurement import Finding, Measurement

_LARGEST = sys.float_info.max


@dataclass(frozen=True)
class Thresholds:
    """Where the findings change their level; the defaults and their reasons.

    Attributes:
        cosine: Steps whose cosine is below it point elsewhere. 0.7 is an angle of 45 degrees, at which as
            much of a step goes sideways as ahead. Below 0 they oppose each other.
        length: Factor between step lengths at the same damping. 3 is the usual distance between two
            learning rates of a search, so that a step that is off by more needs a search of its own.
        ratio: Factor between EF and F in one direction at a minimum. 1.25: with a curvature off by less, a
            Newton step leaves at most a quarter of the way to the minimum.
        confidence: Of the bootstrap intervals, and of the test of EF = F. Defaults to 0.95.
        replicates: Of the bootstrap.
        directions: How many directions of large curvature are judged at a minimum, at most; and no more than
            a tenth of the examples, as it takes about ten to estimate a curvature.
        gradient: A point counts as a minimum where N grad Lᵀ EF⁻¹ ∇L per direction is below it. 2: the
            noise of the examples alone makes it 1 on average.
        correlation: Rank correlation of step length and gradient norm; below it EF steps grow while the
            gradient shrinks. -0.5, of gradients that differ by a factor of 2 or more.

    Raises:
        ValueError: If one of them is out of its range.
    """

    cosine: float = 0.7
    length: float = 3.0
    ratio: float = 1.25
    confidence: float = 0.95
    replicates: int = 500
    directions: int = 16
    gradient: float = 2.0
    correlation: float = -0.5

    def __post_init__(self) -> None:
        checks.number("cosine", self.cosine, -1, 1, "a float from -1 to 1")
        checks.number("length", self.length, 1, _LARGEST, "a finite float of at least 1")
        checks.number("ratio", self.ratio, 1, _LARGEST, "a finite float of at least 1")
        checks.between_0_and_1("confidence", self.confidence)
        checks.positive_integer("replicates", self.replicates)
        checks.positive_integer("directions", self.directions)
        checks.positive("gradient", self.gradient)
        checks.number("correlation", self.correlation, -1, 1, "a float from -1 to 1")


def direction(now: Measurement, frame: Frame, thresholds: Thresholds) -> Finding:
    """Finding: does the EF step point where the natural-gradient step does?"""
    cosine, noise = now.cosine["empirical"], now.cosine["sampled"]
    values = {"cosine": cosine, "sampled_cosine": noise}
    if not np.any(frame.values > frame.damping):
        text = "The damping is larger than every eigenvalue of F, so that every step is the gradient."
        return Finding("direction", "unknown", text, values)
    if _gradient_over_noise(frame) < _VANISHED or not np.isfinite(cosine):
        return Finding("direction", "unknown", f"{_nothing(frame)} a step has no direction.", values)
    said = f"The cosine between the EF step and the natural-gradient step is {cosine:.2f}"
    margin = 2 * now.error.get("cosine", 0.0) + 0.1
    if cosine >= thresholds.cosine:
        return Finding("direction", "fine", f"{said}.", values)
    if cosine > noise - margin:
        text = f"{said}, but so it is for labels drawn from the model ({noise:.2f}): {_MORE}."
        return Finding("direction", "unknown", text, values)
    said += f" (with labels drawn from the model: {noise:.2f})"
    if cosine < 0:
        return Finding("direction", "bad", f"{said}: opposite.", {**values, "verdict": "opposite"})
    return Finding("direction", "warning", f"{said}.", {**values, "verdict": "distorted"})


def length(now: Measurement, frame: Frame, thresholds: Thresholds) -> Finding:
    """Finding: is it as long, at the same damping?"""
    ratio, norm = now.length_ratio, now.step_norm
    noise = norm["sampled"] / norm["exact"] if norm["exact"] else float("nan")
    values = {"length_ratio": ratio, "sampled_length_ratio": noise}
    if _gradient_over_noise(frame) < _VANISHED or not np.isfinite(ratio) or not ratio:
        return Finding("length", "unknown", f"{_nothing(frame)} a step has no length.", values)
    said = f"The EF step is {ratio:.3g} times as long as the natural-gradient step"
    if _factor(ratio) <= thresholds.length:
        return Finding("length", "fine", f"{said}.", values)
    if _factor(ratio / noise) <= thresholds.length:
        text = f"{said}, but so it is for labels drawn from the model ({noise:.3g}): {_MORE}."
        return Finding("length", "unknown", text, values)
    text = f"{said} (with labels drawn from the model: {noise:.3g})."
    return Finding("length", "warning", text, {**values, "verdict": "distorted"})


def inversion(history: Sequence[Measurement], thresholds: Thresholds) -> Finding:
    """Finding: do EF steps grow while the gradient shrinks?"""
    gradient = np.array([m.gradient_norm for m in history])
    known = gradient > 0
    spread = gradient[known].max() / gradient[known].min() if known.any() else 1.0
    if known.sum() < _HISTORY or spread < 2:
        text = f"To be told from {_HISTORY} measurements, along which the gradient changes by a factor of 2."
        return Finding("inversion", "unknown", text)
    correlations = {}
    for kind in ("empirical", "exact"):
        norms = np.array([m.step_norm[kind] for m in history])
        correlations[kind] = float(scipy.stats.spearmanr(gradient[known], norms[known])[0])
    values = {"correlation": correlations["empirical"], "natural_correlation": correlations["exact"]}
    said = (
        f"Over {known.sum()} measurements the length of the EF step has the rank correlation "
        f"{correlations['empirical']:.2f} with the gradient norm (the natural-gradient step: "
        f"{correlations['exact']:.2f})"
    )
    worse = correlations["empirical"] < correlations["exact"] - 0.5
    if correlations["empirical"] < thresholds.correlation and worse:
        text = f"{said}: large gradient, small step; small gradient, large step."
        return Finding("inversion", "bad", text, {**values, "verdict": "inverted"})
    return Finding("inversion", "fine", f"{said}.", values)


def specification(frame: Frame, thresholds: Thresholds, seed: int = 0) -> Finding:
    """At a minimum: whether EF is F, direction by direction, by the eigenvalues of F⁻¹ EF.

    Never by their sum: 0.41 + 1.59 = 2 = 1 + 1.
    """
    above = int(np.sum(frame.values > frame.damping))
    size = min(thresholds.directions, above, frame.layout.examples // 10)
    if size == 0:
        text = "No direction is curved enough, or the examples are too few, to compare EF with F."
        return Finding("specification", "unknown", text)
    exact, empirical = _moments(frame, EXACT, size), _moments(frame, EMPIRICAL, size)
    # The noise of the gradient is EF, whether or not EF is F.
    gradient = frame.gradient[:size] / np.sqrt(frame.values[:size])
    square = gradient @ np.linalg.pinv(empirical.sum(0), hermitian=True) @ gradient
    noise = float(_effective_number(frame) * square / frame.total_weight / size)
    if noise > thresholds.gradient:
        text = (
            f"To be told at a minimum; here the gradient is {np.sqrt(noise):.3g} times what the noise of the "
            "examples makes of it."
        )
        return Finding("specification", "unknown", text, {"gradient_over_noise": noise})
    found = _ratios(empirical, exact)
    low, high = _interval(exact, empirical, found, thresholds, seed)
    null = np.array([_ratios(_moments(frame, key, size), exact) for key in draws(frame.layout)])
    larger, smaller = _beyond_chance(empirical - exact, thresholds, seed)
    larger &= found[-1] > max(thresholds.ratio, null[:, -1].max()) and low[-1] > 1
    smaller &= found[0] < min(1 / thresholds.ratio, null[:, 0].min()) and high[0] < 1
    values = {
        "eigenvalues": found[::-1].tolist(),
        "low": low[::-1].tolist(),
        "high": high[::-1].tolist(),
        "sampled_low": null.min(0)[::-1].tolist(),
        "sampled_high": null.max(0)[::-1].tolist(),
        "trace": float(found.sum()),
        "directions": size,
    }
    said = (
        f"The eigenvalues of F^-1 EF in the {size} most curved directions lie between {found[0]:.2f} "
        f"[{low[0]:.2f}, {high[0]:.2f}] and {found[-1]:.2f} [{low[-1]:.2f}, {high[-1]:.2f}] "
        f"({thresholds.confidence:.0%} intervals); all are 1 if the model describes the labels"
    )
    if larger or smaller:
        if found[-1] < thresholds.ratio**2 * found[0]:
            said += "; here by about one factor in all directions: the noise is not that of the loss"
        return Finding("specification", "bad", f"{said}.", {**values, "verdict": "misspecified"})
    if np.any(high > thresholds.ratio**2) or np.any(low < thresholds.ratio**-2):
        return Finding("specification", "unknown", f"{said}: too wide to tell, take more examples.", values)
    return Finding("specification", "fine", f"{said}.", values)


_MORE = "take more examples, or more damping"
_HISTORY = 5  # measurements, for a correlation to mean something
_VANISHED = 1e-12  # of a squared gradient over its noise: rounding


def _nothing(frame: Frame) -> str:
    certain = "F is zero here, as the model is certain of every label:"
    return "The gradient vanishes here:" if np.any(frame.values) else certain


def _factor(ratio: float) -> float:
    return max(ratio, 1 / ratio)


def _gradient_over_noise(frame: Frame) -> float:
    """N grad Lᵀ F⁻¹ ∇L for each direction, of the mean loss: 1 on average if only noise is left."""
    curved = frame.values > frame.damping
    square = np.sum(frame.gradient**2 / (frame.values + frame.damping))
    return float(_effective_number(frame) * square / frame.total_weight / max(int(np.sum(curved)), 1))


def _effective_number(frame: Frame) -> float:
    """N, for equal weights."""
    return float(1 / np.sum(frame.shares**2))


def _moments(frame: Frame, key: Any, size: int) -> np.ndarray:
    """Σ_r u_rn u_rnᵀ of each example in the first directions of the frame, whitened by F, `(N, k, k)`."""
    rows = frame.of(key)[:, :size] / np.sqrt(frame.values[:size])
    rows = rows.reshape(-1, frame.layout.examples, size)
    return np.einsum("rni,rnj->nij", rows, rows)


def _ratios(moments: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Eigenvalues of F⁻¹ M, ascending."""
    return scipy.linalg.eigh(moments.sum(0), exact.sum(0), eigvals_only=True)


def _beyond_chance(differences: np.ndarray, thresholds: Thresholds, seed: int) -> tuple[bool, bool]:
    """Excess of EF - F over its noise, or lack of it; `differences` is that of each example.

    The noise is that of sums with random signs (wild bootstrap), of their extreme eigenvalues, for as many
    directions as there are, and of their traces. A trace can convict here, but never clear.
    """
    examples, size = differences.shape[:2]
    total = differences.sum(0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(2 * thresholds.replicates, examples))
    noise = (signs @ (differences - total / examples).reshape(examples, -1)).reshape(-1, size, size)
    tail = (1 - thresholds.confidence) / 2
    values, null = np.linalg.eigvalsh(total), np.linalg.eigvalsh(noise)
    trace, traces = np.trace(total), np.trace(noise, axis1=1, axis2=2)
    larger = values[-1] > np.quantile(null[:, -1], 1 - tail) or trace > np.quantile(traces, 1 - tail)
    smaller = values[0] < np.quantile(null[:, 0], tail) or trace < np.quantile(traces, tail)
    return bool(larger), bool(smaller)


def _interval(
    exact: Any, empirical: Any, found: Any, thresholds: Thresholds, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Basic bootstrap over examples, of log eigenvalues: it also takes out that they repel each other."""
    examples, size = exact.shape[:2]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(examples, np.full(examples, 1 / examples), size=thresholds.replicates)
    b = (counts @ exact.reshape(examples, -1)).reshape(-1, size, size)
    a = (counts @ empirical.reshape(examples, -1)).reshape(-1, size, size)
    half = np.linalg.inv(np.linalg.cholesky(b))
    values = np.linalg.eigvalsh(half @ a @ np.swapaxes(half, 1, 2))
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    tail = (1 - thresholds.confidence) / 2
    lower, upper = np.quantile(logs, [tail, 1 - tail], axis=0)
    centre = np.log(np.maximum(found, np.finfo(np.float64).tiny))
    return np.exp(2 * centre - upper), np.exp(2 * centre - lower)
