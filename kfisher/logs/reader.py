"""Everything that was logged, read back as tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from kfisher.diagnosis.measurement import Measurement, Verdict

Table = dict[str, np.ndarray]
_FOLDERS = ("steps", "spectra", "verdict", "train", "validation")


@dataclass(repr=False)
class Log:
    """What the callbacks logged in one directory.

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
        train: One row for each epoch: "epoch", from 0, and what Keras logs: "loss", ...
        validation: The same on the validation data.
    """

    log_dir: str
    steps: Table = field(default_factory=lambda: _table({}))
    layers: dict[str, Table] = field(default_factory=dict)
    spectra: Table = field(default_factory=lambda: _table({}))
    measurements: list[Measurement] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    train: Table = field(default_factory=lambda: _table({}, "epoch"))
    validation: Table = field(default_factory=lambda: _table({}, "epoch"))

    def __repr__(self) -> str:
        return (
            f"Log({self.log_dir!r}: {len(self.steps['step'])} steps, {len(self.layers)} layers, "
            f"{len(self.measurements)} measurements, {len(self.verdicts)} verdicts, "
            f"{len(self.train['epoch'])} epochs)"
        )


def read_log(log_dir: str | os.PathLike) -> Log:
    """Reads back every number that the callbacks logged in a directory.

    All event files in it are merged, whichever `fit` wrote them; of a step that was logged twice, each number
    is the one of the later file. A run may still be going on.

    Args:
        log_dir: String or path, the `log_dir` that the callbacks were given.

    Returns:
        A `kfisher.log.Log`.

    Raises:
        FileNotFoundError: If nothing was logged in `log_dir`.

    Example:

    >>> log = kfisher.read_log("runs/yacht")
    >>> log.steps["update_norm"]
    >>> pandas.DataFrame(log.spectra).to_csv("spectra.csv")
    >>> log.measurements[-1].ratio_eigenvalues
    """
    log_dir = os.fspath(log_dir)
    files = {folder: _event_files(log_dir, folder) for folder in _FOLDERS}
    if not any(files.values()):
        raise FileNotFoundError(_nothing_in(log_dir))
    series = {folder: _read(files[folder]) for folder in _FOLDERS}
    measurements = [Measurement.from_json(text) for text in _texts(series["spectra"], "fisher/measurement")]
    for measurement in measurements:  # in float64, where the scalars of an event file are float32
        for tag, value in measurement.scalars().items():
            series["spectra"].setdefault(tag, {})[measurement.step] = value
    return Log(
        log_dir=log_dir,
        steps=_table(_below(series["steps"], "step/")),
        layers=_layer_tables(_below(series["steps"], "layer/")),
        spectra=_table(_below(series["spectra"], "fisher/")),
        measurements=measurements,
        verdicts=[Verdict.from_json(text) for text in _texts(series["verdict"], "fisher/verdict")],
        train=_table(_below(series["train"], "epoch_"), "epoch"),
        validation=_table(_below(series["validation"], "epoch_"), "epoch"),
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
    runs = [name for name in inside if any(_event_files(os.path.join(log_dir, name), f) for f in _FOLDERS)]
    return (
        f"Nothing was logged here: none of the folders {', '.join(_FOLDERS)} in it has an event file. "
        + (f"It holds the runs {', '.join(runs)}: pass one of them. " if runs else "")
        + ("" if runs else "Pass the `log_dir` of the callback. ")
        + f"Received: log_dir={log_dir!r}"
    )


def _events(path: str) -> Iterator[Any]:
    """The events of a file up to its end, or up to a record that is still being written."""
    try:
        for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
            yield tf.compat.v1.Event.FromString(record)
    except tf.errors.DataLossError:
        return


def _read(paths: list[str]) -> dict[str, dict[int, Any]]:
    """`{tag: {step: value}}` of all single numbers and strings, later files over earlier ones."""
    starts = {path: next((event.wall_time for event in _events(path)), 0.0) for path in paths}
    series: dict[str, dict[int, Any]] = {}
    for path in sorted(paths, key=starts.__getitem__):
        for event in _events(path):
            step = event.step
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                if kind == "simple_value":
                    series.setdefault(value.tag, {})[step] = value.simple_value
                elif kind == "tensor" and not value.tensor.tensor_shape.dim:
                    series.setdefault(value.tag, {})[step] = tf.make_ndarray(value.tensor).item()
    return series


def _texts(series: dict[str, dict[int, Any]], tag: str) -> list[str]:
    """The strings under a tag, by step; out of the series, where numbers remain."""
    return [text.decode() for _, text in sorted(series.pop(tag, {}).items())]


def _below(series: dict[str, dict[int, Any]], prefix: str) -> dict[str, dict[int, float]]:
    return {tag.removeprefix(prefix): values for tag, values in series.items() if tag.startswith(prefix)}


def _table(columns: dict[str, dict[int, float]], index: str = "step") -> Table:
    """Equally long columns, with one row for each step that occurs in any."""
    rows = sorted(set().union(*columns.values()))
    table = {index: np.array(rows, "int64")}
    for name, values in columns.items():
        table[name] = np.array([values.get(row, np.nan) for row in rows], "float64")
    return table


def _layer_tables(columns: dict[str, dict[int, float]]) -> dict[str, Table]:
    layers: dict[str, dict[str, dict[int, float]]] = {}
    for tag, values in columns.items():
        layer, name = tag.rsplit("/", 1)
        layers.setdefault(layer, {})[name] = values
    return {layer: _table(own) for layer, own in layers.items()}
