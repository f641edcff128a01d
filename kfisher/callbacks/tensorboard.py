"""Keras' TensorBoard callback, with the statistics of every step and the Fishers beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kfisher._common import checks
from kfisher.callbacks._schedule import Frequency, checked_frequency
from kfisher.callbacks.fisher_diagnosis import FisherDiagnosis
from kfisher.callbacks.step_statistics import StepStatistics
from kfisher.diagnosis.thresholds import Thresholds
from kfisher.likelihoods import Likelihood
from kfisher.logs import writer


class TensorBoard(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard`, and all that kfisher knows about a training.

    Takes the place of Keras' callback: the same arguments, the same files. Beside them it logs the
    statistics of every step (`StepStatistics`), and the spectra of F and EF with a verdict on whether EF can
    be trusted (`FisherDiagnosis`). Start `tensorboard --logdir logs` and open the tab "Fisher"; the
    same numbers are also under "Scalars", "Images", "Text" and, arranged, under "Custom Scalars".

    Args:
        log_dir: As in `keras.callbacks.TensorBoard`, and so all other arguments of it, by name.
        statistics_freq: Positive integer: log each step that is a multiple of it; 0 for none.
            Defaults to `1`.
        statistics_per_layer: Bool, whether to log norms of each layer, too. Defaults to `False`.
        spectrum_freq: When to measure spectra, as `freq` of `FisherSpectra`; 0 for never.
            Defaults to `"logarithmic"`.
        spectrum_examples, probe, draws, damping, max_overhead, seed, likelihood: As `examples` and so on of
            `FisherSpectra`. `draws` defaults to `2`.
        thresholds, verbose: As in `FisherDiagnosis`; `verbose` defaults to `0`.

    Attributes:
        verdict: The last verdict, or `None`.
        summary: That of the verdicts of the run, or `None`; `fit` returns it as `history.fisher_summary`.
        measurements: The last 100 measurements.

    Raises:
        ValueError: If an argument is wrong.

    Example:

    >>> model.fit(x, y, epochs=10, callbacks=[kfisher.callbacks.TensorBoard("runs/first")])
    """

    def __init__(
        self,
        log_dir: Any = "logs",
        *args: Any,
        statistics_freq: int = 1,
        statistics_per_layer: bool = False,
        spectrum_freq: Frequency = "logarithmic",
        spectrum_examples: int = 256,
        probe: Any = None,
        draws: int = 2,
        damping: float | None = None,
        max_overhead: float | None = 0.05,
        seed: int = 0,
        thresholds: Thresholds | None = None,
        verbose: int = 0,
        likelihood: Likelihood | None = None,
        **kwargs: Any,
    ):
        log_dir = checks.directory("log_dir", log_dir)
        if not _never(statistics_freq):
            kind = "a positive integer, or 0 for never"
            statistics_freq = checks.positive_integer("statistics_freq", statistics_freq, kind)
        if not _never(spectrum_freq):
            spectrum_freq = checked_frequency("spectrum_freq", spectrum_freq)
        statistics_per_layer = checks.boolean("statistics_per_layer", statistics_per_layer)
        spectrum_examples = checks.positive_integer("spectrum_examples", spectrum_examples)
        super().__init__(log_dir, *args, **kwargs)
        self._statistics: dict[str, Any] = {"every": statistics_freq, "per_layer": statistics_per_layer}
        self._spectra = {
            "freq": spectrum_freq,
            "examples": spectrum_examples,
            "probe": probe,
            "draws": draws,
            "damping": damping,
            "max_overhead": max_overhead,
            "seed": seed,
            "thresholds": thresholds,
            "verbose": verbose,
            "likelihood": likelihood,
        }
        self._parts: list[keras.callbacks.Callback] = []
        self._diagnosis: FisherDiagnosis | None = None
        self._make_parts()  # wrong arguments are told now

    @property
    def verdict(self) -> Any:
        return self._diagnosis and self._diagnosis.verdict

    @property
    def summary(self) -> Any:
        return self._diagnosis and self._diagnosis.summary

    @property
    def measurements(self) -> Any:
        return self._diagnosis.measurements if self._diagnosis else []

    def _make_parts(self) -> None:
        """With `log_dir` as it is now: tuners set it anew for each trial."""
        self._parts, self._diagnosis = [], None
        every, freq = self._statistics["every"], self._spectra["freq"]
        # Both are made, so that all other arguments are checked also where they are not used.
        statistics = StepStatistics(
            self.log_dir, **{**self._statistics, "every": 1 if _never(every) else every}
        )
        diagnosis = FisherDiagnosis(self.log_dir, **{**self._spectra, "freq": 1 if _never(freq) else freq})
        if not _never(every):
            self._parts.append(statistics)
        if not _never(freq):
            self._diagnosis = diagnosis
            self._parts.append(diagnosis)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Keras' own part raises where it cannot write, at the first time or later; then it is left out."""
        try:
            yield
        except (OSError, tf.errors.OpError) as error:
            self._broken = True
            writer.warn_once(str(self.log_dir), error)

    def _keras(self, method: str, *arguments: Any) -> None:
        if not self._broken:
            with self._guarded():
                getattr(super(), method)(*arguments)

    def set_model(self, model: Any) -> None:
        self._broken = False
        self._keras("set_model", model)
        if self._broken:
            keras.callbacks.Callback.set_model(self, model)
        if any(part.log_dir != str(self.log_dir) for part in self._parts):
            self._make_parts()
        for part in self._parts:
            part.set_model(model)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._keras("on_train_batch_end", batch, logs)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._keras("on_test_begin", logs)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        self._keras("on_test_end", logs)

    def _both(self, method: str, *arguments: Any) -> None:
        """Keras' part first: what ours add to the logs of an epoch they write themselves."""
        self._keras(method, *arguments)
        for part in self._parts:
            getattr(part, method)(*arguments)

    def set_params(self, params: Any) -> None:
        self._both("set_params", params)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        self._both("on_train_begin", logs)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._both("on_epoch_begin", epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._both("on_train_batch_begin", batch, logs)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._both("on_epoch_end", epoch, logs)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self._both("on_train_end", logs)


def _never(frequency: Any) -> bool:
    return isinstance(frequency, (int, np.integer)) and frequency == 0
