"""Settings for a problem that nobody has tuned: a coarse grid, by the training loss at the end."""

from __future__ import annotations

import itertools

import keras
import numpy as np
from tqdm import tqdm

from comparison.optimizers import OPTIMIZERS
from comparison.problems import Data, Problem, Setting
from comparison.run import batches_of

RATES = {"sgd": (1e-3, 1e-2, 0.1, 1.0), "adam": (1e-3, 1e-2, 0.1, 1.0)}
_EQUAL = 1e-4  # losses that differ by less are the same
NATURAL = ((0.03, 0.1, 0.3, 1.0), (1e-8, 1e-4, 1e-2, 0.1, 1.0))


def grid(optimizer: str, rate: float | None = None, damping: float | None = None) -> list[Setting]:
    """The settings that are tried; those that the user has named stand."""
    rates, dampings = (RATES[optimizer], (None,)) if optimizer in RATES else NATURAL
    rates = rates if rate is None else (rate,)
    dampings = dampings if damping is None else (damping,)
    return [Setting(r, d) for r, d in itertools.product(rates, dampings)]


def tune(
    problem: Problem,
    data: Data,
    optimizer: str,
    settings: list[Setting],
    seed: int,
    batch_size: int | None,
    curvature: str,
    progress: tqdm,
) -> Setting:
    """The setting with the lowest training loss after the epochs of the problem; of equals, the fastest.

    One model is traced and trained again and again: rate and damping are variables of the optimizer.
    """
    keras.utils.set_random_seed(seed)
    model = problem.model()
    model.compile(
        OPTIMIZERS[optimizer](settings[0], curvature, seed), problem.loss(), loss_weights=problem.loss_weight
    )
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    start = [v.numpy() for v in variables]
    found: list[tuple[float, float, Setting]] = []
    for setting in settings:
        for variable, value in zip(variables, start):
            variable.assign(value)
        model.optimizer.learning_rate = setting.learning_rate
        if setting.damping is not None:
            model.optimizer.damping = setting.damping
        batches = batches_of(data, batch_size, seed)
        stop = [_StopAtNan()]
        history = model.fit(batches, epochs=problem.epochs, shuffle=False, verbose=0, callbacks=stop)
        loss = model.evaluate(batches, verbose=0)
        mean = float(np.mean(history.history["loss"]))
        if np.isfinite(loss) and np.isfinite(mean):
            found.append((loss, mean, setting))
        progress.update()
    if not found:
        raise FloatingPointError(f"With no setting in its grid did {optimizer} end at a finite loss.")
    least = min(loss for loss, _, _ in found)
    return min((mean, setting) for loss, mean, setting in found if loss <= least * (1 + _EQUAL))[1]


class _StopAtNan(keras.callbacks.TerminateOnNaN):
    """Also where the loss has grown a million times."""

    def on_epoch_end(self, epoch, logs=None):
        loss = (logs or {}).get("loss", 0.0)
        self.first = loss if epoch == 0 else self.first
        if not loss <= 1e6 * max(self.first, 1e-300):
            self.model.stop_training = True
