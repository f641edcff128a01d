"""Thresholds: where findings change their level, and why there."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from kfisher._common import checks

_LARGEST = sys.float_info.max
SOME = 64  # examples, from which on EF may be judged: the jackknife then knows its error to 9 %


@dataclass(frozen=True)
class Thresholds:
    """Where the findings change their level; the defaults and their reasons.

    Attributes:
        cosine: Steps whose cosine is below it point elsewhere. 0.7 is an angle of 45 degrees, at which as
            much of a step goes sideways as ahead.
        length: Factor between step lengths at the same damping. 3 is the usual distance between two
            learning rates of a search, so that a step that is off by more needs a search of its own.
        ratio: Factor between EF and F in one direction at a minimum. 1.25: with a curvature off by less, a
            Newton step leaves at most a quarter of the way to the minimum. EF is cleared where a factor of
            ratio² is excluded.
        confidence: Of all intervals and tests. Defaults to 0.95.
        replicates: Of bootstraps, and of the sets of labels that are drawn to see what chance does.
        examples: How many it takes for each direction in which F is above the damping. 10: the estimate of a
            matrix from n examples in k directions is off by about 2 √(k / n), 0.6 there; from fewer, every
            EF looks wrong.
        directions: How many directions are compared at a minimum, at most, the most curved ones first.
        gradient: A point is a minimum where the gradient is within its noise, and where ∇Lᵀ EF⁻¹ ∇L of the
            mean loss, its square over that noise in one example, is surely below this number. An
            offset from the minimum with the value a makes EF larger by up to 3 a (the fourth moment of a
            normal distribution), so 0.08 keeps that below `ratio` - 1.
        correlation: Rank correlation of step length and gradient norm; below it EF steps are long where the
            gradient is small. -0.5, of gradients that differ by a factor of 2 or more.

    Raises:
        ValueError: If one of them is out of its range.
    """

    cosine: float = 0.7
    length: float = 3.0
    ratio: float = 1.25
    confidence: float = 0.95
    replicates: int = 500
    examples: int = 10
    directions: int = 16
    gradient: float = 0.08
    correlation: float = -0.5

    def __post_init__(self) -> None:
        checks.number("cosine", self.cosine, -1, 1, "a float from -1 to 1")
        checks.number("length", self.length, 1, _LARGEST, "a finite float of at least 1")
        checks.number("ratio", self.ratio, 1, _LARGEST, "a finite float of at least 1")
        checks.between_0_and_1("confidence", self.confidence)
        checks.positive_integer("replicates", self.replicates)
        checks.positive_integer("examples", self.examples)
        checks.positive_integer("directions", self.directions)
        checks.positive("gradient", self.gradient)
        checks.number("correlation", self.correlation, -1, 1, "a float from -1 to 1")
