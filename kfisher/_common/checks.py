"""Checks of arguments, and of values that are known only while the graph runs."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def positive_integer(name: str, value: Any) -> int:
    """`value`, or a `ValueError` that names it."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value}")
    return value


def probability(name: str, value: Any) -> float:
    """`value`, a float in [0, 1), or a `ValueError` that names it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ValueError(f"`{name}` must be a float in [0, 1). Received: {name}={value}")
    return value


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


def check_batch(**structures: Any) -> list[Any]:
    """The structures, in which all tensors have the same number of examples, and some.

    Args:
        **structures: Structures of tensors or `None`, by the name to use in the message.

    Returns:
        The same structures. Where a size is known only while the graph runs, nothing is made of their tensors
        before it is checked.

    Raises:
        ValueError: If the static shapes differ in the first axis, or it is 0.
        tf.errors.InvalidArgumentError: The same, for sizes known only while the graph runs.
    """
    tensors = {k: [t for t in keras.tree.flatten(s) if t is not None] for k, s in structures.items()}
    flat = [t for found in tensors.values() for t in found if t.shape.rank != 0]
    static = {t.shape[0] for t in flat}
    shapes = {k: [tuple(t.shape) for t in found] for k, found in tensors.items() if found}
    message = (
        "A batch must have the same number of examples throughout, and at least one. Received: "
        f"tensors of shapes {shapes}"
    )
    if len(static - {None}) > 1 or 0 in static:
        raise ValueError(message)
    if None not in static:
        return list(structures.values())
    sizes = [tf.shape(t)[0] for t in flat]
    good = (sizes[0] > 0) & tf.reduce_all(tf.equal(sizes, sizes[0]))
    assertion = tf.debugging.Assert(good, [message, sizes])

    def guarded(t):
        return t if t is None else tf.identity(t)

    with tf.control_dependencies([] if assertion is None else [assertion]):
        return [keras.tree.map_structure(guarded, s) for s in structures.values()]
