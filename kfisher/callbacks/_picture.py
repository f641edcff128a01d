"""The charts of one measurement as a PNG."""

from __future__ import annotations

import io

from kfisher import plots
from kfisher.diagnosis.measurement import Measurement

_DPI = 80


def picture(measurement: Measurement) -> tuple[bytes, int, int]:
    """PNG, width and height in pixels."""
    figure = plots.overview(measurement)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    width, height = (int(round(inches * _DPI)) for inches in figure.get_size_inches())
    return buffer.getvalue(), width, height
