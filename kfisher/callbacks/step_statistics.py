"""Statistics of every step: lengths of update and gradient, and how they lie to each other."""

from __future__ import annotations

import os
import time
from typing import Any

import keras
import tensorflow as tf

from kfisher._common.checks import boolean, directory, positive_integer
from kfisher.callbacks import _start
from kfisher.callbacks._harmless import harmless
from kfisher.callbacks._recorder import StepRecorder
from kfisher.callbacks._replicas import is_chief, of_chief
from kfisher.callbacks.train_function import Hook
from kfisher.logs import schema
from kfisher.logs.writer import ScalarWriter, shared

_CAPACITY = 512  # rows between two looks at the buffer, if it is not time for one before


@harmless
class StepStatistics(keras.callbacks.Callback):
    """Logs statistics of every optimizer step, for any Keras optimizer.

    With δ the change of the weights in one step, whatever the optimizer did to bring it about, and
    g = ∇L the gradient that it was given:

    ==================== ====================================================== ==========================
    name                 value                                                  units
    ==================== ====================================================== ==========================
    loss                 L of the batch before the step, penalties included;    loss
                         infinite where it is not a number (`History` has
                         Keras' own)
    update_norm          ‖δ‖                                                    of the parameters
    gradient_norm        ‖g‖                                                    loss / parameter
    update_to_gradient   ‖δ‖ / ‖g‖: the step length of each unit of g           parameter² / loss
    cosine               -δᵀg / (‖δ‖ ‖g‖): 1 for plain gradient descent         none
    weight_norm          ‖θ‖ after the step                                     of the parameters
    distance             ‖θ - θ₀‖ after the step, θ₀ as the first `fit` with    of the parameters
                         this callback found it (up to ten million parameters
                         it is kept in `log_dir`, for a training that resumes)
    learning_rate        of the step                                            the optimizer's
    damping              of the step (kfisher optimizers)                       loss / parameter²
    radius               c of the trust region in use (natural gradient and     loss (EF: loss²)
                         its relatives), once there has been a loss
    rate_in_use          what the region left of the learning rate (the same)   the optimizer's
    momentum_in_use      the momentum of the step (the same)                    none
    skipped_steps        how many were skipped before (kfisher optimizers)      steps
    rejected_steps       how many were taken back before (the same)             steps
    kl                   δᵀ (F + damping I) δ / 2, with the curvature of the    loss
                         optimizer (natural gradient and its empirical variant,
                         if the step is learning_rate times the solution: no
                         momentum, trust region, clipping, weight decay or EMA)
    ==================== ====================================================== ==========================

    With several replicas g is the sum over all of them, δ is the same on each, and one process, the
    chief, writes. All add up their gradients once more for this.

    Every step has its own values, also with `steps_per_execution`. TensorBoard shows them as scalars
    `step/update_norm` and so on; the last ones before the end of an epoch are in `History` by the names
    above. Training ends in the same weights as without the callback.

    Args:
        log_dir: Directory for TensorBoard; the numbers go to its sub-directory `fisher`.
        every: Positive integer: log each step that is a multiple of it. Defaults to `1`.
        per_layer: Bool: also log `layer/<layer>/update_norm`, `gradient_norm` and `weight_norm` of each
            layer with weights. Defaults to `False`.
        in_logs: Bool: also hand the last values of an epoch to all callbacks after this one: the progress
            line of `fit`, `CSVLogger`, `EarlyStopping`. Defaults to `False`.

    Example:

    >>> model.fit(x, y, epochs=10, callbacks=[kfisher.callbacks.StepStatistics("runs/first")])
    """

    def __init__(
        self, log_dir: str | os.PathLike, every: int = 1, per_layer: bool = False, in_logs: bool = False
    ):
        super().__init__()
        self.in_logs = boolean("in_logs", in_logs)
        self.log_dir = directory("log_dir", log_dir)
        self.every, self.per_layer = positive_integer("every", every), boolean("per_layer", per_layer)
        self._optimizer: Any = None
        self._recorder: Any = None
        self._writer: Any = None
        self._latest: dict[str, float] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        Hook.prepare(self.model)
        if self._recorder is not None:
            self._flush()  # what an interrupted `fit` left
        capacity = max(_CAPACITY, 2 * self.model.steps_per_execution)
        if self.model.optimizer is not self._optimizer or capacity > self._recorder.capacity:
            self._optimizer = self.model.optimizer
            if self.model.built and not self._optimizer.built:
                with self.model.distribute_strategy.scope():
                    self._optimizer.build(self.model.trainable_variables)
            self._recorder = StepRecorder(self.model, self.every, capacity, self.per_layer)
            self._started = False
        self._writes = is_chief(self.model.distribute_strategy)
        events = shared(self.log_dir)
        events.add_charts(self._recorder.names)
        self._writer = ScalarWriter(events, self._recorder.tags)
        self._begun = False
        self._latest = dict.fromkeys(self._recorder.names, float("nan"))
        self._pending = 0
        self._flushed = time.monotonic()

    # At the begin of a batch and not at its end: Keras then need not wait for the logs of each step.
    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._begun:
            self._begin()
        steps = self.model.steps_per_execution
        full = self._pending + steps > self._recorder.capacity * self.every // 2
        if full or time.monotonic() - self._flushed > 1.0:
            self._flush()
        self._pending += steps
        hook = Hook.on(self.model)
        hook.record(self._recorder)
        hook.failed.append(self._flush)

    def _begin(self) -> None:
        """Before the first step, when other callbacks have restored what they restore."""
        self._recorder.resume()
        if not self._started:
            start = self._recorder.start
            kept = (
                _start.load(self.log_dir, [tuple(v.shape) for v in start]) if self._recorder.steps else None
            )
            if kept is None:
                self._recorder.start_here()
                if self._writes:
                    _start.save(self.log_dir, [v.numpy() for v in start])
            values = start if kept is None else [tf.cast(value, v.dtype) for v, value in zip(start, kept)]
            values = of_chief(self.model.distribute_strategy, [tf.convert_to_tensor(v) for v in values])
            for variable, value in zip(start, values):
                variable.assign(value)
        self._begun = self._started = True

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._flush()
        found = {name: value for name, value in self._latest.items() if name != schema.LOSS}
        if self.in_logs and logs is not None:
            logs.update(found)
        elif not self.in_logs and isinstance(getattr(self.model, "history", None), keras.callbacks.History):
            for name, value in found.items():  # past the logs, which the progress line shows
                self.model.history.history.setdefault(name, []).append(value)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._flush()

    def _flush(self) -> None:
        steps, rows = self._recorder.read()
        self._pending, self._flushed = 0, time.monotonic()
        if len(steps):
            self._latest = dict(zip(self._recorder.names, map(float, rows[-1])))
        if self._writes:
            self._writer.write(steps, rows)
