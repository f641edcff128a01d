"""A person's own table as a problem: what is in the file, and what keeps it from being learnt from."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import kfisher
from comparison.problems import Data, Problem, largest, sign, squared_error

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
_CLASSES = 20  # whole numbers with no more different values than this are labels of classes
_HELD_OUT = 0.2


class TableError(ValueError):
    """Something about the file that its owner has to decide."""


def problem_of(
    path: Path, target: str, task: str | None, drop: Sequence[str], hidden: Sequence[int], epochs: int
) -> tuple[Problem, list[str]]:
    """A problem without tuned settings, and notes on what was done to the table.

    Args:
        path: Of a CSV file with a header line.
        target: The column to predict.
        task: "regression", "classification", or `None`: classification where the target is text or has few
            different whole numbers.
        drop: Columns to leave out.
        hidden: Widths of hidden layers (tanh); none for a linear model.
        epochs: Passes over the data.

    Raises:
        TableError: If the file cannot be read as such a table.
    """
    columns = _read(path)
    for name in (target, *drop):
        if name not in columns:
            raise TableError(f"There is no column {name!r} in {path}. It has: {', '.join(columns)}")
    kept = {name: column for name, column in columns.items() if name not in drop or name == target}
    _check_missing(kept, path)
    labels = kept.pop(target)
    features, notes = _features(kept, target)
    y, classes = _target(labels, target, task)
    notes.append(
        f"{target}: {len(classes)} classes ({', '.join(classes[:6])}{', ...' * (len(classes) > 6)})"
        if classes
        else f"{target}: regression, in units of its standard deviation"
    )
    notes.append("features: brought to mean 0 and standard deviation 1")
    data = _split(features, y if len(classes) > 2 else y[:, np.newaxis])
    outputs = len(classes) if len(classes) > 2 else 1
    kind = "linear model" if not hidden else "-".join(map(str, (features.shape[1], *hidden, outputs)))
    problem = Problem(
        summary=f"{kind} on {target} ({len(data.x)} x {features.shape[1]}, and {len(data.x_test)} held out)",
        data=lambda: data,
        model=lambda: _model(features.shape[1], hidden, outputs),
        loss=_loss(classes),
        correct=None if not classes else sign if len(classes) == 2 else largest,
        epochs=epochs,
        target=math.nan,
        settings={},
        curvature="dense" if not hidden else "gram",
        loss_weight=1.0 if classes else 0.5,
    )
    return problem, notes


def _read(path: Path) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(f"{path} cannot be read as a CSV file in UTF-8: {error}") from None
    header = [name.strip() for name in header]
    if len(lines) < 10:
        raise TableError(f"{path} has {len(lines)} rows below its header; at least 10 are needed")
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise TableError(f"{path} has several columns of one name: {', '.join(doubled)}")
    for number, line in enumerate(lines, start=2):
        if len(line) != len(header):
            raise TableError(f"Row {number} of {path} has {len(line)} entries, the header has {len(header)}")
    return {name: [line[i].strip() for line in lines] for i, name in enumerate(header)}


def _check_missing(columns: dict[str, list[str]], path: Path) -> None:
    missing = {name: sum(e.lower() in _MISSING for e in column) for name, column in columns.items()}
    missing = {name: count for name, count in missing.items() if count}
    if missing:
        listed = ", ".join(f"{name} ({count} of {len(columns[name])})" for name, count in missing.items())
        raise TableError(
            f"{path} has missing values in: {listed}. Fill them in, delete those rows, or leave columns out "
            f"with --drop {' '.join(missing)}"
        )


def _features(columns: dict[str, list[str]], target: str) -> tuple[np.ndarray, list[str]]:
    """Standardised numbers `(N, D)`; constant columns say nothing and are left out, which is noted."""
    text = {name: _first_text(column) for name, column in columns.items()}
    text = {name: entry for name, entry in text.items() if entry is not None}
    if text:
        listed = ", ".join(f"{name} ({entry!r})" for name, entry in text.items())
        raise TableError(
            f"These columns hold text: {listed}. Replace it by numbers (one column of 0 and 1 for each "
            f"category), or leave them out with --drop {' '.join(text)}"
        )
    numbers = {name: np.array(column, np.float64) for name, column in columns.items()}
    endless = [name for name, column in numbers.items() if not np.all(np.isfinite(column))]
    if endless:
        raise TableError(f"These columns hold infinite numbers: {', '.join(endless)}")
    constant = [name for name, column in numbers.items() if np.ptp(column) == 0]
    notes = [f"left out, as they are constant: {', '.join(constant)}"] if constant else []
    varying = [column for name, column in numbers.items() if name not in constant]
    if not varying:
        raise TableError(f"No column is left to predict {target!r} from")
    x = np.stack(varying, 1)
    return (x - x.mean(0)) / x.std(0), notes


def _target(labels: list[str], name: str, task: str | None) -> tuple[np.ndarray, list[str]]:
    """Labels `(N,)`, and the classes, none for a regression."""
    text = _first_text(labels)
    values = np.array(labels) if text is not None else np.array(labels, np.float64)
    different = np.unique(values)
    if len(different) == 1:
        raise TableError(f"The target {name!r} is constant, {labels[0]!r}: there is nothing to predict")
    if task == "regression" and text is not None:
        raise TableError(f"The target {name!r} holds text ({text!r}), which cannot be regressed")
    whole = text is not None or np.all(values == np.round(values))
    if task is None:
        few = whole and len(different) <= _CLASSES
        task = "classification" if text is not None or few else "regression"
    if task == "regression":
        return (values - values.mean()) / values.std(), []
    if not whole or 2 * len(different) > len(values):
        raise TableError(
            f"The target {name!r} has {len(different)} different values in {len(values)} rows, which are no "
            "classes. Pass --task regression"
        )
    classes, y = np.unique(values, return_inverse=True)
    return y.astype(np.float64), [c if text is not None else f"{c:g}" for c in classes.tolist()]


def _first_text(column: list[str]) -> str | None:
    for entry in column:
        try:
            float(entry)
        except ValueError:
            return entry
    return None


def _split(x: np.ndarray, y: np.ndarray) -> Data:
    """A fifth held out at random."""
    order = np.random.default_rng(0).permutation(len(x))
    test, train = np.split(order, [int(_HELD_OUT * len(x))])
    return Data(x[train], y[train], x[test], y[test])


def _model(features: int, hidden: Sequence[int], outputs: int) -> keras.Model:
    layers = [keras.layers.Dense(n, activation="tanh", dtype="float64") for n in hidden]
    start = "glorot_uniform" if hidden else "zeros"
    last = keras.layers.Dense(outputs, kernel_initializer=start, dtype="float64")
    return kfisher.Sequential([keras.Input((features,), dtype="float64"), *layers, last])


def _loss(classes: list):
    if not classes:
        return squared_error
    if len(classes) == 2:
        return lambda: keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64")
    return lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
