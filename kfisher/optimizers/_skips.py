"""Steps that are left out: which ones would spoil the weights, and what was seen in those that were."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common import replicas
from kfisher.jacobian.batch import Batch

# The first that holds is counted. Of those before the loss no setting of an optimizer is the cause.
NO_WEIGHT, LOSS, OVERFLOW, OUTLIER = 3, 4, 5, 8
CAUSES = (
    "the inputs were not finite",
    "the labels were not finite",
    "the sample weights were not finite",
    "all sample weights were zero",
    "the loss was not finite, although the batch was",
    "the gradient was not finite, although the loss was (an overflow)",
    "the solve was not finite or had no curvature yet (raise `damping`, if it has one)",
    "the update was not finite (look at the learning rate and the weight decay)",
    "the loss was out of all proportion (outliers among inputs, labels or weights, or other data)",
)


# A length that float32 holds many times over, and a factor that brings no usual weight near overflow.
_FAR, _OFTEN = 1e30, 1e6


def stays_finite(
    optimizer: Any, steps: list, variables: list[keras.Variable], longest: tf.Tensor
) -> tf.Tensor:
    """True if the weights are finite after a step: with what it adds, and what weight decay takes away.

    In half precision, which overflows at 65504, all are looked at. Else it is enough that the step is far
    shorter than the largest number, and that decay multiplies no weight by one as large.

    Args:
        optimizer: What takes the step.
        steps: What it multiplies and adds; `None` for variables that stay.
        variables: To which.
        longest: A bound for what is added to a weight, a scalar.
    """
    rate = tf.convert_to_tensor(optimizer.learning_rate)
    decay = (optimizer.weight_decay or 0.0) * rate
    if all(tf.as_dtype(v.dtype).size >= 4 for v in variables):
        # Both hold explicitly: for NaN no comparison does.
        return (longest <= _FAR) & (tf.abs(decay) <= _OFTEN)
    finite = []
    for step, variable in zip(steps, variables):
        if step is not None:
            before = tf.convert_to_tensor(variable.value)
            after = before + optimizer.added(step, variable, rate) - before * tf.cast(decay, before.dtype)
            finite.append(tf.reduce_all(tf.math.is_finite(after)))
    return tf.reduce_all(finite)


def bad(batch: Batch) -> tf.Tensor:
    """Which of the causes before the loss hold for a batch, ones and zeros, int32."""
    weights = keras.tree.flatten(batch.sample_weight)
    no_weight = [~tf.reduce_any(tf.cast(w, tf.bool)) for w in weights if w is not None]
    seen = (
        ~_finite(batch.x),
        ~_finite(batch.y),
        ~_finite(batch.sample_weight),
        tf.reduce_all(no_weight) if no_weight else tf.constant(False),
    )
    return tf.cast(seen, tf.int32)


def cause(
    bad_parts: tf.Tensor,
    parts: int,
    loss: tf.Tensor,
    gradient: list,
    solved: tf.Tensor | bool,
    outlier: tf.Tensor | bool,
) -> tf.Tensor:
    """The place in `CAUSES` of what is wrong with a step that is left out.

    Args:
        bad_parts: The sum of `bad` over its batches.
        parts: How many these are.
        loss, gradient: Of all of them.
        solved: Whether its solve was finite.
        outlier: Whether the guard left it out.
    """
    after = (
        ~tf.math.is_finite(loss),
        ~_finite(gradient),
        ~tf.cast(solved, tf.bool),
        ~tf.cast(outlier, tf.bool),
    )
    counts = tf.concat([tf.cast(bad_parts, tf.int32), tf.cast(after, tf.int32)], 0)
    counts = replicas.total([counts])[0] if replicas.count() > 1 else counts
    # What spoils a part spoils the step; it takes all parts to have no weight.
    every = parts * replicas.count()
    needed = tf.one_hot(NO_WEIGHT, counts.shape[0], every, 1, dtype=tf.int32)
    seen = tf.unstack(counts >= needed)
    found = tf.constant(len(CAUSES) - 1)
    for place, holds in reversed(list(enumerate(seen))):
        found = tf.where(holds, place, found)
    return found


def report(optimizer: Any, counts: np.ndarray, known: Any) -> np.ndarray:
    """Warns of steps that were left out beyond those that are `known`, by what was seen; returns `counts`."""
    new = counts - (0 if known is None else known)
    if new.any():
        steps = int(optimizer.iterations.numpy())
        # Of a step in parts one may have been kept back, which is counted for itself.
        skipped = (
            f"{new.sum()} of {steps} steps" if optimizer.parts_of_step == 1 else f"{new.sum()} steps or parts"
        )
        warnings.warn(f"{type(optimizer).__name__} skipped {skipped}: {told(new)}.", stacklevel=3)
    return counts


def told(counts: np.ndarray) -> str:
    """What was seen in how many steps that were left out, in words."""
    return "; ".join(f"in {n}, {text}" for n, text in zip(counts, CAUSES) if n)


def _finite(structure: Any) -> tf.Tensor:
    tensors = [t for t in keras.tree.flatten(structure) if t is not None and t.dtype.is_floating]
    return tf.reduce_all([tf.constant(True), *(tf.reduce_all(tf.math.is_finite(t)) for t in tensors)])
