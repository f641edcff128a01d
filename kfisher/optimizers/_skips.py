"""Steps that are left out: which ones would spoil the weights, and what was seen in those that were."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common import replicas
from kfisher.jacobian.batch import Batch

# The first that holds is counted.
CAUSES = (
    "the inputs, labels or sample weights were not finite",
    "all sample weights were zero",
    "the loss was not finite, although the batch was",
    "the gradient was not finite, although the loss was (an overflow)",
    "the solve was not finite or had no curvature yet (raise `damping`)",
    "the update was not finite (look at the learning rate and the weight decay)",
    "the loss was out of all proportion",
)


def stays_finite(optimizer: Any, steps: list, variables: list[keras.Variable]) -> tf.Tensor:
    """True if the weights are finite after a step: with what it adds, and what weight decay takes away.

    The steps themselves are finite. A rate of at most 1 makes nothing of them that is not: no pass over
    the weights is taken then.
    """
    rate = tf.convert_to_tensor(optimizer.learning_rate)

    def every_weight() -> tf.Tensor:
        finite = []
        for step, variable in zip(steps, variables):
            if step is not None:
                before = tf.convert_to_tensor(variable.value)
                after = before + optimizer.added(step, variable, rate)
                if optimizer.weight_decay is not None:
                    decay = tf.cast(optimizer.weight_decay, before.dtype) * tf.cast(rate, before.dtype)
                    after -= before * decay
                finite.append(tf.reduce_all(tf.math.is_finite(after)))
        return tf.reduce_all(finite)

    half = any(tf.as_dtype(v.dtype).size < 4 for v in variables)  # which overflows at 65504
    if half or (optimizer.weight_decay or 0) > 1:
        return every_weight()
    # Explicitly not NaN: for it no comparison holds.
    return tf.cond(tf.abs(rate) <= 1, lambda: tf.constant(True), every_weight)


def cause(
    batch: Batch, loss: tf.Tensor, gradient: list, solved: tf.Tensor | bool, outlier: tf.Tensor | bool
) -> tf.Tensor:
    """The place in `CAUSES` of what is wrong with a step that is left out.

    Args:
        batch: The last batch of the step.
        loss, gradient: Of all its batches.
        solved: Whether its solve was finite.
        outlier: Whether the guard left it out.
    """
    weights = keras.tree.flatten(batch.sample_weight)
    no_weight = [tf.reduce_all(tf.equal(w, 0)) for w in weights if w is not None]
    seen = (
        ~_finite([batch.x, batch.y, batch.sample_weight]),
        tf.reduce_all(no_weight) if no_weight else tf.constant(False),
        ~tf.math.is_finite(loss),
        ~_finite(gradient),
        ~tf.convert_to_tensor(solved),
        ~tf.convert_to_tensor(outlier),
    )
    if replicas.count() > 1:  # what spoils a part spoils the step; it takes all parts to have no weight
        somewhere = replicas.total([tf.cast(seen, tf.int32)])[0]
        needed = tf.one_hot(1, len(seen), replicas.count(), 1, dtype=tf.int32)
        seen = tuple(tf.unstack(somewhere >= needed, len(seen)))
    found = tf.constant(len(CAUSES) - 1)
    for place, holds in reversed(list(enumerate(seen))):
        found = tf.where(holds, place, found)
    return found


def report(optimizer: Any, counts: np.ndarray, known: Any) -> np.ndarray:
    """Warns of steps that were left out beyond those that are `known`, by what was seen; returns `counts`."""
    new = counts - (0 if known is None else known)
    if new.any():
        seen = "; ".join(f"in {n}, {text}" for n, text in zip(new, CAUSES) if n)
        steps = int(optimizer.iterations.numpy())
        warnings.warn(
            f"{type(optimizer).__name__} skipped {new.sum()} of {steps} steps: {seen}.", stacklevel=3
        )
    return counts


def _finite(structure: Any) -> tf.Tensor:
    tensors = [t for t in keras.tree.flatten(structure) if t is not None and t.dtype.is_floating]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(t)) for t in tensors])
