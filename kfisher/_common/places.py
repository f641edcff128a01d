"""The part of a batch that a replica has, and its place among those of all."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf

from kfisher._common import replicas

# Of each thread, which is one replica: what `knowing` says.
_known = threading.local()


def placed(size: int | tf.Tensor) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Of `size` examples here, how many come before them on other replicas, and how many there are on all.

    Integer scalars; 0 and `size` with a single replica.
    """
    if replicas.count() == 1:
        return 0, size
    found = sizes(size)
    return tf.reduce_sum(found[: replicas.index()]), tf.reduce_sum(found)


def sizes(size: int | tf.Tensor) -> tf.Tensor:
    """Of `size` examples here, how many each replica has, `(R,)`; in a block of `knowing` nothing crosses."""
    known = getattr(_known, "sizes", None)
    if known is not None:
        return known
    own = tf.one_hot(replicas.index(), replicas.count(), dtype=tf.int32) * tf.cast(size, tf.int32)
    return replicas.total([own])[0]


@contextlib.contextmanager
def knowing(known: tf.Tensor | None) -> Iterator[None]:
    """A block of this replica in which those are the `sizes`, unless they are `None`."""
    before = getattr(_known, "sizes", None)
    _known.sizes = before if known is None else known
    try:
        yield
    finally:
        _known.sizes = before
