"""A `fit` that writes a digest of all state after every step, and may kill its process at one of them.

    python killed.py FOLDER KIND SAVE_FREQ KILL_AFTER

SAVE_FREQ is that of `BackupAndRestore`; KILL_AFTER counts the steps of this process, 0 for never.
"""

import hashlib
import os
import signal
import sys

import keras
import numpy as np

import kfisher
from kfisher.optimizers import NaturalGradient, SophiaG

# Batches repeat themselves after so many steps: a process that begins an epoch anew in the middle of one, as
# Keras does after a backup inside of it, sees what an uninterrupted one does.
PERIOD, STEPS, EPOCHS = 3, 6, 5

OPTIMIZERS = {
    "default": lambda: NaturalGradient(seed=3),
    "ekfac": lambda: NaturalGradient(
        curvature=kfisher.curvature.EKFAC(update_every=2, basis_every=4), momentum=0.5, use_ema=True, seed=3
    ),
    "spring": lambda: NaturalGradient(
        0.5, "exact", kfisher.curvature.Gram(0.9), kfisher.damping.LevenbergMarquardt(1e-2, every=2), seed=3
    ),
    "sophia": lambda: SophiaG(0.01, update_every=2, weight_decay=1e-3, seed=3),
}


class Journal(keras.callbacks.Callback):
    """Writes the state after each step, and ends the process without a word after `kill_after` of them."""

    def __init__(self, path, kill_after):
        super().__init__()
        self.path, self.left = path, kill_after

    def on_train_batch_end(self, batch, logs=None):
        found = hashlib.sha256()
        for v in (*self.model.variables, *self.model.optimizer.variables):
            found.update(np.ascontiguousarray(v.numpy()).tobytes())
        with open(self.path, "a") as file:
            file.write(f"{int(self.model.optimizer.iterations)} {found.hexdigest()}\n")
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def fit(folder, kind, save_freq, kill_after):
    keras.utils.set_random_seed(1)
    rng = np.random.default_rng(2)
    x = np.tile(rng.normal(size=(4 * PERIOD, 3)), [STEPS // PERIOD, 1]).astype("float32")
    y = np.tile(rng.normal(size=(4 * PERIOD, 2)), [STEPS // PERIOD, 1]).astype("float32")
    layers = [keras.layers.Dense(4, "tanh"), keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = kfisher.Sequential([keras.Input((3,)), *layers])
    model.compile(OPTIMIZERS[kind](), "mse")
    backup = keras.callbacks.BackupAndRestore(
        os.path.join(folder, "backup"), save_freq=save_freq, delete_checkpoint=False
    )
    journal = Journal(os.path.join(folder, "journal"), kill_after)
    model.fit(x, y, batch_size=4, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[backup, journal])


if __name__ == "__main__":
    folder, kind, save_freq, kill_after = sys.argv[1:]
    fit(folder, kind, save_freq if save_freq == "epoch" else int(save_freq), int(kill_after))
