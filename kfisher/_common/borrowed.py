"""Examples for a replica that has none: borrowed from another, and counted for nothing."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kfisher._common import places, replicas


def filled(structure: Any) -> tuple[Any, dict[str, tf.Tensor]]:
    """Tensors with the examples of this replica in their first axes, and what is known of these.

    Where a batch has fewer examples than there are replicas, some have none, which no convolution and no mean
    can take. Such a one borrows an example, which counts for nothing. Where each has its own, nothing but
    their number crosses; nor that where the graph is made for batches of one size.

    Returns:
        The structure; and `counts`, a boolean scalar, whether they count, and `sizes`, `(R,)`, how many each
        replica has of its own. Nothing of these with a single replica, where all count; and `sizes` alone
        where they are those of the graph, which `_replicated.whole` makes sure of.
    """
    tensors = [t for t in keras.tree.flatten(structure) if _has_rows(t)]
    if replicas.count() == 1 or not tensors:
        return structure, {}
    if tensors[0].shape[0] and not tf.executing_eagerly():
        return structure, {"sizes": tf.fill([replicas.count()], tensors[0].shape[0])}
    sizes = places.sizes(tf.shape(tensors[0])[0])
    own = sizes[replicas.index()] > 0
    lender = tf.cast(tf.argmax(sizes), tf.int32)

    def borrow() -> list[tf.Tensor]:
        return [
            tf.cond(own, lambda t=t: t, lambda e=e: e) for t, e in zip(tensors, _example_of(tensors, lender))
        ]

    kept = replicas.cond(tf.reduce_min(sizes) > 0, lambda: list(tensors), borrow)
    found = [tf.ensure_shape(k, [None, *t.shape[1:]]) for k, t in zip(kept, tensors)]
    rest = iter(found)
    flat = [next(rest) if _has_rows(t) else t for t in keras.tree.flatten(structure)]
    return keras.tree.pack_sequence_as(structure, flat), {"counts": own, "sizes": sizes}


def _has_rows(t: Any) -> bool:
    return isinstance(t, tf.Tensor) and bool(t.shape.rank)


def _example_of(tensors: list[tf.Tensor], lender: tf.Tensor) -> list[tf.Tensor]:
    """The first example of the replica that lends it; empty strings for strings, which do not cross."""

    def rows(t: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([[1], tf.shape(t)[1:]], 0)
        dtype = tf.int32 if t.dtype == tf.bool else t.dtype
        return tf.cond(
            tf.equal(lender, replicas.index()), lambda: tf.cast(t[:1], dtype), lambda: tf.zeros(shape, dtype)
        )

    crossing = [t for t in tensors if t.dtype != tf.string]
    crossed = iter(replicas.total([rows(t) for t in crossing]))
    return [rows(t) if t.dtype == tf.string else tf.cast(next(crossed), t.dtype) for t in tensors]
