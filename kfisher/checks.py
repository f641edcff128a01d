"""Checks of values that are known only while the graph runs."""

from __future__ import annotations

import tensorflow as tf


def checked(values: tf.Tensor, valid: tf.Tensor, message: str) -> tf.Tensor:
    """`values`, or an error with `message` if `valid` does not hold everywhere.

    XLA drops assertions, so invalid values also turn into NaN: the optimizer then skips the step and
    counts it, and no weight changes either way.

    Args:
        values: Floating tensor.
        valid: Boolean tensor that broadcasts to `values`.
        message: String, what is wrong and what to do.

    Raises:
        tf.errors.InvalidArgumentError: With `message`, where some entry is not valid.
    """
    assertion = tf.debugging.Assert(tf.reduce_all(valid), [message])
    with tf.control_dependencies([assertion] if assertion is not None else []):
        return tf.where(valid, values, tf.constant(float("nan"), values.dtype))
