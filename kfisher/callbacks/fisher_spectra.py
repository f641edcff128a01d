"""The three Fishers side by side while a model trains."""

from __future__ import annotations

import collections
import os
import time
import warnings
from typing import Any

import keras

from kfisher._common import checks
from kfisher._common.models import tensors
from kfisher.callbacks._open import Open
from kfisher.callbacks._picture import picture
from kfisher.callbacks._recorder import parts_taken
from kfisher.callbacks._schedule import Budget, Frequency, checked_frequency, checked_share, is_due
from kfisher.callbacks._train_function import Hook
from kfisher.diagnosis.basis import Frame
from kfisher.diagnosis.measurement import Measurement
from kfisher.diagnosis.meter import Meter, TooManyRows, examples
from kfisher.diagnosis.verdict import damping_of
from kfisher.likelihoods import Likelihood, of_model
from kfisher.logs import schema, writer
from kfisher.logs.custom_scalars import custom_scalars_layout
from kfisher.model import attached, wants_batches


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

    The numbers go to the sub-directory `spectra` of `log_dir`: the tab "Fisher" of TensorBoard shows them
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
        max_overhead: Float in (0, 1], the share of the time of `fit` that measuring may take: what is due is
            put off until it fits in. Tracing, once for each shape of a batch, is not counted. `None` for no
            limit. Defaults to `0.05`.
        write_images: Bool, whether to draw the last measurement for "Images" at the end of `fit`.
            Defaults to `True`.
        seed: Integer, for the labels that are drawn. Defaults to `0`.
        likelihood: A `kfisher.likelihoods.Likelihood`, instead of that of the compiled loss. Defaults to the
            `likelihood` of the model's optimizer, if it has one.

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
    ):
        super().__init__()
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
        self.probe = _checked(probe)
        self.measurements: collections.deque[Measurement] = collections.deque(maxlen=100)
        self._budget = Budget(self.max_overhead)
        self.meter: Any = None
        self._writer: Any = None
        self._step = 0
        self._warned: set[str] = set()
        self._open: Any = None
        self._hook: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        if self._open is not None:  # left by an interrupted `fit`
            self._open.close()
        Hook.prepare(self.model, type(self).__name__)
        if self.meter is None or self.meter.model is not self.model:
            self.meter = Meter(self.model, self.draws, self.seed, self.likelihood)
            self.measurements.clear()
            self._most, self._default_damping = self.examples, None
            self._step, self._unlogged_picture, self._undrawn = 0, False, True
        if self._writer is None:
            layout = custom_scalars_layout(step_names=())
            self._writer = writer.EventWriter(os.path.join(self.log_dir, schema.SPECTRA_FOLDER), layout)
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
        self._pending = self._pending or is_due(self.freq, step, count, self._epoch_begins)
        self._epoch_begins = False
        self._step += count
        self._budget.tick()
        if self._pending and self._budget.allows():
            self._hook = Hook.on(self.model)
            if self.probe is None:
                self._hook.peeks.append(lambda data: self._look(data, step))
            else:
                self._look(self.probe, step)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        if self._attaches:
            self.model.train_function = None  # it was traced with the batches shown
        self._draw()

    def _look(self, data: Any, step: int) -> None:
        """Measures, with the weights as they are before the step that trains on this batch."""
        started = time.perf_counter()
        try:
            self._measure(data, step, started)
        except Exception as error:  # training is worth more than its log
            self._pending = False
            self._budget.charge(time.perf_counter() - started)
            message = f"No spectra at step {step}; training goes on. Received: {error}"
            self.warn("spectra", message)

    def _measure(self, data: Any, step: int, started: float) -> None:
        cut = examples(data, self._most)
        size = int(keras.tree.flatten(cut[0])[0].shape[0])
        if size < self._size and not self._skipped:  # the rest of an epoch; the next batch may be whole
            self._skipped = True
            return
        traced = self.meter.is_traced(cut[0])
        given = (self.damping, damping_of(self.model), self._default_damping)
        damping = next((value for value in given if value is not None), None)
        try:
            measurement, frame = self.meter(*cut, damping=damping, step=step)
        except TooManyRows as error:
            if error.examples >= size:
                raise
            message = f"Only {error.examples} examples are measured: {error.reason}. Received: {size}"
            self.warn("examples", message)
            self._most, self._size = error.examples, 0
            self._measure(data, step, started)
            return
        self._pending, self._skipped, self._size = False, False, size
        self._default_damping = measurement.damping
        self.measurements.append(measurement)
        self._open = Open(self, cut, measurement, frame, started if traced else None)
        self._open.wait(self._hook)

    def finish(self, done: Open) -> None:
        """Logs a measurement, after the step."""
        self._open = None
        try:
            self.measured(done.measurement, done.frame)
        except Exception as error:
            message = f"No spectra at step {done.measurement.step}; training goes on. Received: {error}"
            self.warn("spectra", message)
        self._unlogged_picture = True
        if done.started is not None:
            self._budget.charge(time.perf_counter() - done.started)

    def measured(self, measurement: Measurement, frame: Frame) -> None:
        """Logs a measurement; may be extended."""
        values = writer.scalars(measurement.scalars())
        values.append(writer.text(schema.MEASUREMENT_TAG, measurement.to_json(), schema.PLUGIN))
        self._writer.write([(measurement.step, time.time(), values)])

    def _draw(self) -> None:
        """The picture of the last measurement; the first is free."""
        if not (self.write_images and self._unlogged_picture and (self._undrawn or self._budget.allows())):
            return
        started = time.perf_counter()
        measurement = self.measurements[-1]
        try:
            value = writer.image(schema.OVERVIEW_TAG, *picture(measurement))
            self._writer.write([(measurement.step, time.time(), [value])])
        except Exception as error:
            message = f"No picture of step {measurement.step}; training goes on. Received: {error}"
            self.warn("picture", message)
        self._unlogged_picture = self._undrawn = False
        self._budget.charge(time.perf_counter() - started)

    def warn(self, kind: str, message: str) -> None:
        """Each kind of trouble once."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, stacklevel=2)


def _checked(probe: Any) -> Any:
    """Examples that are `None`, or a tuple of arrays with the same number of rows."""
    if probe is None:
        return None
    if not isinstance(probe, tuple) or len(probe) not in (2, 3) or any(part is None for part in probe[:2]):
        raise checks.wrong("probe", "a tuple (x, y) or (x, y, sample_weight), or None", probe)
    checks.check_batch(probe=tensors(probe=probe)[0])
    return probe
