"""Findings on the steps of the empirical Fisher, each on its own: a level, a sentence and the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.stats

from kfisher.diagnosis import chance
from kfisher.diagnosis.basis import Frame, curved_directions
from kfisher.diagnosis.measurement import Finding, Measurement
from kfisher.diagnosis.thresholds import SOME, Thresholds

_HISTORY = 5  # measurements, for a correlation to mean something
_LATE = 10  # the last measurements, in which it must still hold
_SHUFFLES = 2000  # of the history, for the correlation that chance makes
_VANISHED = 1e-12  # of a squared gradient over its noise: rounding


def sufficiency(now: Measurement, frame: Frame, thresholds: Thresholds) -> Finding:
    """Finding: are there enough examples for the directions that matter?

    "fine" where EF can be accused and cleared; "unknown" where it cannot be cleared, and from `SOME` examples
    on only be accused of what labels drawn from the model do not do on the very same examples. Of fewer it is
    neither, however few directions the damping leaves.
    """
    number, directions = chance.effective_number(frame), now.spectra["exact"].effective_dimension
    needed = max(int(np.ceil(thresholds.examples * directions)), SOME)
    values = {"examples": number, "directions": directions}
    size = f"the effective dimension of F at λ = {now.damping:.2g}"
    said = f"{number:.0f} examples for {directions:.1f} directions ({size})"
    if number >= needed:
        return Finding("sufficiency", "fine", f"{said} suffice.", values)
    text = f"{said} do not suffice: it takes {needed} (in `fit` by `probe=`, where a batch has fewer)"
    text += ", or a larger damping." if needed > SOME else "."
    if number >= SOME:
        text += " EF is only compared with labels drawn from the model for these examples."
    return Finding("sufficiency", "unknown", text, values)


class Steps:
    """What the findings on direction and length share.

    Args:
        history: Measurements of one training; the last is judged.
        frame: Where that came from.
        enough: The finding `sufficiency` on it.
    """

    def __init__(
        self, history: Sequence[Measurement], frame: Frame, enough: Finding, thresholds: Thresholds
    ) -> None:
        self.now, self.thresholds = history[-1], thresholds
        self.clears = enough.level == "fine"
        self.accuses = enough.values["examples"] >= SOME
        draws, confidence = frame.layout.counts["sampled"], thresholds.confidence
        self.margins = {
            name: chance.margin_of_draws(history, name, draws, confidence) for name in ("cosine", "step_norm")
        }
        self.nothing = _nothing(frame)
        cosine, ratio = self.now.cosine["empirical"], self.now.length_ratio
        known = not self.nothing and np.isfinite(cosine) and np.isfinite(ratio) and ratio > 0
        self.cosine, self.log_length = chance.ANY, chance.ANY
        if known and self.accuses:
            self.cosine, self.log_length = chance.over_examples(frame, cosine, ratio, confidence)
        if not known and not self.nothing:
            self.nothing = "A step vanishes here."


def direction(steps: Steps) -> Finding:
    """Finding: does the EF step point where the natural-gradient step does?"""
    now, thresholds = steps.now, steps.thresholds
    cosine, drawn, margin = now.cosine["empirical"], now.cosine["sampled"], steps.margins["cosine"]
    values = {"cosine": cosine, "sampled_cosine": drawn}
    if steps.nothing:
        return Finding("direction", "unknown", steps.nothing, values)
    said = (
        f"The cosine between the EF step and the natural-gradient step is {cosine:.2f}"
        f"{_interval(steps.cosine)} (with labels drawn from the model: {drawn:.2f} ± {margin:.2f})"
    )
    if steps.cosine.low > thresholds.cosine and steps.clears:
        return Finding("direction", "fine", f"{said}: above {thresholds.cosine:g}.", values)
    if steps.accuses and steps.cosine.high < thresholds.cosine and cosine < drawn - margin:
        if cosine < -margin and steps.cosine.high < 0:
            return Finding("direction", "bad", f"{said}: opposite.", {**values, "verdict": "opposite"})
        return Finding("direction", "warning", f"{said}.", {**values, "verdict": "distorted"})
    return Finding("direction", "unknown", f"{said}: {_SHORT}.", values)


def length(steps: Steps) -> Finding:
    """Finding: is it as long, at the same damping?"""
    now, thresholds = steps.now, steps.thresholds
    norm, ratio, margin = now.step_norm, now.length_ratio, steps.margins["step_norm"]
    drawn = norm["sampled"] / norm["exact"] if norm["exact"] else float("nan")
    values = {"length_ratio": ratio, "sampled_length_ratio": drawn}
    if steps.nothing:
        return Finding("length", "unknown", steps.nothing, values)
    low, high = steps.log_length
    said = (
        f"The EF step is {ratio:.3g}{_interval(chance.Interval(*np.exp([low, high])))} times as long as the "
        f"natural-gradient step (with labels drawn from the model: {drawn:.3g})"
    )
    limit = np.log(thresholds.length)
    if -limit <= low and high <= limit and steps.clears:
        text = f"{said}: within a factor of {thresholds.length:g}."
        return Finding("length", "fine", text, values)
    beyond = low > limit or high < -limit
    # Drawn labels of as few examples are off as well: EF is told of only where it is off by more.
    more = abs(np.log(ratio / drawn)) > margin and abs(np.log(ratio)) > abs(np.log(drawn))
    if steps.accuses and beyond and more:
        return Finding("length", "warning", f"{said}.", {**values, "verdict": "distorted"})
    return Finding("length", "unknown", f"{said}: {_SHORT}.", values)


def inversion(history: Sequence[Measurement], steps: Steps) -> Finding:
    """Finding: are EF steps long where the gradient is small, and short where it is large?"""
    gradient = np.array([m.gradient_norm for m in history])
    known = gradient > 0
    spread = gradient[known].max() / gradient[known].min() if known.any() else 1.0
    if known.sum() < _HISTORY or spread < 2:
        text = f"To be told from {_HISTORY} measurements, along which the gradient changes by a factor of 2."
        return Finding("inversion", "unknown", text)
    norms = {kind: np.array([m.step_norm[kind] for m in history])[known] for kind in ("empirical", "exact")}
    correlations = {kind: _correlation(gradient[known], of_kind) for kind, of_kind in norms.items()}
    late = _correlation(gradient[known][-_LATE:], norms["empirical"][-_LATE:])
    values = {"correlation": correlations["empirical"], "natural_correlation": correlations["exact"]}
    said = (
        f"Over {known.sum()} measurements the length of the EF step has the rank correlation "
        f"{correlations['empirical']:.2f} with the gradient norm (the natural-gradient step: "
        f"{correlations['exact']:.2f})"
    )
    if not steps.accuses:
        return Finding("inversion", "unknown", f"{said}: {_SHORT}.", values)
    limit = min(steps.thresholds.correlation, _by_chance(int(known.sum()), steps.thresholds.confidence))
    worse = _below(correlations["empirical"], correlations["exact"] - 0.5)
    if _below(correlations["empirical"], limit) and _below(late, steps.thresholds.correlation) and worse:
        text = f"{said}: large gradient, short step; small gradient, long step."
        return Finding("inversion", "bad", text, {**values, "verdict": "inverted"})
    return Finding("inversion", "fine", f"{said}.", values)


def _correlation(one: np.ndarray, two: np.ndarray) -> float:
    return float(scipy.stats.spearmanr(one, two)[0])


_SHORT = "that does not suffice to tell"


def _by_chance(count: int, confidence: float) -> float:
    """The rank correlation that unrelated numbers have or exceed, downwards, with 1 - confidence."""
    ranks = np.arange(count) - (count - 1) / 2
    shuffled = np.random.default_rng(0).permuted(np.tile(ranks, (_SHUFFLES, 1)), axis=1)
    return float(np.quantile(shuffled @ ranks / (ranks @ ranks), 1 - confidence))


def _below(correlation: float, limit: float) -> bool:
    """True if it is below, and not just that: of equal ones rounding would decide."""
    return correlation < limit - 1e-9


def _interval(interval: chance.Interval) -> str:
    known = np.all(np.isfinite(interval))
    return f" [{interval.low:.3g}, {interval.high:.3g}]" if known else ""


def _nothing(frame: Frame) -> str:
    """Why there is no step to speak of; empty if there is."""
    if not np.any(frame.values):
        return "F is zero here, as the model is certain of every label: a step has no direction."
    curved = curved_directions(frame)
    if not curved:
        return "The damping is larger than every eigenvalue of F, so that every step is the gradient."
    square = np.sum(frame.gradient**2 / (frame.values + frame.damping))
    # N ∇Lᵀ F⁻¹ ∇L for each direction, of the mean loss: 1 on average if only noise is left.
    if chance.effective_number(frame) * square / frame.total_weight / curved < _VANISHED:
        return "The gradient vanishes here: a step has no direction."
    return ""
