"""Sums over many tensors, some of them small, with few operations."""

from __future__ import annotations

import tensorflow as tf

_LARGE = 16384  # entries of a tensor, from which on its own operations pay


def few(tensors: list[tf.Tensor]) -> list[tf.Tensor]:
    """Tensors with all small ones in one: an operation on a bias costs as much as on a kernel."""
    large = [t for t in tensors if t.shape.num_elements() >= _LARGE]
    small: dict[tf.DType, list[tf.Tensor]] = {}
    for t in tensors:
        if t.shape.num_elements() < _LARGE:
            small.setdefault(t.dtype, []).append(tf.reshape(t, [-1]))
    return large + [tf.concat(pieces, 0) for pieces in small.values()]


def squares_of(tensors: list[tf.Tensor]) -> tf.Tensor:
    """The square of the length of each, in float64, `(len(tensors),)`."""
    halves = [tf.nn.l2_loss(t) for t in tensors]
    if len({h.dtype for h in halves}) > 1:
        halves = [tf.cast(h, tf.float64) for h in halves]
    return 2 * tf.cast(tf.stack(halves), tf.float64)
