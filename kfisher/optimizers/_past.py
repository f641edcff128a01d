"""What a guard remembers of the batches so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf


class Past(NamedTuple):
    """The losses of the steps that were taken, and how the others went: float64 scalars.

    Attributes:
        judged: Steps in the average.
        level: Average loss, over about 20 steps.
        spread: Average distance of a loss from that.
        start: The average over the first steps.
        last: The loss of the last step.
        best: The lowest average, forgotten over 1000 steps.
        best_size: The size of the loss there, without what is rare.
        rare: By how much batches that were left behind exceed the average, over 1000 steps.
        confidence: 1, less after steps that were taken back.
        outliers: Batches out of proportion, left out or behind, in a row until now.
        accident: The longest row of them that an ordinary batch ended.
        higher: Batches in a row whose loss is far above the average, by no step's doing.
        can_return: Whether the last step can be taken back, 0 or 1.
    """

    judged: Any
    level: Any
    spread: Any
    start: Any
    last: Any
    best: Any
    best_size: Any
    rare: Any
    confidence: Any
    outliers: Any
    accident: Any
    higher: Any
    can_return: Any

    @property
    def own_size(self) -> tf.Tensor:
        """How large the loss of most batches is: the average or its spread, whichever is larger."""
        return tf.maximum(tf.abs(self.level), self.spread)

    @property
    def size(self) -> tf.Tensor:
        """s, how large the loss is, with what is rare."""
        return self.own_size + self.rare

    @property
    def size_at_best(self) -> tf.Tensor:
        """s', where the average was lowest, with what is rare now."""
        return self.best_size + self.rare


_NONE = Past(*(0.0,) * len(Past._fields))._replace(confidence=1.0)


class Memory:
    """A `Past` in one variable: it is read and written by few operations, and few are soon traced.

    Args:
        add_variable: That of the optimizer.
    """

    def __init__(self, add_variable: Callable):
        self.variable = add_variable(
            (len(_NONE),), lambda shape, dtype: tf.constant(_NONE, dtype), dtype="float64", name="past"
        )

    def read(self) -> Past:
        """As it is now."""
        return Past(*tf.unstack(tf.convert_to_tensor(self.variable.value)))

    def change(self, **numbers: Any) -> None:
        """Gives some of it other values."""
        self.keep(self.read()._replace(**numbers))

    def keep(self, past: Past) -> None:
        """Gives all of it other values."""
        self.variable.assign(tf.stack([tf.cast(number, tf.float64) for number in past]))
