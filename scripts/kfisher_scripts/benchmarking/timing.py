"""Milliseconds: of a step of `fit`, or of a call."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher_scripts.benchmarking.work import MLP, Work, compiled


class _Clock(keras.callbacks.Callback):
    """Milliseconds from batch to batch; the first batches wait for the data."""

    def on_epoch_begin(self, epoch, logs=None):
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(time.perf_counter())

    def per_step(self) -> float:
        # The mean: steps that refresh the curvature are rare, and count.
        return 1e3 * float(np.mean(np.diff(self.times[3:])))


def trainer(
    optimizer: Callable[[], keras.optimizers.Optimizer],
    batch: int,
    steps: int,
    watching: Callable[[str], keras.callbacks.Callback] | None = None,
    work: Work = MLP,
) -> Callable[[], float]:
    """Trains a model; returns what runs one more epoch."""
    model, clock = compiled(optimizer(), work), _Clock()
    x, y = work.data(batch * steps)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch, drop_remainder=True).cache().prefetch(2)
    callbacks: list[Any] = [clock]
    if watching is not None:
        callbacks.insert(0, watching(tempfile.mkdtemp()))

    def epoch() -> float:
        model.fit(data, verbose=0, callbacks=callbacks)
        return clock.per_step()

    epoch()  # traces
    return epoch


def timed(function: Callable[[], list[tf.Tensor]]) -> Callable[[], float]:
    """Milliseconds of one call, the mean of ten."""
    compiled = tf.function(function)

    def call() -> float:
        started = time.perf_counter()
        for _ in range(10):
            compiled()[-1].numpy()
        return 100 * (time.perf_counter() - started)

    call()
    return call
