"""Steps whose gradient is the mean over several batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.checks import integer
from kfisher._common.vectors import Tensors
from kfisher.jacobian.batch import Batch
from kfisher.optimizers import _skips


class Accumulation:
    """Gradients and losses of the batches of one step, until the last has come.

    Keras would add up gradients behind `apply`; here the sum must be there before the solve.

    Args:
        steps: `gradient_accumulation_steps`, an integer of at least 2, or `None`.

    Attributes:
        parts: In how many batches each step comes, 1 where nothing is accumulated.
    """

    def __init__(self, steps: Any):
        self.parts = _parts(steps)
        self._part: keras.Variable | None = None

    def build(self, optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable]) -> None:
        """Makes the state."""
        if self.parts > 1:
            self._sums = optimizer.add_optimizer_variables(variables, "gradient_sum")
            self._part = optimizer.add_variable((), dtype="int", name="part_of_step")
            self._loss = optimizer.add_variable((), dtype="float64", name="loss_sum")
            self._bad = optimizer.add_variable((_skips.LOSS,), dtype="int", name="bad_parts")

    def require_one_batch(self, step: str, damping: Any) -> None:
        """Raises if a step comes in several batches, and its quadratic model is wanted."""
        if self.parts > 1 and (step == "quadratic_model" or getattr(damping, "every", None) is not None):
            raise ValueError(
                "With `gradient_accumulation_steps` the quadratic model of a step would need all its batches "
                "at once. Use step='fixed', and another `damping` than LevenbergMarquardt. Received: "
                f"gradient_accumulation_steps={self.parts}, step={step!r}, damping={damping!r}"
            )

    def check(self, curvature: Any) -> None:
        """Raises if a step cannot be put together with this curvature."""
        if self.parts > 1 and not curvature.accumulates:
            raise ValueError(
                f"curvature={type(curvature).__name__} cannot take the Fisher of a step from several "
                "batches. Use a larger batch, or curvature='kfac' or 'diagonal'. Received: "
                f"gradient_accumulation_steps={self.parts}"
            )

    def part(self) -> tf.Tensor:
        """The number of the next batch among those of its step, from 0."""
        return tf.zeros((), tf.int32) if self._part is None else tf.cast(self._part.value, tf.int32)

    def bad(self, batch: Batch, alone: bool) -> tuple[tf.Tensor, int]:
        """The sum of `_skips.bad` over the parts of the step, or of `batch` alone, and how many these are."""
        if alone or self._part is None:
            return _skips.bad(batch), 1
        return tf.convert_to_tensor(self._bad.value), self.parts

    def begin_again(self) -> int:
        """Called when the gradient of a part was kept back: 1 if that was a step, which counts, else 0."""
        if self._part is None:
            return 1
        self._part.assign(0)
        return 0

    def add(
        self, batch: Batch, gradient: Tensors, loss: tf.Tensor, then: Callable[[Tensors, tf.Tensor], None]
    ) -> None:
        """Takes in a batch; `then` is called with the means over the step, once the last has come."""
        if self._part is None:
            then(gradient, loss)
            return
        first = tf.equal(self._part.value, 0)
        for total, g in zip(self._sums, gradient):
            kept = tf.where(first, tf.zeros_like(g), tf.convert_to_tensor(total.value))
            total.assign(kept + g / self.parts)
        known = tf.where(first, tf.zeros_like(loss), self._loss.value)
        self._loss.assign(known + loss / self.parts)
        bad = tf.cast(_skips.bad(batch), self._bad.dtype)
        self._bad.assign(tf.where(first, tf.zeros_like(bad), self._bad.value) + bad)
        mean = [tf.convert_to_tensor(total.value) for total in self._sums]
        mean_loss = tf.convert_to_tensor(self._loss.value)
        last = tf.equal(self._part.value, self.parts - 1)
        replicas.cond(last, lambda: then(mean, mean_loss), lambda: None)
        self._part.assign((self._part.value + 1) % self.parts)


def _parts(gradient_accumulation_steps: Any) -> int:
    if gradient_accumulation_steps is None:
        return 1
    kind = "an integer of at least 2, or None"
    return integer("gradient_accumulation_steps", gradient_accumulation_steps, kind, 2)
