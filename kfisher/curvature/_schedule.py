"""When running averages, and what is made of them, are made anew."""

from __future__ import annotations

import keras
import tensorflow as tf


def due(step: tf.Tensor, every: int) -> tf.Tensor:
    """True if `step` is a multiple of `every`, or below it a power of two: curvature changes fast early."""
    power = tf.equal(tf.bitwise.bitwise_and(step, step - 1), 0)
    return tf.equal(step % every, 0) | (power & (step < every))


def is_far(path: keras.Variable, every: int) -> tf.Tensor:
    """True if the weights have gone half as far as in `every` steps of full length."""
    return path.value >= max(1.0, every / 2)
