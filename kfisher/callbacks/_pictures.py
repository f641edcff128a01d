"""Charts of measurements as PNGs, of the size that TensorBoard's "Images" has for them."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from kfisher import plots
from kfisher.diagnosis.measurement import Measurement
from kfisher.logs.reader import Log

_SIZE, _DPI = (4.2, 3.4), 130  # inches: a card is 300 pixels wide, and opens to the full size

_OF_LAST = {"spectra": plots.spectra, "ratio_eigenvalues": plots.ratio_eigenvalues}
_COURSE = {"cosine": plots.cosine, "step_lengths": plots.step_lengths, "gamma": plots.gamma}


def pictures(measurements: list[Measurement]) -> dict[str, tuple[bytes, int, int]]:
    """By name a PNG, with its width and height: of the last measurement, and of the course of several.

    None of a single dot.
    """
    last = measurements[-1]
    dots = {
        "spectra": max(len(spectrum.eigenvalues) for spectrum in last.spectra.values()),
        "ratio_eigenvalues": len(last.ratio_eigenvalues),
    }
    charts: dict[str, Any] = {name: chart for name, chart in _OF_LAST.items() if dots[name] > 1}
    if len(measurements) > 1:
        charts |= _COURSE
    log = Log("measurements", measurements=measurements)
    return {name: _png(chart, log) for name, chart in charts.items()}


def _png(chart: Any, log: Log) -> tuple[bytes, int, int]:
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    chart(log, ax=figure.add_subplot())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    width, height = (round(inches * _DPI) for inches in _SIZE)
    return buffer.getvalue(), width, height
