"""The state of a model as tensors, for passes in which nothing moves."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from kfisher._keras.private import made_trainable


def state_of(model: keras.Model) -> list[tuple[keras.Variable, tf.Tensor]]:
    """Seeds, statistics, and the variables that have a regulariser, with their values as they are now.

    What is repeated later, after the training pass has moved seeds and statistics on, finds them here; and
    `model.losses` finds the variables that have a regulariser.
    """
    regularised = [v for v in model.trainable_variables if v.regularizer is not None]
    # As tensors: Keras would keep the `tf.Variable`, which moves.
    return [(v, tf.convert_to_tensor(v.value)) for v in model.non_trainable_variables + regularised]


def statistics_of(model: keras.Model) -> list[keras.Variable]:
    """Floating variables that the forward pass of a training step may move: not weights that are frozen."""
    layers = [t for t in tf.train.TrackableView(model).descendants() if isinstance(t, keras.layers.Layer)]
    frozen = {id(v) for layer in layers for v in made_trainable(layer)}
    floating = [v for v in model.non_trainable_variables if tf.as_dtype(v.dtype).is_floating]
    return [v for v in floating if id(v) not in frozen]


def raw_state_of(owner: keras.layers.Layer) -> list[tuple[tf.Variable, tf.Tensor]]:
    """Variables of TensorFlow that layers keep beside those of Keras, with their values as they are now.

    Keras knows nothing of them (a counter, the state of a `tf.random.Generator`), and no `StatelessScope`
    holds them still.
    """
    known = {id(v.value) for v in owner.variables}
    optimizer: Any = getattr(owner, "optimizer", None)
    if optimizer is not None:
        known.update(id(t) for t in tf.train.TrackableView(optimizer).descendants())
    found = {id(t): t for t in tf.train.TrackableView(owner).descendants() if isinstance(t, tf.Variable)}
    return [(v, tf.convert_to_tensor(v)) for key, v in found.items() if key not in known]


@contextlib.contextmanager
def unnoticed(raw: list[tuple[tf.Variable, tf.Tensor]]) -> Iterator[None]:
    """A block in which layers run that nobody is to notice: `raw` begins at the given values and ends as it
    was, and `tf.summary` records nothing."""
    now = [tf.convert_to_tensor(variable) for variable, _ in raw]
    for variable, value in raw:
        variable.assign(value)
    try:
        with tf.summary.record_if(False):
            yield
    finally:
        for (variable, _), value in zip(raw, now):
            variable.assign(value)
