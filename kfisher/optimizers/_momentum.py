"""Momentum: the gradient that is preconditioned is a running average."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import probability
from kfisher._common.vectors import Packing, Tensors

# The share of the past where F averages over batches, too, and the step is bounded.
_AUTO = 0.5


def share_of(momentum: Any, automatic: bool) -> float:
    """The share of the past; `"auto"` stands for one where that is `automatic`, else for none."""
    if isinstance(momentum, str) and momentum == "auto":
        return _AUTO if automatic else 0.0
    return probability("momentum", momentum, "'auto', or a float in [0, 1)")


class Momentum:
    """A running average of gradients, without bias towards its start at zero.

        w ← momentum w + 1 - momentum,    m ← m + (1 - momentum) / w (g - m)

    and m stands for the gradient. It is averaged before it is preconditioned: so the length of the step
    is known from the one solve, past steps included, and a step that the trust region shortens does not
    shorten what is remembered.

    Args:
        share: Float in [0, 1); 0 for the gradient itself, without any state.
        add_variable: That of the optimizer.
        variables: What the gradients are of.
    """

    def __init__(self, share: float, add_variable: Callable, variables: list[keras.Variable]):
        self._share, self._packing = share, Packing(variables)
        self._averages: list[keras.Variable] = []
        self._weight: Any = None
        if share:
            self._averages = self._packing.variables(add_variable, "momentum")
            self._weight = add_variable((), dtype="float64", name="momentum_weight")

    @property
    def variables(self) -> list[keras.Variable]:
        """All state; a step that is taken back puts it back."""
        return [*self._averages, self._weight] if self._share else []

    def vectors(self, gradient: Tensors) -> Tensors:
        """A gradient in the form of the averages; as it is, where there are none."""
        return self._packing.pack(gradient) if self._share else gradient

    def of_variables(self, vectors: Tensors) -> Tensors:
        """The same the other way round."""
        return self._packing.unpack(vectors) if self._share else vectors

    def averaged(self, gradient: Tensors) -> Tensors:
        """The average with `gradient` taken in; both in the form of the averages."""
        if not self._share:
            return gradient
        rate = (1 - self._share) / self._next_weight()
        old = [tf.convert_to_tensor(average.value) for average in self._averages]
        rates = {dtype: tf.cast(rate, dtype) for dtype in {m.dtype for m in old}}
        return [m + rates[m.dtype] * (g - m) for m, g in zip(old, gradient)]

    def keep(self, average: Tensors) -> None:
        """Called with what `averaged` returned, if the step is taken."""
        if self._share:
            for variable, value in zip(self._averages, average):
                variable.assign(value)
            self._weight.assign(self._next_weight())

    def _next_weight(self) -> tf.Tensor:
        return self._share * tf.convert_to_tensor(self._weight.value) + (1 - self._share)
