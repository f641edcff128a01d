"""What is due to be measured: one measurement may wait, and of those that were not made it is known why."""

from __future__ import annotations

import collections

from kfisher.callbacks._schedule import Budget

TIME, SHAPE, TOGETHER, FAILED, END = "time", "shape", "together", "failed", "end"
_WHY = {
    SHAPE: "came with a batch of another size or length than those measured, or the last of an epoch",
    TOGETHER: "were due in one call of the training function with others (steps_per_execution)",
    FAILED: "could not be made",
    END: "waited for weights, or when `fit` ended",
}


class Due:
    """Counts measurements that are due.

    Attributes:
        waiting: Whether one is to be made as soon as possible; what comes due meanwhile takes its place.
    """

    def __init__(self) -> None:
        self.waiting = False
        self._made, self._lost = 0, collections.Counter[str]()
        self._why = END

    def add(self, count: int) -> None:
        """So many more, in one call of the training function."""
        if count:
            self._lost[self._why] += self.waiting
            self._lost[TOGETHER] += count - 1
            self.waiting, self._why = True, END

    def wait(self, why: str) -> None:
        """The one that waits was put off."""
        self._why = why

    def made(self) -> None:
        """The one that waits was made."""
        self._made += 1
        self.waiting = False

    def drop(self, why: str | None = None) -> None:
        """The one that waits will not be made."""
        self._lost[why or self._why] += self.waiting
        self.waiting = False

    def left_out(self, budget: Budget) -> str:
        """Which measurements were not made, and why, in a sentence; empty if all were."""
        lost = self._lost + collections.Counter({self._why: int(self.waiting)})
        if not lost:
            return ""
        why = {TIME: budget.limit, **_WHY}
        reasons = "; ".join(f"{lost[name]} {text}" for name, text in why.items() if lost[name])
        due = self._made + lost.total()
        return f"{self._made} of the {due} measurements that were due were made: {reasons}."
