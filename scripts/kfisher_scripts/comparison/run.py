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
from kfisher_scripts.common.directions import directions
from kfisher_scripts.comparison.optimizers import OPTIMIZERS
from kfisher_scripts.comparison.problem import Data, Problem, Setting

# A curve needs no more points than this.
_POINTS = 200
# Rows of the exact system of the cosine, and of the verdict on the empirical Fisher.
_PROBE = 1200
_JUDGED = 4000
# Examples for the verdict.
_EXAMPLES = 1000
# A gradient this much smaller than at the start is rounding, and has no direction.
_VANISHED = 1e-10


@dataclass
class Run:
    """What was measured.

    Attributes:
        rows: Dictionaries with the columns of the CSV, NaN where not measured.
        verdict: On the empirical Fisher where it ended, if asked for and the loss is finite.
        judged: From how many examples.
    """

    optimizer: str
    seed: int
    setting: Setting
    rows: list[dict[str, float]] = field(default_factory=list)
    verdict: kfisher.Verdict | None = None
    judged: int = 0

    def column(self, name: str) -> np.ndarray:
        return np.array([row[name] for row in self.rows])


def train(
    problem: Problem,
    data: Data,
    optimizer: str,
    *,
    seed: int,
    probe_damping: float | None,
    log_dir: Path,
    judged: bool = False,
) -> Run:
    """Trains through `compile` and `fit`; the seconds are those of training steps, without tracing."""
    keras.utils.set_random_seed(seed)
    setting = problem.settings[optimizer]
    model = problem.model()
    model.compile(OPTIMIZERS[optimizer](setting, problem.curvature, seed), problem.loss())
    batches = batches_of(data, problem.batch_size, seed)
    _warm_up(model, batches)
    run = Run(optimizer, seed, setting)
    steps = len(batches)
    measurement = Measurement(model, problem, data, probe_damping)
    recorder = _Recorder(run, measurement, log_dir, steps, problem.epochs * steps)
    model.fit(batches, epochs=problem.epochs, callbacks=[recorder], shuffle=False, verbose=0)
    if judged and math.isfinite(run.rows[-1]["loss"]):
        run.judged = min(len(data.x), _EXAMPLES, _JUDGED // _rows_of(model))
        x, y = (tf.constant(part[: run.judged]) for part in (data.x, data.y))
        run.verdict = kfisher.diagnose(model, x, y, damping=probe_damping)
    return run


def batches_of(data: Data, batch_size: int | None, seed: int) -> tf.data.Dataset:
    """A `tf.data.Dataset`, since `fit` would round float64 arrays to float32."""
    examples = tf.data.Dataset.from_tensor_slices((data.x, data.y))
    if batch_size is None:
        return examples.batch(len(data.x)).cache()
    return examples.shuffle(len(data.x), seed=seed).batch(batch_size)


def _rows_of(model: keras.Model) -> int:
    """Of each example in the exact Fisher: C - 1 of a softmax."""
    return max(1, model.output_shape[-1] - 1)


def _warm_up(model: keras.Model, batches: tf.data.Dataset) -> None:
    """One step, so that the training function is traced, and back to the start."""
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.optimizer.variables
    start = [v.numpy() for v in variables]
    model.fit(batches.take(1), shuffle=False, verbose=0)
    for variable, value in zip(variables, start):
        variable.assign(value)


class Measurement:
    """Loss and accuracy in training and on what is held out, and the angle of the two natural gradients."""

    def __init__(self, model: keras.Model, problem: Problem, data: Data, damping: float | None):
        self._model, self._problem = model, problem
        self._train = (tf.constant(data.x), tf.constant(data.y))
        self._test = (tf.constant(data.x_test), tf.constant(data.y_test))
        # The examples as they come: digits are not sorted by class, and regressions fit in whole.
        size = max(1, _PROBE // _rows_of(model))
        self._probe = (tf.constant(data.x[:size]), tf.constant(data.y[:size]))
        self._curvature = None if damping is None else kfisher.curvature.get(problem.curvature)
        self._damping = damping
        self._start: float | None = None

    def __call__(self) -> dict[str, float]:
        loss, accuracy = self._evaluate(*self._train)
        test_loss, test_accuracy = self._evaluate(*self._test) if len(self._test[0]) else (math.nan, math.nan)
        measured = (loss, accuracy, test_loss, test_accuracy)
        return dict(zip(("loss", "accuracy", "test_loss", "test_accuracy"), map(float, measured)))

    @tf.function(autograph=False, reduce_retracing=True)
    def _evaluate(self, x, y):
        outputs = self._model(x, training=False)
        loss = self._model.compute_loss(x, y, outputs, training=False)
        if self._problem.correct is None:
            return loss, tf.constant(math.nan)
        return loss, tf.reduce_mean(tf.cast(self._problem.correct(outputs, y), tf.float32))

    def cosine(self) -> float:
        """cos of (EF + lambda I)^{-1} g and (F + lambda I)^{-1} g on the probe; NaN if it has no meaning."""
        if self._curvature is None:
            return math.nan
        cosine, _, norm = self._directions(*self._probe)
        if self._start is None:
            self._start = float(norm)
        return float(cosine) if norm > _VANISHED * self._start else math.nan

    @tf.function(autograph=False)
    def _directions(self, x, y):
        return directions(self._model, x, y, self._curvature, tf.constant(self._damping, tf.float64))


class _Recorder(keras.callbacks.Callback):
    """Fills a `Run` and its TensorBoard log, and shows the progress; the clock stops meanwhile."""

    def __init__(self, run: Run, measurement: Measurement, log_dir: Path, epoch: int, steps: int):
        super().__init__()
        self._run, self._measurement = run, measurement
        self._epoch, self._steps = epoch, steps
        self._every = max(1, steps // _POINTS)
        self._seconds = 0.0
        for stale in log_dir.glob("events.out.tfevents.*"):  # of an earlier comparison
            stale.unlink()
        self._writer = tf.summary.create_file_writer(str(log_dir))
        name = f"{run.optimizer}, seed {run.seed}"
        self._bar = tqdm(total=steps, desc=f"{name:<32}", unit="step", dynamic_ncols=True)

    def on_train_begin(self, logs=None):
        self._record(0)

    def on_train_batch_begin(self, batch, logs=None):
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._seconds += time.perf_counter() - self._started
        step = int(self.model.optimizer.iterations)
        self._bar.update()
        if step % self._every == 0 or step % self._epoch == 0 or step == self._steps:
            self._record(step)

    def on_train_end(self, logs=None):
        self._writer.close()
        self._bar.close()

    def _record(self, step: int) -> None:
        measured = self._measurement()
        # On full batches every step ends an epoch.
        wanted = step % self._epoch == 0
        measured["cosine"] = self._measurement.cosine() if wanted else math.nan
        self._run.rows.append({"step": step, "seconds": self._seconds, **measured})
        self._bar.set_postfix(loss=f"{measured['loss']:.3g}", refresh=False)
        with self._writer.as_default(step=step):
            for name, value in measured.items():
                if math.isfinite(value):
                    tf.summary.scalar(name, value)
            tf.summary.scalar("seconds", self._seconds)
