"""The finding at a minimum: is EF the curvature there, direction by direction?"""

from __future__ import annotations

import math

import numpy as np

from kfisher.diagnosis import chance
from kfisher.diagnosis.basis import Frame, curved_directions
from kfisher.diagnosis.measurement import Finding
from kfisher.diagnosis.thresholds import SOME, Thresholds


def specification(frame: Frame, thresholds: Thresholds, seed: int = 0) -> Finding:
    """At a minimum that is shown to be one: whether the eigenvalues of F⁻¹ EF are 1.

    Never by their sum: 0.41 + 1.59 = 2 = 1 + 1.
    """
    curved, number = curved_directions(frame), chance.effective_number(frame)
    if curved == 0:
        return _unknown("No direction is curved enough to compare EF with F.")
    needed = max(thresholds.examples * curved, SOME)
    if number < needed:
        return _unknown(
            f"A minimum is not shown: F has {curved} directions above the damping, which takes {needed} "
            "examples."
        )
    if not chance.holds_gradients(frame, rounding=1e-4):
        return _unknown(
            "A minimum is not shown: outputs or positions of an example weigh differently, and so its row of "
            "EF does not hold its gradient."
        )
    gradient = chance.gradient_over_noise(frame, curved, thresholds.confidence)
    values = {"gradient_over_noise": math.sqrt(gradient.found), "at_most": math.sqrt(gradient.bound)}
    if not gradient.within_noise:
        times = math.sqrt(number * gradient.found / curved)
        return _unknown(f"No minimum: the gradient is {times:.2g} times what noise makes of it.", values)
    whole, noise = chance.whole_gradient_over_noise(frame, thresholds.confidence, thresholds.replicates, seed)
    if whole > noise:  # also where the damping hides it: a minimum in some directions is none
        times = math.sqrt(whole)
        return _unknown(f"No minimum: in all directions the gradient is {times:.2g} times its noise.", values)
    if not gradient.bound < thresholds.gradient:
        return _unknown(
            f"A minimum is not shown: the gradient may be {math.sqrt(gradient.bound):.2g} times the noise of "
            f"one example, and up to {math.sqrt(thresholds.gradient):.2g} would do.",
            values,
        )
    if frame.layout.drawn:
        return _unknown(
            "F is itself estimated from drawn labels, and EF compared with it would be off by both."
        )
    # Less than noise makes of it nearly always: the weights were fitted to these very examples.
    fitted = gradient.bound == 0
    return _at_a_minimum(frame, min(thresholds.directions, curved), fitted, thresholds, seed)


def _at_a_minimum(frame: Frame, size: int, fitted: bool, thresholds: Thresholds, seed: int) -> Finding:
    moments = chance.moments(frame, size)
    confidence, replicates = thresholds.confidence, thresholds.replicates
    differences = moments.empirical - moments.exact
    found = 1 + np.linalg.eigvalsh(differences.sum(0))
    half = chance.half_width(differences, confidence, replicates, seed)
    drawn = chance.of_drawn_labels(frame, size, fitted, replicates)
    (least, most), sums = chance.extremes(drawn, confidence)
    low, high = np.maximum(found - half, 0), found + half
    # A sum beyond chance can convict, but none can clear: that of 0.4 and 1.6 is that of 1 and 1.
    beyond = found.sum() > sums.high, found.sum() < sums.low
    larger = found[-1] > thresholds.ratio and (found[-1] > most or beyond[0])
    smaller = found[0] < 1 / thresholds.ratio and (found[0] < least or beyond[1])
    values = {
        "smallest": float(found[0]),
        "largest": float(found[-1]),
        "eigenvalues": found[::-1].tolist(),
        "low": low[::-1].tolist(),
        "high": high[::-1].tolist(),
        "sampled_low": least,
        "sampled_high": most,
        "trace": float(found.sum()),
        "directions": size,
    }
    said = (
        f"At a minimum the eigenvalues of F⁻¹ EF in the {size} most curved directions (all above "
        f"λ = {frame.damping:.2g}) lie between {{}} and {{}}; all are 1 if the model describes the labels, "
        f"and for labels drawn from it they lie between {least:.2f} and {most:.2f}"
    )
    if larger or smaller:
        said = said.format(f"{found[0]:.2f}", f"{found[-1]:.2f}")
        said += f"; what tells: {_beyond(found, least, most, sums)}"
        if found[-1] < thresholds.ratio**2 * found[0]:
            said += "; here by about one factor in all directions: the noise is not that of the loss"
        return Finding("specification", "bad", f"{said}.", {**values, "verdict": "misspecified"})
    # Intervals over examples say how near to 1 they are, not whether labels drawn from the model do the same.
    ends = [f"{found[i]:.2f} [{low[i]:.2f}, {high[i]:.2f}]" for i in (0, -1)]
    said = said.format(*ends) + f" ({confidence:.0%} intervals)"
    if np.all(high <= thresholds.ratio**2) and np.all(low >= thresholds.ratio**-2):
        return Finding("specification", "fine", f"{said}.", values)
    wide = np.any((high - low > 1) | (high > thresholds.ratio**2 * low))
    why = "too wide to tell" if wide else "too close to what drawn labels do to tell"
    return Finding("specification", "unknown", f"{said}: {why}.", values)


def _beyond(found: np.ndarray, least: float, most: float, sums: chance.Interval) -> str:
    """Which of the numbers lie beyond those of drawn labels."""
    total = float(found.sum())
    cases = [
        (found[-1] > most, f"{found[-1]:.2f} is above those of drawn labels"),
        (found[0] < least, f"{found[0]:.2f} is below those of drawn labels"),
        (total > sums.high, f"their sum is {total:.3g}, and of drawn labels {sums.high:.3g} at most"),
        (total < sums.low, f"their sum is {total:.3g}, and of drawn labels {sums.low:.3g} at least"),
    ]
    return ", and ".join(text for holds, text in cases if holds)


def _unknown(text: str, values: dict | None = None) -> Finding:
    return Finding("specification", "unknown", text, values or {})
