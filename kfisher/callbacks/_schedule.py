"""When to measure: at which steps, and how much of the time it may take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from kfisher._common.checks import number, positive_integer

Frequency = int | str | Callable[[int], bool]


def is_due(frequency: Frequency, step: int) -> bool:
    """True if a step is to be measured, by any frequency but "epoch"."""
    if isinstance(frequency, int):
        return step % frequency == 0
    return bool(frequency(step) if callable(frequency) else _logarithmic(step))


def due_steps(frequency: Frequency, first: int, count: int, epoch_begins: bool) -> int:
    """How many of the steps `first`, ..., `first + count - 1` are to be measured."""
    if frequency == "epoch":
        return int(epoch_begins)
    return sum(is_due(frequency, step) for step in range(first, first + count))


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


ALLOWANCE = 30.0  # seconds: what the first measurements may take together, whatever their share
_RATIO = 1.65  # between the steps by which one more of them may have been made


def first_measurements(step: int) -> int:
    """How many measurements a run may have had by a step, whatever their share of the time.

    Eleven in a hundred steps and twenty in ten thousand, the closer together the earlier.
    """
    return 1 if step < 1 else 2 + math.floor(math.log(step) / math.log(_RATIO) + 1e-9)


class Budget:
    """Keeps what is spent below a share of the time of training, but for a start-up allowance.

    Args:
        share: Float in (0, 1], or `None` for no limit.

    Attributes:
        elapsed: Seconds of training so far, over several calls of `fit`.
        spent: Seconds of them that were charged.
        taken: Measurements so far.
    """

    def __init__(self, share: float | None):
        self._share = share
        self.elapsed = self.spent = 0.0
        self.taken = 0
        self._last = self._measured = 0.0  # without tracing
        self._seen = time.perf_counter()

    def start(self) -> None:
        """Time goes on from here: what lies between two calls of `fit` is none of training."""
        self._seen = time.perf_counter()

    def tick(self) -> None:
        """Counts the time since the last look."""
        now = time.perf_counter()
        self.elapsed += now - self._seen
        self._seen = now

    def allows(self, step: int) -> bool:
        """True if another measurement like the last one keeps within the share or the allowance."""
        self.tick()
        if self._share is None or self.spent + self._last <= self._share * (self.elapsed + self._last):
            return True
        return self.taken < first_measurements(step) and self._measured + self._last <= ALLOWANCE

    def charge(self, seconds: float, traced: bool = False) -> None:
        """Counts a measurement; of one that had to be traced first, nobody knows what the next will take."""
        self.taken += 1
        self.spent += seconds
        if not traced:
            self._last = seconds
            self._measured += seconds

    def add(self, seconds: float, each: bool = False) -> None:
        """Counts what came with a measurement (with `each`, if so), or one that could not be made."""
        self.spent += seconds
        self._measured += seconds
        self._last += seconds * each

    @property
    def limit(self) -> str:
        """Why measurements were put off by it."""
        share = f"{100 * (self._share or 1):.3g} % of the time"
        return f"would have taken more than {share}, one {self._last:.2g} s (max_overhead)"
