"""When to measure: at which steps, and how much of the time it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from kfisher._common.checks import number, positive_integer

Frequency = int | str | Callable[[int], bool]


def is_due(frequency: Frequency, first: int, count: int, epoch_begins: bool) -> bool:
    """True if one of the steps `first`, ..., `first + count - 1` is to be measured."""
    if frequency == "epoch":
        return epoch_begins
    if isinstance(frequency, int):
        return -first % frequency < count
    chosen = frequency if callable(frequency) else _logarithmic
    return any(chosen(step) for step in range(first, first + count))


def _logarithmic(step: int) -> bool:
    """Each of the first eight steps, and then eight in each doubling."""
    return step < 8 or math.floor(8 * math.log2(step)) != math.floor(8 * math.log2(step - 1))


def checked_frequency(name: str, frequency: Any) -> Frequency:
    """A frequency, NumPy's integers as Python's."""
    if frequency in ("epoch", "logarithmic") if isinstance(frequency, str) else callable(frequency):
        return frequency
    kind = "a positive integer, 'epoch', 'logarithmic', or a function of the step that returns a bool"
    return positive_integer(name, frequency, kind)


def checked_share(name: str, share: Any) -> float | None:
    """A share of the time, or `None` for all of it."""
    if share is None:
        return None
    found = number(name, share, 0.0, 1.0, "a float in (0, 1], or None")
    return found if found else number(name, share, 1.0, 1.0, "a float in (0, 1], or None")


class Budget:
    """Keeps what is spent below a share of the time of training.

    Args:
        share: Float in (0, 1], or `None` for no limit.

    Attributes:
        elapsed: Seconds of training so far, over several calls of `fit`.
        spent: Seconds of them that were charged.
    """

    def __init__(self, share: float | None):
        self._share = share
        self.elapsed = self.spent = self._last = 0.0
        self._seen = time.perf_counter()

    def start(self) -> None:
        """Time goes on from here: what lies between two calls of `fit` is none of training."""
        self._seen = time.perf_counter()

    def tick(self) -> None:
        """Counts the time since the last look."""
        now = time.perf_counter()
        self.elapsed += now - self._seen
        self._seen = now

    def allows(self) -> bool:
        """True if another measurement like the last one keeps within the share; the first is free."""
        self.tick()
        return self._share is None or self.spent + self._last <= self._share * (self.elapsed + self._last)

    def charge(self, seconds: float) -> None:
        """Counts a measurement."""
        self.spent += seconds
        self._last = seconds
