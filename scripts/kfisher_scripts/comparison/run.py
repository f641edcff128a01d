"""One training run: one optimizer on one problem from one seed, recorded along its way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

import kfisher
from kfisher.callbacks import TensorBoard
from kfisher.callbacks.train_function import Hook
from kfisher_scripts.comparison.evaluation import Measurement, first, row_losses, rows_of, size_of
from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problem import Data, Problem, Setting

# A curve needs no more points than this.
_POINTS = 100
# A run ends where its validation loss has not fallen for this part of its steps.
PATIENCE = 0.5
# Rows of the exact system of the verdict on the empirical Fisher, and examples for it.
_JUDGED = 4000
_PROBED = 256  # examples whose spectra are logged
_EXAMPLES = 1000


@dataclass
class Run:
    """What was measured.

    Attributes:
        rows: Dictionaries with the columns of the CSV, NaN where not measured.
        verdict: On the empirical Fisher where it ended, if asked for and the loss is finite.
        judged: From how many examples.
        kept: The row whose weights are kept: that of the least validation loss, or the last.
        row_losses: Of each example of the validation, at the weights that are kept; empty without any.
    """

    optimizer: str
    seed: int
    setting: Setting
    rows: list[dict[str, float]] = field(default_factory=list)
    verdict: kfisher.Verdict | None = None
    judged: int = 0
    kept: int = -1
    row_losses: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @property
    def end(self) -> dict[str, float]:
        """The row whose weights are kept."""
        return self.rows[self.kept]

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])


def train(
    problem: Problem,
    data: Data,
    optimizer: str,
    *,
    seed: int,
    probe_damping: float | None,
    verdict_damping: float | None = None,
    log_dir: Path,
    watched: bool = True,
    judged: bool = False,
) -> Run:
    """Trains through `compile` and `fit`; the seconds are those of training steps, without tracing.

    If `watched`, the log has spectra and verdicts beside the statistics of every step, and if `judged`, the
    run has a verdict at its end: damped by `verdict_damping`, or by as little as the precision allows.
    """
    keras.utils.set_random_seed(seed)
    setting = problem.settings[optimizer]
    model = problem.model()
    model.compile(OPTIMIZERS[optimizer](setting, problem.curvature, seed), problem.loss())
    batches = batches_of(data, problem.batch_size, seed)
    run = Run(optimizer, seed, setting)
    steps = len(batches)
    measurement = Measurement(model, problem, data, probe_damping)
    clock = _Clock()
    recorder = _Recorder(run, measurement, clock, steps, problem.epochs * steps)
    for stale in log_dir.rglob("events.out.tfevents.*"):  # of an earlier comparison
        stale.unlink()
    # One fixed batch is measured: the same for all optimizers.
    probe = first(data.x, _PROBED), first(data.y, _PROBED)
    spectra = {"spectrum_freq": "logarithmic" if watched else 0, "probe": probe, "damping": probe_damping}
    log = TensorBoard(str(log_dir), write_graph=False, **spectra)
    model.fit(batches, epochs=problem.epochs, callbacks=[recorder, log, clock], shuffle=False, verbose=0)
    if data.x_validation is not None:
        run.row_losses = row_losses(model, problem, data.x_validation, data.y_validation)
    if judged and math.isfinite(run.end["loss"]):
        run.judged = min(size_of(data.x), _EXAMPLES, _JUDGED // rows_of(model))
        x, y = first(data.x, run.judged), first(data.y, run.judged)
        model.compile(
            loss=problem.loss()
        )  # without its optimizer, whose damping would be that of the verdict
        run.verdict = kfisher.diagnose(model, x, y, damping=verdict_damping)
    return run


def batches_of(data: Data, batch_size: int | None, seed: int) -> tf.data.Dataset:
    """A `tf.data.Dataset`, since `fit` would round float64 arrays to float32."""
    size = size_of(data.x)
    parts = first((data.x, data.y), size)
    if batch_size is None:
        return tf.data.Dataset.from_tensors(parts).cache()
    # Numbers are shuffled, and rows of a batch taken at once: one by one they take as long as the steps.
    numbers = tf.data.Dataset.range(size).shuffle(size, seed=seed).batch(batch_size)
    return numbers.map(lambda chosen: keras.tree.map_structure(lambda part: tf.gather(part, chosen), parts))


class _Clock(keras.callbacks.Callback):
    """Seconds of training steps alone; of the first, which is traced, those of the median of the others.

    The last in a list of callbacks: it starts after what they do before a step, and stops before what they do
    after it, also within the call of the training function.
    """

    def __init__(self):
        super().__init__()
        self._first, self._others, self._started = None, [], 0.0

    def on_train_batch_begin(self, batch, logs=None):
        Hook.on(self.model).after.insert(0, self._stop)
        self._started = time.perf_counter()

    def _stop(self) -> None:
        tf.test.experimental.sync_devices()  # a GPU may still be at it
        seconds = time.perf_counter() - self._started
        if self._first is None:
            self._first = seconds
        else:
            self._others.append(seconds)

    @property
    def others(self) -> float:
        return sum(self._others)

    @property
    def first(self) -> float:
        return float(np.median(self._others)) if self._others else self._first or 0.0


class _Recorder(keras.callbacks.Callback):
    """Fills a `Run`, ends it where it only overfits, and shows the progress."""

    def __init__(self, run: Run, measurement: Measurement, clock: _Clock, epoch: int, steps: int):
        super().__init__()
        self._run, self._measurement, self._clock = run, measurement, clock
        self._epoch, self._steps = epoch, steps
        self._every = max(1, steps // _POINTS)
        self._best: tuple[float, int, list[np.ndarray]] = (math.inf, 0, [])
        name = f"{run.optimizer}, seed {run.seed}"
        self._bar = tqdm(total=steps, desc=f"{name:<32}", unit="step", dynamic_ncols=True)

    def on_train_begin(self, logs=None):
        self._record(0)

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        self._bar.update()
        if step % self._every == 0 or step % self._epoch == 0 or step == self._steps:
            self._record(step)

    def on_epoch_end(self, epoch, logs=None):
        """What is held out joins the logs that the next callback writes."""
        row = self._run.rows[-1]
        held_out = next((row[k] for k in ("validation_loss", "test_loss") if math.isfinite(row[k])), None)
        if logs is not None and held_out is not None:
            logs["val_loss"] = held_out

    def on_train_end(self, logs=None):
        for row in self._run.rows[1:]:
            row["seconds"] += self._clock.first
        _, _, weights = self._best
        if weights:
            self.model.set_weights(weights)
        self._bar.close()

    def _record(self, step: int) -> None:
        measured = self._measurement()
        # On full batches every step ends an epoch.
        wanted = step % self._epoch == 0
        measured["cosine"] = self._measurement.cosine() if wanted else math.nan
        self._run.rows.append({"step": step, "seconds": self._clock.others, **measured})
        self._bar.set_postfix(loss=f"{measured['loss']:.3g}", refresh=False)
        validation = measured["validation_loss"]
        least, best, _ = self._best
        if validation < least:
            self._best = (validation, step, self.model.get_weights())
            self._run.kept = len(self._run.rows) - 1
        elif self._run.kept >= 0 and step - best > PATIENCE * self._steps:
            self.model.stop_training = True
