"""One training step of a model, whose optimizer sees the batch first."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._keras.optimizers import inner
from kfisher._keras.patching import replaced, shared
from kfisher._keras.state import statistics_of


def train_on(model: keras.Model, train_step: Callable, data: Any) -> Any:
    """One training step of `model`, whose batch its optimizer sees first, if it wants to.

    Labels and weights are checked in each step, whether or not the optimizer looks at them in this one. A
    step that the optimizer skips or takes back leaves no trace: statistics that the forward pass of a bad
    batch, or with bad weights, has moved (those of BatchNormalization) are put back.
    """
    optimizer = inner(model.optimizer)
    here = f"_shows_batch_{threading.get_ident()}"  # each replica has a thread
    if not hasattr(optimizer, "observe") or here in vars(model):  # a step that calls another
        return train_step(data)
    with replaced(model, here, True):
        return _shown(model, optimizer, train_step, data)


def _shown(model: keras.Model, optimizer: Any, train_step: Callable, data: Any) -> Any:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    optimizer.observe(model, x, y, sample_weight)
    batch = getattr(optimizer, "batch", None)
    if batch is not None and batch.counts is not None:
        data = keras.utils.pack_x_y_sample_weight(batch.x, batch.y, batch.sample_weight)
        train_step = _uncounted(model, train_step, batch)
    if optimizer is not model.optimizer:  # Keras tells the loss to the outer one only
        train_step = _telling_the_loss(model.optimizer, optimizer, train_step)
    with optimizer.checking(model) if hasattr(optimizer, "checking") else contextlib.nullcontext():
        return _without_trace(model, optimizer, train_step, data)


def _without_trace(model: keras.Model, optimizer: Any, train_step: Callable, data: Any) -> Any:
    """The training step, after which statistics that a failed one has moved are put back."""
    statistics = statistics_of(model)
    if not statistics:
        return train_step(data)
    held = [tf.convert_to_tensor(v.value) for v in statistics]
    failed = tf.convert_to_tensor(optimizer.failed_steps.value)
    try:
        logs = train_step(data)
    except tf.errors.InvalidArgumentError:  # labels that are refused, where each operation runs at once
        if tf.executing_eagerly():
            for variable, value in zip(statistics, held):
                variable.assign(value)
        raise
    fails = optimizer.failed_steps.value > failed
    for variable, before in zip(statistics, held):
        after = tf.convert_to_tensor(variable.value)
        # Also where a step in several parts will be skipped only at its last.
        spoilt = fails | ~tf.reduce_all(tf.math.is_finite(after))
        replicas.assign(variable, tf.where(spoilt, before, after))
    return logs


def _uncounted(model: keras.Model, train_step: Callable, batch: Any) -> Callable:
    """`train_step`, after which metrics are as they were on a replica whose example does not count."""

    def step(data: Any) -> Any:
        batch.counted = []
        variables = list({id(v): v for metric in model.metrics for v in metric.variables}.values())
        held = [tf.convert_to_tensor(v.value) for v in variables]
        logs = train_step(data)
        for variable, value in zip(variables, held):
            variable.assign(tf.where(batch.counts, variable.value, value))
        return logs

    return step


def _telling_the_loss(outer: Any, optimizer: Any, train_step: Callable) -> Callable:
    """`train_step`, in which a `LossScaleOptimizer` tells the one inside of the loss, and of gradients that
    are not finite, which it keeps to itself."""

    def told(data: Any) -> Any:
        def telling(scale: Callable) -> Callable:
            def scale_loss(loss: Any) -> Any:
                optimizer.scale_loss(loss)
                return scale(loss)

            return scale_loss

        def reporting(check: Callable) -> Callable:
            def check_finite(grads: Any) -> Any:
                # Keras looks at the first replica alone.
                finite = replicas.everywhere(check(grads))
                optimizer.withheld(finite, [g for g in grads if g is not None])
                return finite

            return check_finite

        with shared(outer, "scale_loss", telling), shared(outer, "check_finite", reporting):
            return train_step(data)

    return told
