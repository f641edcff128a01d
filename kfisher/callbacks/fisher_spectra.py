"""The three Fishers side by side while a model trains."""

from __future__ import annotations

import collections
import json
import os
import time
import warnings
from typing import Any

import keras

from kfisher._common import checks
from kfisher.callbacks._harmless import harmless
from kfisher.callbacks._open import Open
from kfisher.callbacks._pictures import pictures
from kfisher.callbacks._probe import checked_probe
from kfisher.callbacks._recorder import parts_taken
from kfisher.callbacks._schedule import Budget, Frequency, checked_frequency, checked_share, due_steps
from kfisher.callbacks._train_function import Hook
from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.limits import MEMORY, TooManyRows
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.meter import Meter, examples
from kfisher.diagnosis.verdict import damping_of
from kfisher.likelihoods import Likelihood, of_model
from kfisher.logs import schema, writer
from kfisher.model import attached, wants_batches

_TRACES = 3  # shapes of batches that are measured: each has to be traced


@harmless
class FisherSpectra(keras.callbacks.Callback):
    """Logs the spectra of F, of F with drawn labels, and of the empirical Fisher, and how they compare.

    Before a step that is due, the current batch (or a fixed set of examples) goes through the model once
    more, in inference mode, and all three matrices come from that one pass: their eigenvalues, trace,
    effective dimension and condition, the overlap of their leading eigenspaces, the eigenvalues of
    (F + λ I)⁻¹ (EF + λ I), and the cosine, length and quality gamma of the steps that they give; and of the
    step that the optimizer then takes, whichever it is (not with `steps_per_execution`, where several steps
    are one). Second moments, as Adam keeps them, are compared with the diagonals of F and EF.
    `kfisher.measurement.Measurement` describes each number. Regularisers are left out: they are the same in
    both. Works with every Keras optimizer and model whose loss has a likelihood; training ends in the same
    weights as without it.

    The numbers go to the sub-directory `fisher` of `log_dir`: the tab "Fisher" of TensorBoard shows them
    all, "Scalars" and "Images" the most important ones. What cannot be measured or written gives one warning;
    training goes on.

    Args:
        log_dir: Directory for TensorBoard.
        freq: When: each step that is a multiple of an integer, `"epoch"` for the first of each epoch,
            `"logarithmic"` for the first eight steps and then eight in each doubling, or a function of the
            step (from 0 on) that returns a bool. Defaults to `"logarithmic"`.
        examples: Positive integer, how many examples of the batch. Defaults to `256`.
        probe: `(x, y)` or `(x, y, sample_weight)`: these examples, instead of those of the current batch.
            Defaults to `None`.
        draws: Positive integer, how many times labels are drawn from the model; the numbers of the sampled
            Fisher are means over draws, with standard errors from 2 draws on. Defaults to `2`.
        damping: Positive float, λ in the units of F. Defaults to that of the optimizer if it is one of
            kfisher's, else to the square root of the precision times the largest eigenvalue of F at the
            first measurement.
        max_overhead: Float in (0, 1], the share of the time of `fit` that measuring may take, all that comes
            with it included: what is due is put off until it fits in, and the tab says so. Some first ones,
            eleven in a hundred steps and twenty in ten thousand, may go beyond it by thirty seconds in all
            (and the time that TensorFlow takes to trace them). `None` for no limit. Defaults to `0.05`.
        write_images: Bool, whether to draw charts for "Images" at the end of `fit`. Defaults to `True`.
        seed: Integer, for the labels that are drawn. Defaults to `0`.
        likelihood: A `kfisher.likelihoods.Likelihood`, instead of that of the compiled loss. Defaults to the
            `likelihood` of the model's optimizer, if it has one.
        max_memory: Positive integer, the bytes that the rows of the matrices and what they are made of may
            take together. Where all would take more, fewer examples are measured, down to 64; then F is
            estimated from labels that are drawn for each, as many as fit in. A warning and the tab say so.
            Defaults to half a gibibyte.

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
        Hook.prepare(self.model, type(self).__name__)
        if self.meter is None or self.meter.model is not self.model:
            self.meter = Meter(self.model, self.draws, self.seed, self.likelihood, self.max_memory)
            self.measurements.clear()
            self._most, self._default_damping = self.examples, None
            self._step, self._due, self._unlogged_picture = 0, 0, False
            self._first: int | None = None
        if self._writer is None:
            self._writer = writer.shared(self.log_dir)
            self._writer.add_charts(fisher=True)
        self._budget.start()
        self._pending, self._size, self._skipped = False, 0, False
        self._attaches = wants_batches(self.model)
        if self._attaches:
            with attached(self.model):  # the function keeps the `train_step` that it is made with
                self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        # With gradient accumulation each part is a step here, and Keras' count of whole ones lags behind.
        counted = parts_taken(self.model.optimizer)
        accumulates = getattr(self.model.optimizer, "gradient_accumulation_steps", None)
        self._step = max(self._step, counted) if accumulates else counted
        self._epoch_begins = True

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        step, count = self._step, self.model.steps_per_execution
        due = due_steps(self.freq, step, count, self._epoch_begins)
        self._due += due
        self._pending = self._pending or due > 0
        self._epoch_begins = False
        self._step += count
        self._first = step if self._first is None else self._first
        self._budget.tick()
        # A model may have no weights before its first step.
        if self._pending and self.model.built and self._budget.allows(step - self._first):
            self._hook = Hook.on(self.model)
            if self.probe is None:
                self._hook.peeks.append(lambda data: self._look(data, step))
                self._hook.charges.append(self._budget.add)
            else:
                self._look(self.probe, step)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._attaches:
            self.model.train_function = None  # it was traced with the batches shown
        self._end()

    def _look(self, data: Any, step: int) -> None:
        """Measures, with the weights as they are before the step that trains on this batch."""
        started = time.perf_counter()
        try:
            self._measure(data, step, started)
        except Exception as error:  # training is worth more than its log
            self._pending = False
            self._budget.add(time.perf_counter() - started)
            message = f"No spectra at step {step}; training goes on. Received: {error}"
            self.warn("spectra", message)

    def _measure(self, data: Any, step: int, started: float) -> None:
        cut = examples(data, self._most)
        size = int(keras.tree.flatten(cut[0])[0].shape[0])
        traced = not self.meter.is_traced(cut[0])
        rest = size < self._size and not self._skipped  # of an epoch; the next batch may be whole
        if rest or (traced and self.meter.traces >= _TRACES):  # of a length of its own; others come again
            self._skipped = self._skipped or rest
            self._budget.add(time.perf_counter() - started)
            return
        given = (self.damping, damping_of(self.model), self._default_damping)
        damping = next((value for value in given if value is not None), None)
        try:
            measurement, frame = self.meter(*cut, damping=damping, step=step)
        except TooManyRows as error:
            if not 0 < error.examples < size:
                raise
            message = f"Only {error.examples} examples are measured: {error.reason}. Received: {size}"
            self.warn("examples", message)
            self._most, self._size = error.examples, 0
            self._measure(data, step, started)
            return
        self._pending, self._skipped, self._size = False, False, size
        self._default_damping = measurement.damping
        if measurement.drawn:
            message = (
                f"F is estimated from {measurement.drawn} drawn labels of each example: all its rows would"
            )
            self.warn("drawn", f"{message} take more than max_memory. Received: max_memory={self.max_memory}")
        self.measurements.append(measurement)
        self._open = Open(self, cut, measurement, frame)
        self._open.wait(self._hook)
        self._budget.charge(time.perf_counter() - started, traced)

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

    def _end(self) -> None:
        """What was left out, and the pictures of the last measurement."""
        self._write(self._step, [self._notes()])
        if not (self.write_images and self._unlogged_picture):
            return
        started, self._unlogged_picture = time.perf_counter(), False
        drawn = pictures(list(self.measurements))
        images = [writer.image(f"{schema.PICTURE}{name}", *png) for name, png in drawn.items()]
        self._write(self.measurements[-1].step, images)
        self._budget.add(time.perf_counter() - started)

    def _notes(self) -> Any:
        """What whoever looks at the measurements has to know."""
        notes = [*self._said.values(), self._budget.left_out(self._due)]
        return writer.text(schema.NOTES_TAG, json.dumps([n for n in notes if n]), schema.PLUGIN)

    def _write(self, step: int, values: list[Any]) -> None:
        self._writer.write([(step, time.time(), values)])

    def warn(self, kind: str, message: str) -> None:
        """Each kind of trouble once."""
        if kind not in self._said:
            self._said[kind] = message
            self._write(self._step, [self._notes()])
            warnings.warn(message, stacklevel=2)
