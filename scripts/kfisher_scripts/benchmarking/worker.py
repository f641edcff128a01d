"""One worker of several: trains networks of several widths, and says what a step took.

python -m kfisher_scripts.benchmarking.worker 64 256
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import kfisher
from kfisher_scripts.benchmarking.scaling import EXAMPLES
from kfisher_scripts.benchmarking.wire import received
from kfisher_scripts.benchmarking.work import random_digits

# Counted are the steps after the schedule of the beginning, over whole periods of updates and inversions.
FIRST, LAST = 60, 160
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "Adam": lambda: keras.optimizers.Adam(1e-3),
    "K-FAC": lambda: kfisher.optimizers.NaturalGradient(seed=0),
}


class _Clock(keras.callbacks.Callback):
    """After each step the time, and how often curvature was updated and inverted so far; and the bytes that
    were received from the first step that counts to the last."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.times: list[float] = []
        self.curvature: list[list[int]] = []
        self.bytes = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.times.append(time.perf_counter())
        found = getattr(self.model.optimizer, "curvature", None)
        counts = [found.updates, found.factorisations] if found else []
        self.curvature.append([int(v.numpy()) for v in counts] or [0, 0])
        if len(self.times) == FIRST:
            self.bytes = -received()
        elif len(self.times) == LAST:
            self.bytes += received()


def measured(strategy: tf.distribute.Strategy, width: int, name: str) -> dict[str, Any]:
    """A training of 784-width-width-10, in numbers."""
    keras.utils.set_random_seed(0)
    with strategy.scope():
        hidden = [keras.layers.Dense(width, "relu") for _ in range(2)]
        model = kfisher.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])
        model.compile(OPTIMIZERS[name](), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batch, clock = EXAMPLES * strategy.num_replicas_in_sync, _Clock()
    data = tf.data.Dataset.from_tensor_slices(random_digits(10 * batch)).batch(batch, drop_remainder=True)
    model.fit(data.cache().repeat(), epochs=1, steps_per_epoch=LAST, verbose=0, callbacks=[clock])
    seconds, changes = (np.diff(kept[FIRST - 1 :], axis=0) for kept in (clock.times, clock.curvature))
    curvature = getattr(model.optimizer, "curvature", None)
    factors = [v for pair in curvature.averages for v in pair] if curvature else []
    return {
        "seconds": float(np.mean(seconds)),
        # Of each step its seconds, updates of the factors, and inversions.
        "each": [[float(t), *map(int, counts)] for t, counts in zip(seconds, changes)],
        "updates": float(np.mean(changes[:, 0])),
        "inversions": float(np.mean(changes[:, 1])),
        "bytes": clock.bytes / len(seconds),
        "parameters": model.count_params(),
        "factors": [v.shape[-1] for v in factors],
        "state": sum(math.prod(v.shape) * tf.as_dtype(v.dtype).size for v in model.optimizer.variables),
    }


if __name__ == "__main__":
    workers = tf.distribute.MultiWorkerMirroredStrategy()
    print(json.dumps({w: {n: measured(workers, int(w), n) for n in OPTIMIZERS} for w in sys.argv[1:]}))
