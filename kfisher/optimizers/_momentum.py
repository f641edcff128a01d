"""Momentum: the gradient that is preconditioned is a running average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import probability
from kfisher._common.vectors import Tensors

# The share of the past where F averages over batches, too, and the step is bounded.
_AUTO = 0.5


def share_of(momentum: Any, automatic: bool) -> float:
    """The share of the past; `"auto"` stands for one where that is `automatic`, else for none."""
    if isinstance(momentum, str) and momentum == "auto":
        return _AUTO if automatic else 0.0
    return probability("momentum", momentum, "'auto', or a float in [0, 1)")


class Momentum:
    """A running average of gradients, without bias towards its start at zero.

        m ← momentum m + (1 - momentum) g,    w ← momentum w + (1 - momentum)

    and m / w stands for the gradient. It is averaged before it is preconditioned: so the length of the step
    is known from the one solve, past steps included, and a step that the trust region shortens does not
    shorten what is remembered.

    Args:
        share: Float in [0, 1); 0 for the gradient itself, without any state.
        add_like, add_variable: `add_optimizer_variables` and `add_variable` of the optimizer.
        variables: What the gradients are of.
    """

    def __init__(self, share: float, add_like: Callable, add_variable: Callable, variables: list):
        self._share = share
        self.averages: list[keras.Variable] = add_like(variables, "momentum") if share else []
        self._weight: Any = None
        if share:
            self._weight = add_variable(
                (), dtype="float64", aggregation="only_first_replica", name="momentum_weight"
            )

    @property
    def variables(self) -> list[keras.Variable]:
        """All state; a step that is taken back puts it back."""
        return [*self.averages, self._weight] if self._share else []

    def averaged(self, gradient: Tensors) -> Tensors:
        """m / w with `gradient` taken in."""
        weight = self._mixed(self._weight, 1.0) if self._share else None
        return [m / tf.cast(weight, m.dtype) for m in self._with(gradient)] if self._share else gradient

    def keep(self, gradient: Tensors) -> None:
        """Called when the step is taken."""
        if self._share:
            for average, value in zip(self.averages, self._with(gradient)):
                average.assign(value)
            self._weight.assign(self._mixed(self._weight, 1.0))

    def _with(self, gradient: Tensors) -> Tensors:
        return [self._mixed(m, g) for m, g in zip(self.averages, gradient)]

    def _mixed(self, average: keras.Variable, value: Any) -> tf.Tensor:
        old = tf.convert_to_tensor(average.value)
        return old + (1 - self._share) * (tf.cast(value, old.dtype) - old)
