"""The verdict on the empirical Fisher while a model trains."""

from __future__ import annotations

import math
import os
from typing import Any

from kfisher._common.checks import boolean
from kfisher.callbacks._harmless import harmless
from kfisher.callbacks.fisher_spectra import FisherSpectra
from kfisher.diagnosis.course import Course
from kfisher.diagnosis.limits import MEMORY
from kfisher.diagnosis.measurement import Verdict
from kfisher.diagnosis.summary import Summary
from kfisher.diagnosis.thresholds import Thresholds
from kfisher.diagnosis.verdict import judge, thresholds_of
from kfisher.likelihoods import Likelihood
from kfisher.logs import schema, writer

_GROWN = 11.0  # times its start, as for the tab's banner


@harmless
class FisherDiagnosis(FisherSpectra):
    """Says whether the empirical Fisher can be trusted, and logs what `FisherSpectra` logs.

    Each measurement is judged, together with those before it: is the direction of the EF step distorted or
    opposite to that of the natural-gradient step; are steps inverted in length, long where the gradient is
    small; at a minimum that is shown to be one, is EF the curvature; and do the examples suffice. A verdict
    stays until three of the last five measurements agree on another. The sentence and the numbers behind it
    are in TensorBoard's tabs "Fisher" and "Text"; and so is one summary of the run, from when to when each
    verdict held. `fit` returns it, too: `history.fisher_summary`.

    Args:
        log_dir, freq, examples, probe, draws, damping, max_overhead, write_images, seed, likelihood,
            max_memory: As in `FisherSpectra`; `draws` defaults to `4`, as drawn labels are what EF is judged
            against.
        thresholds: `kfisher.Thresholds`. Defaults to its defaults.
        verbose: 0 or 1; with 1, each new verdict is printed, and the summary at the end. Defaults to `1`.

    Attributes:
        verdict: The last `kfisher.Verdict`, or `None`.
        summary: The `kfisher.diagnosis.summary.Summary` of the run so far, or `None`.

    Raises:
        ValueError: If an argument is wrong.

    Reference:
        Kunstner, Balles, Hennig 2019 (arXiv:1905.12558), section 4.

    Example:

    >>> diagnosis = kfisher.callbacks.FisherDiagnosis("runs/first")
    >>> model.fit(x, y, epochs=10, callbacks=[diagnosis])
    >>> print(diagnosis.summary)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike,
        freq: Any = "logarithmic",
        examples: int = 256,
        probe: Any = None,
        draws: int = 4,
        damping: float | None = None,
        max_overhead: float | None = 0.05,
        write_images: bool = True,
        seed: int = 0,
        thresholds: Thresholds | None = None,
        verbose: int = 1,
        likelihood: Likelihood | None = None,
        max_memory: int = MEMORY,
    ):
        super().__init__(
            log_dir,
            freq,
            examples,
            probe,
            draws,
            damping,
            max_overhead,
            write_images,
            seed,
            likelihood,
            max_memory,
        )
        self.thresholds = thresholds_of(thresholds)
        self.verbose = boolean("verbose", verbose)
        self.verdict: Verdict | None = None
        self.summary: Summary | None = None
        self._course = Course()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_begin(logs)
        if not self.measurements:  # of this model
            self._course, self.verdict, self.summary = Course(), None, None

    def measured(self, measurement: Any, frame: Any) -> None:
        super().measured(measurement, frame)
        last = self.verdict
        self.verdict = self._course.add(judge(self.measurements, frame, self.thresholds, self.seed))
        self.summary = self._course.summary
        values = [
            writer.text(schema.VERDICT_TAG, self.verdict.to_json(), schema.PLUGIN),
            writer.text(schema.VERDICT_TEXT_TAG, _markdown(self.verdict), "text"),
            writer.text(schema.SUMMARY_TAG, self.summary.to_json(), schema.PLUGIN),
        ]
        self._write(measurement.step, values)
        if self.verbose and (last is None or last.verdict != self.verdict.verdict):
            print(f"\nStep {measurement.step}: {self.verdict}", flush=True)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        super().on_train_end(logs)
        if self.summary is None:
            return
        if getattr(self.model, "history", None) is not None:
            self.summary.trouble = _divergence(self.model.history.history.get(schema.LOSS, []))
            self.model.history.fisher_summary = self.summary
        text = str(self.summary).replace("\n  ", "\n- ")
        values = [
            writer.text(schema.SUMMARY_TAG, self.summary.to_json(), schema.PLUGIN),
            writer.text(schema.SUMMARY_TEXT_TAG, text, "text"),
        ]
        self._write(self.measurements[-1].step, values)
        if self.verbose:
            print(f"\n{self.summary}", flush=True)


def _divergence(losses: list[float]) -> str:
    """What to say of the losses of all epochs if the last one is not finite, or far above the first."""
    if not losses or (math.isfinite(losses[-1]) and not losses[-1] > _GROWN * losses[0] > 0):
        return ""
    first, last = losses[0], losses[-1]
    return f"Training diverged: the loss was {first:.3g} in the first epoch and {last:.3g} in the last."


def _markdown(verdict: Verdict) -> str:
    findings = [f"- *{f.name}* ({f.level}): {f.text}" for f in verdict.findings]
    return "\n".join([f"**{verdict.sentence}**\n", *findings, *(f"- {note}" for note in verdict.notes)])
