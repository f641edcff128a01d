"""Sources of the charts: a log, its directory, or a measurement."""

from __future__ import annotations

import os
from typing import Any

from kfisher._common.checks import directory, integer, wrong
from kfisher.diagnosis.measurement import Measurement
from kfisher.logs.reader import Log, read_log

Source = Measurement | Log | str | os.PathLike


def log_of(source: Any) -> Log:
    """`source` as a log; a measurement is one with nothing else in it.

    Raises:
        ValueError: If it is something else.
        FileNotFoundError: If it is a directory with no log.
    """
    if isinstance(source, Log):
        return source
    if isinstance(source, Measurement):
        return Log("a measurement", measurements=[source])
    if isinstance(source, (str, os.PathLike)):
        return read_log(directory("source", source))
    kind = "a log directory, the `Log` that `kfisher.read_log` returns, or a `Measurement`"
    raise wrong("source", kind, source)


def measurements_of(source: Any) -> list[Measurement]:
    """All measurements, by step.

    Raises:
        ValueError: If there is none.
    """
    log = log_of(source)
    if not log.measurements:
        raise ValueError(
            "There are no spectra in this log. Pass `kfisher.callbacks.FisherSpectra` or "
            "`kfisher.callbacks.TensorBoard` to `fit`, which measure them, and wait for the first. "
            f"Received: source={log!r}"
        )
    return log.measurements


def nearest(found: list[Any], step: int | None) -> Any:
    """The measurement or verdict at the step nearest to `step`; the last one for `None`.

    Raises:
        ValueError: If `step` is no step.
    """
    step = checked_step(step)
    return found[-1] if step is None else min(found, key=lambda one: abs(one.step - step))


def checked_step(step: Any) -> int | None:
    """`step`, or the error of what is none."""
    return None if step is None else integer("step", step, "an integer from 0 on, or None", 0)
