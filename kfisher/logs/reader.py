"""Everything that was logged, read back as tables."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import tensorflow as tf

from kfisher._common import html
from kfisher._common.checks import directory
from kfisher.diagnosis.measurement import Measurement, Verdict
from kfisher.diagnosis.summary import Summary
from kfisher.logs import schema
from kfisher.logs.records import Faults, events

Table = dict[str, np.ndarray]
_OBJECTS: dict[str, Callable[[bytes], Any]] = {
    schema.MEASUREMENT_TAG: Measurement.from_json,
    schema.VERDICT_TAG: Verdict.from_json,
    schema.SUMMARY_TAG: Summary.from_json,
}


@dataclass(repr=False)
class Log:
    """Log of the callbacks in one directory.

    A table is a dict of arrays of equal length, as `pandas.DataFrame(table)` takes it, with NaN where a
    quantity has no value in a row.

    Attributes:
        log_dir: Where it was read from.
        steps: One row for each logged optimizer step: "step" and "update_norm", "gradient_norm",
            "learning_rate", ..., which `StepStatistics` explains; written in float32.
        layers: By the name of the layer, such a table of its "update_norm", "gradient_norm", ...
        spectra: One row for each measurement: "step" and what `Measurement.scalars()` has, without the
            "fisher/": "trace/exact", ...
        measurements: With all eigenvalues, sorted by step.
        verdicts: Sorted by step.
        summary: Of them: from when to when each held, and the numbers that decide; `None` if there are none.
        train: One row for each epoch: "epoch", from 0, and what Keras logs: "loss", ...
        validation: The same on the validation data.
    """

    log_dir: str
    steps: Table = field(default_factory=lambda: _table({}))
    layers: dict[str, Table] = field(default_factory=dict)
    spectra: Table = field(default_factory=lambda: _table({}))
    measurements: list[Measurement] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    summary: Summary | None = None
    train: Table = field(default_factory=lambda: _table({}, "epoch"))
    validation: Table = field(default_factory=lambda: _table({}, "epoch"))

    def __repr__(self) -> str:
        return (
            f"Log({self.log_dir!r}: {len(self.steps['step'])} steps, {len(self.layers)} layers, "
            f"{len(self.measurements)} measurements, {len(self.verdicts)} verdicts, "
            f"{len(self.train['epoch'])} epochs)"
        )

    def _repr_html_(self) -> str:
        """The last verdict, and the first and last value of each column that has one, for a notebook."""
        tables = {"step": self.steps, "measurement": self.spectra, "epoch": self.train}
        tables[schema.VALIDATION_FOLDER] = self.validation
        rows = []
        for name, columns in tables.items():
            for column, values in list(columns.items())[1:]:
                known = values[np.isfinite(values)]
                if len(known):
                    rows.append((name, column, str(len(known)), f"{known[0]:.4g}", f"{known[-1]:.4g}"))
        said = self.verdicts[-1].sentence if self.verdicts else ""
        header = ("of each", "quantity", "values", "first", "last")
        return f"<p>{escape(repr(self))}</p><p>{escape(said)}</p>{html.table(header, rows)}"


def read_log(log_dir: str | os.PathLike) -> Log:
    """Reads back every number that the callbacks logged in a directory.

    All event files in it are merged, whichever `fit` wrote them; of a step that was logged twice, each number
    is the one of the later file. A run may still be going on. Records that are damaged, or no measurement or
    verdict where there should be one, are left out, with a warning for each file.

    Args:
        log_dir: String or path, the `log_dir` that the callbacks were given.

    Returns:
        A `kfisher.Log`.

    Raises:
        FileNotFoundError: If nothing was logged in `log_dir`, or if it is deleted meanwhile.

    Example:

    >>> log = kfisher.read_log("runs/yacht")
    >>> log.steps["update_norm"]
    >>> pandas.DataFrame(log.spectra).to_csv("spectra.csv")
    >>> log.measurements[-1].ratio_eigenvalues
    """
    log_dir = directory("log_dir", log_dir)
    files = {folder: _event_files(log_dir, folder) for folder in schema.FOLDERS}
    if not any(files.values()):
        raise FileNotFoundError(_nothing_in(log_dir))
    faults = Faults()
    series = {folder: _read(files[folder], faults) for folder in schema.FOLDERS}
    faults.warn()
    ours = series[schema.FOLDER]
    measurements = _by_step(ours, schema.MEASUREMENT_TAG)
    verdicts, summaries = _by_step(ours, schema.VERDICT_TAG), _by_step(ours, schema.SUMMARY_TAG)
    for measurement in measurements:  # in float64, where the scalars of an event file are float32
        for tag, value in measurement.scalars().items():
            ours.setdefault(tag, {})[measurement.step] = value
    return Log(
        log_dir=log_dir,
        steps=_table(_below(ours, schema.STEP)),
        layers=_layer_tables(ours),
        spectra=_table(_below(ours, schema.FISHER)),
        measurements=measurements,
        verdicts=verdicts,
        summary=next(iter(reversed(summaries)), None),
        train=_table(_below(series[schema.TRAIN_FOLDER], schema.EPOCH), "epoch"),
        validation=_table(_below(series[schema.VALIDATION_FOLDER], schema.EPOCH), "epoch"),
    )


def _event_files(log_dir: str, folder: str) -> list[str]:
    path = os.path.join(log_dir, folder)
    if not tf.io.gfile.isdir(path):
        return []
    return sorted(os.path.join(path, name) for name in tf.io.gfile.listdir(path) if "tfevents" in name)


def _nothing_in(log_dir: str) -> str:
    if not tf.io.gfile.isdir(log_dir):
        return f"No such directory. Pass the `log_dir` of the callback. Received: log_dir={log_dir!r}"
    inside = sorted(name.rstrip("/") for name in tf.io.gfile.listdir(log_dir))
    runs = [
        name for name in inside if any(_event_files(os.path.join(log_dir, name), f) for f in schema.FOLDERS)
    ]
    return (
        f"Nothing was logged here: none of the folders {', '.join(schema.FOLDERS)} in it has an event file. "
        + (f"It holds the runs {', '.join(runs)}: pass one of them. " if runs else "")
        + ("" if runs else "Pass the `log_dir` of the callback. ")
        + f"Received: log_dir={log_dir!r}"
    )


def _read(paths: list[str], faults: Faults) -> dict[str, dict[int, Any]]:
    """`{tag: {step: value}}` of single numbers, measurements and verdicts, later files over earlier."""
    series: dict[str, dict[int, Any]] = {}
    for path in sorted(paths, key=_start):
        for event in events(path, faults):
            for value in event.summary.value:
                try:
                    found = _content(value)
                except (TypeError, ValueError) as error:
                    faults.add(path, f"{value.tag} at step {event.step}", error)
                    continue
                if found is not None:
                    series.setdefault(value.tag, {})[event.step] = found
    return series


def _start(path: str) -> float:
    """When the first event of a file was written."""
    times = (event.wall_time for event in events(path, Faults()))
    return next(filter(math.isfinite, times), 0.0)


def _content(value: Any) -> Any:
    """A number, a measurement or a verdict; `None` for what is none of these.

    Raises:
        TypeError, ValueError: If it is damaged.
    """
    kind = value.WhichOneof("value")
    tensor = kind == "tensor" and not value.tensor.tensor_shape.dim
    found = tf.make_ndarray(value.tensor).item() if tensor else None
    if value.tag in _OBJECTS:
        if not isinstance(found, bytes):
            raise ValueError("must be a text")
        return _OBJECTS[value.tag](found)
    if kind == "simple_value":
        return value.simple_value
    return float(found) if isinstance(found, (bool, int, float)) else None


def _by_step(series: dict[str, dict[int, Any]], tag: str) -> list[Any]:
    """The objects under a tag; out of the series, where numbers remain."""
    return [found for _, found in sorted(series.pop(tag, {}).items())]


def _below(series: dict[str, dict[int, Any]], prefix: str) -> dict[str, dict[int, float]]:
    return {tag.removeprefix(prefix): values for tag, values in series.items() if tag.startswith(prefix)}


def _table(columns: dict[str, dict[int, float]], index: str = "step") -> Table:
    """Equally long columns, with one row for each step that occurs in any."""
    rows = sorted(set().union(*columns.values()))
    table = {index: np.array(rows, "int64")}
    for name, values in columns.items():
        if name != index:  # no statistic may take the place of the rows
            table[name] = np.array([values.get(row, np.nan) for row in rows], "float64")
    return table


def _layer_tables(series: dict[str, dict[int, float]]) -> dict[str, Table]:
    layers: dict[str, dict[str, dict[int, float]]] = {}
    for tag, values in series.items():
        if parts := schema.layer_and_name(tag):
            layers.setdefault(parts[0], {})[parts[1]] = values
    return {layer: _table(own) for layer, own in layers.items()}
