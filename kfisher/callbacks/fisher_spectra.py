"""The three Fishers side by side while a model trains."""

from __future__ import annotations

import collections
import os
import time
from collections.abc import Callable
from typing import Any

import keras

from kfisher._common import checks, replicas
from kfisher._keras.optimizers import parts_of_step
from kfisher.callbacks._due import FAILED, SHAPE, TIME, Due
from kfisher.callbacks._harmless import harmless
from kfisher.callbacks._open import Open
from kfisher.callbacks._probe import checked_probe
from kfisher.callbacks._recorder import parts_taken
from kfisher.callbacks._replicas import is_chief
from kfisher.callbacks._reporting import Reporting
from kfisher.callbacks._schedule import Budget, Frequency, checked_frequency, checked_share, due_steps
from kfisher.callbacks._snapshot import Snapshot
from kfisher.callbacks.train_function import Hook
from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.limits import MEMORY, Limits, TooManyRows
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.meter import Meter, examples
from kfisher.diagnosis.verdict import damping_of
from kfisher.likelihoods import Likelihood, of_model
from kfisher.logs import schema, writer
from kfisher.model import attached, wants_batches

_TRACES = 3  # shapes of batches that are measured: each has to be traced


@harmless
class FisherSpectra(Reporting, keras.callbacks.Callback):
    """Logs the spectra of F, of F with drawn labels, and of the empirical Fisher, and how they compare.

    Before a step that is due, the current batch (or a fixed set of examples) goes through the model once
    more, in inference mode, and all three matrices come from that one pass: their eigenvalues, trace,
    effective dimension and condition, the overlap of their leading eigenspaces, the eigenvalues of
    (F + λ I)⁻¹ (EF + λ I), and the cosine, length and quality gamma of the steps that they give; and of the
    step that the optimizer then takes, whichever it is (not with `steps_per_execution`, where several steps
    are one). Second moments, as Adam keeps them, are compared with the diagonals of F and EF.
    `kfisher.Measurement` describes each number. Regularisers are left out: they are the same in both. Works
    with every Keras optimizer and model whose loss has a likelihood; training ends in the same weights as
    without it.

    The numbers go to the sub-directory `fisher` of `log_dir`: the tab "Fisher" of TensorBoard shows them
    all, "Scalars" and "Images" the most important ones. What cannot be measured or written gives one warning;
    training goes on.

    Args:
        log_dir: Directory for TensorBoard.
        freq: When: each step that is a multiple of an integer, `"epoch"` for the first of each epoch,
            `"logarithmic"` for the first eight steps and then eight in each doubling, or a function of the
            step (from 0 on) that returns a bool. Defaults to `"logarithmic"`.
        examples: Positive integer, how many examples of the batch. Defaults to `256`.
        probe: `(x, y)` or `(x, y, sample_weight)`, measured instead of each batch. Defaults to `None`.
        draws: Positive integer, how many times labels are drawn from the model; the numbers of the sampled
            Fisher are means over draws, with standard errors from 2 draws on. Defaults to `2`.
        damping: Positive float, λ in the units of F. Defaults to that of the optimizer if it is one of
            kfisher's, else to the square root of the precision times the largest eigenvalue of F at the
            first measurement.
        max_overhead: Float in (0, 1], the share of the time of `fit` that measuring may take in all: what is
            due is put off until it fits in, and the tab says so. The first, eleven in a hundred steps and
            twenty in ten thousand, may go thirty seconds beyond (and what TensorFlow takes to trace them).
            `None` for no limit. Defaults to `0.05`.
        write_images: Bool, whether to draw charts for "Images" at the end of `fit`. Defaults to `True`.
        seed: Integer, for the labels that are drawn. Defaults to `0`.
        likelihood: A `kfisher.likelihoods.Likelihood`, instead of that of the compiled loss. Defaults to the
            `likelihood` of the model's optimizer, if it has one.
        max_memory: Positive integer, the bytes that the rows of the matrices and what they are made of may
            take together. Where all would take more, or F would have more than 4096 rows, fewer examples are
            measured, down to 64; then F is estimated from labels that are drawn for each, as many as fit in.
            A warning and the tab say so. Defaults to half a gibibyte.

    Attributes:
        measurements: The last 100 of them.

    Raises:
        ValueError: If an argument is wrong.

    Reference:
        Kunstner, Balles, Hennig 2019 (arXiv:1905.12558), sections 3 and 4.

    Example:

    >>> model.fit(x, y, epochs=10, callbacks=[kfisher.callbacks.FisherSpectra("runs/first")])
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        freq: Frequency = "logarithmic",
        examples: int = 256,
        probe: Any = None,
        draws: int = 2,
        damping: float | None = None,
        max_overhead: float | None = 0.05,
        write_images: bool = True,
        seed: int = 0,
        likelihood: Likelihood | None = None,
        max_memory: int = MEMORY,
    ):
        super().__init__()
        self.max_memory = checks.positive_integer("max_memory", max_memory)
        self.log_dir = checks.directory("log_dir", log_dir)
        self.freq = checked_frequency("freq", freq)
        self.examples = checks.positive_integer("examples", examples)
        self.draws = checks.positive_integer("draws", draws)
        self.damping = damping
        if damping is not None:
            self.damping = checks.positive("damping", damping, "a positive float or None", "float64")
        self.max_overhead = checked_share("max_overhead", max_overhead)
        self.write_images = checks.boolean("write_images", write_images)
        self.seed = checks.seed("seed", seed)
        self.likelihood = of_model.get(likelihood)
        self.probe = checked_probe(probe)
        self.measurements: collections.deque[Measurement] = collections.deque(maxlen=100)
        self._budget = Budget(self.max_overhead)
        self.meter: Any = None
        self._writer: Any = None
        self._step = 0
        self._said: dict[str, str] = {}
        self._open: Any = None
        self._hook: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._open is not None:  # left by an interrupted `fit`
            self._open.close()
        Hook.prepare(self.model)
        self._measures = is_chief(self.model.distribute_strategy)
        if self.meter is None or self.meter.model is not self.model:
            self.meter = Meter(self.model, self.draws, self.seed, self.likelihood, self.max_memory)
            together = self._measures and replicas.synchronizes(self.model.distribute_strategy)
            self._snapshot = Snapshot(self.model) if together and self.probe is None else None
            self.measurements.clear()
            self._most, self._default_damping = self.examples, None
            self._step, self._due, self._unlogged_picture = 0, Due(), False
            self._first: int | None = None
        self._writer = writer.shared(self.log_dir)
        self._writer.add_charts(fisher=True)
        self._budget.start()
        self._due.drop()
        self._size, self._skipped = 0, False
        self._attaches = wants_batches(self.model)
        if self._attaches:
            with attached(self.model):  # the function keeps the `train_step` that it is made with
                self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # With gradient accumulation each part is a step here, and Keras' count of whole ones lags behind.
        counted = parts_taken(self.model.optimizer)
        self._step = max(self._step, counted) if parts_of_step(self.model.optimizer) > 1 else counted
        self._epoch_begins = True

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step, count = self._step, self.model.steps_per_execution
        self._due.add(due_steps(self.freq, step, count, self._epoch_begins))
        self._epoch_begins = False
        self._step += count
        self._first = step if self._first is None else self._first
        self._budget.tick()
        if (snapshot := self._snapshot) is not None:
            Hook.on(self.model).record(snapshot)
        ready = self._measures and self._due.waiting and self.model.built  # not without weights
        if ready and not self._budget.allows(step - self._first):
            self._due.wait(TIME)
        elif ready:
            self._hook, damping = Hook.on(self.model), damping_of(self.model)
            if self.probe is not None:
                self._look(lambda: (self.probe, None), damping, step)
            elif snapshot is not None:
                snapshot.want()
                self._hook.after.append(lambda: self._look(snapshot.take, damping, step))
            else:
                self._hook.peeks.append(lambda data: self._look(lambda: (data, None), damping, step))
                self._hook.charges.append(self._budget.add)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._attaches:
            self.model.train_function = None  # it was traced with the batches shown
        self._end()

    def _look(self, taken: Callable[[], tuple[Any, Any]], damping: float | None, step: int) -> None:
        """Measures, with the weights as they are before the step that trains on this batch.

        That may be taken already: `taken` gives the batch, and then what the model held.
        """
        started = time.perf_counter()
        try:
            given = (v for v in (self.damping, damping, self._default_damping) if v is not None)
            self._measure(*taken(), next(given, None), step, started)
        except Exception as error:  # training is worth more than its log
            self._due.drop(FAILED)
            self._budget.add(time.perf_counter() - started)
            message = f"No spectra at step {step}; training goes on. Received: {error}"
            self.warn("spectra", message)

    def _measure(self, data: Any, held: Any, damping: Any, step: int, started: float) -> None:
        cut = examples(data, self._most)
        size = int(keras.tree.flatten(cut[0])[0].shape[0])
        traced = not self.meter.is_traced(cut[0])
        rest = size < self._size and not self._skipped  # of an epoch; the next batch may be whole
        if rest or (traced and self.meter.traces >= _TRACES):  # of a length of its own; others come again
            self._skipped = self._skipped or rest
            self._due.wait(SHAPE)
            self._budget.add(time.perf_counter() - started)
            return
        try:
            measurement, frame = self.meter(*cut, damping=damping, step=step, held=held)
        except TooManyRows as error:
            if not 0 < error.examples < size:
                raise
            message = f"Only {error.examples} examples are measured: {error.reason}. Received: {size}"
            self.warn("examples", message)
            self._most, self._size = error.examples, 0
            self._measure(data, held, damping, step, started)
            return
        self._due.made()
        self._skipped, self._size = False, size
        self._default_damping = measurement.damping
        if measurement.drawn:
            message = f"F is estimated from {measurement.drawn} drawn labels of each example: all its rows"
            why = f"are more than {Limits.rows}, or take more than max_memory={self.max_memory}"
            self.warn("drawn", f"{message} {why}")
        self.measurements.append(measurement)
        self._open = Open(self, cut, measurement, frame, held)
        self._budget.charge(time.perf_counter() - started, traced)  # what comes after the step is added to it
        self._open.wait(self._hook) if held is None else self._open.close()

    def finish(self, done: Open) -> None:
        """Logs a measurement, after the step."""
        self._open = None
        try:
            self.measured(done.measurement, done.frame)
        except Exception as error:
            message = f"No spectra at step {done.measurement.step}; training goes on. Received: {error}"
            self.warn("spectra", message)
        self._unlogged_picture = True
        self._budget.add(time.perf_counter() - done.closed, each=True)

    def measured(self, measurement: Measurement, frame: Frame) -> None:
        """Logs a measurement; may be extended."""
        values = writer.scalars(measurement.scalars())
        values.append(writer.text(schema.MEASUREMENT_TAG, measurement.to_json(), schema.PLUGIN))
        self._write(measurement.step, [*values, self._notes()])
