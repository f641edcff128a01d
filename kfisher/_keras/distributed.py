"""Keras' `fit` on replicas: what stops it there, mended in one place.

Each has a test of Keras alone, which fails when Keras needs it no more: tests/distribute/canaries_test.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def build_from_part(
    model: keras.Model, build: Callable, iterator: Any = None, data_batch: Any = None
) -> None:
    """`Model._maybe_symbolic_build`, which builds a model before it is traced, from the shapes of a batch.

    Keras takes the mean of the parts of all replicas for such a batch. They have no mean where they differ in
    size, and several workers cannot reduce a whole structure; the part of one replica has the shapes as well.

    Args:
        model: With a strategy.
        build: The method of Keras, which is not public; the test named above notices when it moves.
        iterator, data_batch: Its arguments.
    """
    strategy = model.distribute_strategy
    if iterator is not None and strategy.num_replicas_in_sync > 1:
        for *_, batches in iterator:  # Keras 3.10 tells of the first step alone
            data_batch = keras.tree.map_structure(
                lambda t: strategy.experimental_local_results(t)[0], next(batches)
            )
            break
        iterator = None
    build(iterator=iterator, data_batch=data_batch)


def reducible(logs: Any) -> Any:
    """What a step returns, in a form that Keras can take the mean of over several workers: not as scalars."""
    strategy = tf.distribute.get_strategy()
    local = len(strategy.extended.worker_devices) if tf.distribute.has_strategy() else 1
    if strategy.num_replicas_in_sync == local:
        return logs
    return keras.tree.map_structure(lambda v: tf.reshape(v, [1]) if len(v.shape) == 0 else v, logs)


def _test(model: keras.Model, test_step: Callable, data: Any) -> Any:
    return reducible(test_step(data))


# What stands for methods of a model: functions of the model, the method, and its arguments.
METHODS: dict[str, Callable] = {"_maybe_symbolic_build": build_from_part, "test_step": _test}

_Base: Any = object  # for types: what stands beside it is a `keras.Model`


class OnReplicas(_Base):
    """The mends, for a class that stands before `keras.Model`; a training step returns `reducible` logs."""

    def _maybe_symbolic_build(self, *args: Any, **kwargs: Any) -> None:
        model: Any = self
        build_from_part(model, super()._maybe_symbolic_build, *args, **kwargs)

    def test_step(self, data: Any) -> Any:
        return reducible(super().test_step(data))
