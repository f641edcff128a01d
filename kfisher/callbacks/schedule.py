"""When to measure: at which steps, and how much of the time it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

Frequency = int | str | Callable[[int], bool]


def is_due(frequency: Frequency, first: int, count: int, epoch_begins: bool) -> bool:
    """Whether one of the steps `first`, ..., `first + count - 1` is to be measured."""
    if frequency == "epoch":
        return epoch_begins
    if isinstance(frequency, int):
        return -first % frequency < count
    chosen = frequency if callable(frequency) else _logarithmic
    return any(chosen(step) for step in range(first, first + count))


def _logarithmic(step: int) -> bool:
    """Each of the first eight steps, and then eight in each doubling."""
    return step < 8 or math.floor(8 * math.log2(step)) != math.floor(8 * math.log2(step - 1))


def check_frequency(name: str, frequency: Any) -> None:
    """Raises unless it is one."""
    known = frequency in ("epoch", "logarithmic") or callable(frequency)
    integer = isinstance(frequency, int) and not isinstance(frequency, bool) and frequency > 0
    if not known and not integer:
        raise ValueError(
            f"`{name}` must be a positive integer, 'epoch', 'logarithmic', or a function of the step that "
            f"returns a bool. Received: {name}={frequency!r}"
        )


class Budget:
    """Keeps what is spent below a share of the time since it was made.

    Args:
        share: Float in (0, 1], or `None` for no limit.
    """

    def __init__(self, share: float | None):
        self._share = share
        self._started = time.perf_counter()
        self.spent = 0.0
        self._last = 0.0

    @property
    def elapsed(self) -> float:
        """Seconds since it was made."""
        return time.perf_counter() - self._started

    def allows(self) -> bool:
        """Whether another measurement like the last one keeps within the share; the first is free."""
        if self._share is None:
            return True
        return self.spent + self._last <= self._share * (self.elapsed + self._last)

    def charge(self, seconds: float) -> None:
        """Counts a measurement."""
        self.spent += seconds
        self._last = seconds
