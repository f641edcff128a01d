"""K-FAC as it is against Adam on the autoencoder: seconds of training steps to the same training loss."""

from __future__ import annotations

import math
import time

import keras
import numpy as np
import tensorflow as tf

from kfisher.optimizers import NaturalGradient
from kfisher_scripts.comparison.problems import PROBLEMS

_PROBLEM = PROBLEMS["autoencoder"]


class _Clock(keras.callbacks.Callback):
    """Stops after some seconds of training steps, or at a training loss; the clock stops meanwhile."""

    def __init__(self, data: np.ndarray, seconds: float, target: float = 0.0):
        super().__init__()
        self.seconds, self.steps, self.loss = 0.0, 0, math.inf
        self._data, self._limit, self._target = tf.constant(data), seconds, target

    def on_train_batch_begin(self, batch, logs=None):
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.seconds += time.perf_counter() - self._started if self.steps > 1 else 0  # the first one traces
        over = self.seconds > self._limit
        if over or (self._target and self.steps % 5 == 0):
            self.loss = float(self.model.compute_loss(self._data, self._data, self.model(self._data)))
            over |= self.loss <= self._target
        self.model.stop_training = over


def _train(optimizer: keras.optimizers.Optimizer, seconds: float, target: float = 0.0) -> _Clock:
    keras.utils.set_random_seed(0)
    model, x = _PROBLEM.model(), _PROBLEM.data().x
    model.compile(optimizer, _PROBLEM.loss())
    examples = tf.data.Dataset.from_tensor_slices((x, x)).shuffle(len(x), seed=0)
    clock = _Clock(x, seconds, target)
    batches = examples.batch(_PROBLEM.batch_size).repeat().prefetch(2)
    model.fit(batches, steps_per_epoch=10, epochs=10**6, shuffle=False, verbose=0, callbacks=[clock])
    return clock


def run(seconds: float = 60.0) -> None:
    """Seconds to the training loss that the best of three Adams has after a minute."""
    print(f"\nautoencoder, batch 500; training loss on all examples after {seconds:g} s of Adam")
    losses = []
    for rate in (3e-4, 1e-3, 3e-3):
        adam = _train(keras.optimizers.Adam(rate), seconds)
        losses.append(adam.loss)
        print(f"  Adam({rate:g}): {adam.loss:.4f} in {adam.steps} steps", flush=True)
    kfac = _train(NaturalGradient(seed=0), seconds, min(losses))
    print(
        f"  NaturalGradient(): {kfac.loss:.4f} in {kfac.steps} steps and {kfac.seconds:.1f} s, "
        f"{kfac.seconds / seconds:.2f} of Adam's time; bar 0.25"
    )
