"""Loss, accuracy and the angle of the two natural gradients of a model as it is."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kfisher
from kfisher_scripts.common.directions import directions
from kfisher_scripts.comparison.problem import Data, Problem

# Rows of the exact system of the cosine.
_PROBE = 1200
# A gradient this much smaller than at the start is rounding, and has no direction.
_VANISHED = 1e-10


def size_of(x: Any) -> int:
    """How many examples there are."""
    return len(keras.tree.flatten(x)[0])


def first(x: Any, count: int) -> Any:
    """The first examples, as tensors, since Keras would round float64 arrays to float32."""
    return keras.tree.map_structure(lambda array: tf.constant(array[:count]), x)


def rows_of(model: keras.Model) -> int:
    """Of each example in the exact Fisher: C - 1 of a softmax; 2 of a model that declares no outputs."""
    outputs = getattr(model, "outputs", None)
    return max(1, outputs[0].shape[-1] - 1) if outputs else 2


def row_losses(model: keras.Model, problem: Problem, x: Any, y: Any) -> np.ndarray:
    """The loss of each example, of a model with one output."""
    x, y = first(x, size_of(x)), first(y, size_of(y))
    return np.asarray(problem.loss().call(y, model(x, training=False)))


class Evaluation:
    """Mean loss and accuracy (NaN without one) on examples."""

    def __init__(self, model: keras.Model, problem: Problem):
        self._model, self._correct = model, problem.correct

    @tf.function(autograph=False, reduce_retracing=True)
    def __call__(self, x, y):
        outputs = self._model(x, training=False)
        loss = self._model.compute_loss(x, y, outputs, training=False)
        if self._correct is None:
            return loss, tf.constant(math.nan)
        return loss, tf.reduce_mean(tf.cast(self._correct(outputs, y), tf.float32))


class Measurement:
    """What a row of a run holds: loss and accuracy on each part of the data, the error, and the cosine."""

    def __init__(self, model: keras.Model, problem: Problem, data: Data, damping: float | None):
        self._model, self._error = model, problem.error
        self._evaluate = Evaluation(model, problem)
        parts = {"": data[:2], "test_": data[2:4], "validation_": data[4:]}
        self._parts = {
            name: (first(x, size_of(x)), first(y, size_of(x))) if x is not None and size_of(x) else None
            for name, (x, y) in parts.items()
        }
        # The examples as they come: digits are not sorted by class, and regressions fit in whole.
        size = max(1, _PROBE // rows_of(model))
        self._probe = first(data.x, size), first(data.y, size)
        self._curvature = None if damping is None else kfisher.curvature.get(problem.curvature)
        self._damping = damping
        self._start: float | None = None

    def __call__(self) -> dict[str, float]:
        found = {}
        for name, part in self._parts.items():
            loss, accuracy = self._evaluate(*part) if part else (math.nan, math.nan)
            found |= {f"{name}loss": float(loss), f"{name}accuracy": float(accuracy)}
        return {**found, "error": self._error(self._model) if self._error else math.nan}

    def cosine(self) -> float:
        """cos of (EF + lambda I)^{-1} g and (F + lambda I)^{-1} g on the probe; NaN if it has no meaning."""
        if self._curvature is None:
            return math.nan
        cosine, _, norm = self._directions(*self._probe)
        if self._start is None:
            self._start = float(norm)
        return float(cosine) if norm > _VANISHED * self._start else math.nan

    @tf.function(autograph=False)
    def _directions(self, x, y):
        return directions(self._model, x, y, self._curvature, tf.constant(self._damping, tf.float64))
