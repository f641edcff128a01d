"""The reference numbers, as printed: the digits of a string are those that can be compared.

Best cells and accuracies are the paper's; the others are those of an independent float64 reproduction of it.
"""

from __future__ import annotations

import math


def units_off(value: float, text: str) -> float:
    """By how many units of its last digit a printed number differs from a measured one, rounded alike."""
    if not math.isfinite(value):
        return math.inf
    mantissa, _, exponent = text.partition("e")
    digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return abs(round(value * 10.0**digits) - round(float(text) * 10.0**digits))


# Experiment B, at the minimum (N = 1000). `angle` is printed for one data set only.
AT_MINIMUM: dict[str, dict[str, str]] = {
    "logistic, correct":
        {"accuracy": ".733", "distance": ".083", "low": ".88", "high": "1.05", "trace": "1.93"},
    "logistic A":
        {"accuracy": ".856", "distance": ".553", "low": "1.38", "high": "1.64", "trace": "3.02"},
    "logistic B":
        {"accuracy": ".852", "distance": ".593", "low": ".41", "high": "1.59", "trace": "2.00",
         "angle": "91"},
    "linear, correct": {"distance": ".068", "low": ".91", "high": ".98", "trace": "1.89"},
    "linear, noise": {"distance": "2.77", "low": "3.64", "high": "3.93", "trace": "7.56"},
    "linear, missing x²": {"distance": "1.45", "low": "1.41", "high": "3.04", "trace": "4.45"},
}  # fmt: skip

# Experiment C: log10 of the best (step size, damping), as printed in the paper.
BEST_CELLS: dict[str, dict[str, tuple[float, float | None]]] = {
    "BreastCancer": {"GD": (-5.125, None), "NGD": (0.125, -10), "EF": (-1.25, -10)},
    "a1a": {"GD": (0.25, None), "NGD": (0.25, -10), "EF": (-0.375, -8)},
    "Boston": {"GD": (-5.25, None), "NGD": (0.125, -10), "EF": (-1.25, -8)},
    "Wine": {"GD": (-5.625, None), "NGD": (0, -8.5), "EF": (-1.375, -6)},
    "Energy": {"GD": (-5.5, None), "NGD": (0, -7.5), "EF": (0.875, -3)},
    "Powerplant": {"GD": (-5.75, None), "NGD": (-0.625, -8), "EF": (3.375, -1)},
    "Yacht": {"GD": (-1.5, None), "NGD": (-0.75, -7.5), "EF": (1.625, -6.5)},
}

# Where a sign of a printed cell must be the other one: at 10^-1.25 hardly anything is learned on Boston.
OTHER_SIGN: dict[str, dict[str, tuple[float, float | None]]] = {"Boston": {"EF": (1.25, -8)}}

# The loss at iterations of the best run; of independent float64 reproductions.
LOSSES: dict[str, dict[str, dict[int, str]]] = {
    "BreastCancer": {"GD": {0: ".6931", 100: ".4647"}, "NGD": {100: "5.158e-4"}, "EF": {100: "1.040e-2"}},
    "Wine": {
        "GD": {1: ".583", 25: ".463", 50: ".424", 100: ".3626"},
        "NGD": {1: ".02984", 100: ".02984"},
        "EF": {1: ".712", 25: ".262", 50: ".0310", 100: ".02984"},
    },
    "a1a": {"GD": {100: ".3248"}},
    "Boston": {"GD": {100: "38.75"}, "NGD": {100: "10.947"}, "EF": {100: "10.947"}},
}

# Along EF's own path on Wine: the least cosine of EF step and natural-gradient step, and where; the cosine
# that is exceeded at iteration 60; the ratio of the lengths of the two directions at iterations 0 and 50.
WINE = {"cosine": "-.21", "iteration": 36, "cosine at 60": 0.99, "ratio at 0": ".27", "ratio at 50": "8.4"}
# Along EF's path on Boston: "at first in the wrong direction". Printed as about -1.
BOSTON_COSINE = -1

# Printed cells that are not the best ones of the grid, nor tie with them: see the notes in `tables.best`.
NOT_BEST = {("Boston", "EF"), ("Powerplant", "EF")}
