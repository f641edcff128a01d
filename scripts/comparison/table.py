"""A person's own table as a problem: what is in its columns, and what keeps it from being learnt from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

import kfisher
from comparison import table_file
from comparison.problems import Data, Problem, half_squared_error, largest, sign
from comparison.system import system
from comparison.table_file import TableError

EPOCHS = 100
_CLASSES = 20  # whole numbers with no more different values than this are labels of classes
_HELD_OUT = 0.2
_HUGE = 1e150  # its square is still finite


def problem_of(
    path: Path,
    target: str,
    task: str | None = None,
    drop: Sequence[str] = (),
    hidden: Sequence[int] = (),
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    curvature: str | None = None,
) -> tuple[Problem, list[str]]:
    """A problem without tuned settings, and notes on what was done to the table.

    Args:
        path: Of a CSV file with a header line.
        target: The column to predict.
        task: "regression", "classification", or `None`: classification where the target is text or has few
            different whole numbers.
        drop: Columns to leave out.
        hidden: Widths of hidden layers (tanh); none for a linear model.
        epochs: Passes over the data; `None` for `EPOCHS`.
        batch_size, curvature: `None` for those that `system` finds.

    Raises:
        TableError: If the file cannot be learnt from as such a table.
    """
    columns, labels = table_file.read(path, target, drop)
    y, classes = _target(labels, target, task)
    train, test = _split(len(y))
    x, notes = _features(columns, target, train)
    if classes:
        _check_classes(y[train], classes, target)
        notes.append(
            f"{target}: {len(classes)} classes ({', '.join(classes[:6])}{', ...' * (len(classes) > 6)})"
        )
    else:
        unit, name = _unit(x[train], y[train], target)
        y = (y - y[train].mean()) / unit
        notes.append(
            f"{target}: regression, in units of {unit:.4g}, {name}: the loss takes the noise as Normal of "
            "variance 1"
        )
    notes.append("features: brought to mean 0 and standard deviation 1")
    outputs = len(classes) if len(classes) > 2 else 1
    y = y if outputs > 1 else y[:, np.newaxis]
    data = Data(x[train], y[train], x[test], y[test])
    widths = (x.shape[1], *hidden, outputs)
    parameters = sum((a + 1) * b for a, b in zip(widths, widths[1:]))
    curvature, batch_size = system(len(train), outputs, parameters, curvature, batch_size)
    rows = batch_size or len(train)
    solved = f"{parameters} parameters" if curvature == "dense" else f"{rows * outputs} outputs"
    batches = f"batches of {batch_size} rows" if batch_size else "full batches"
    notes.append(f"{batches}; a natural-gradient step solves for {solved} (curvature {curvature!r})")
    kind = "-".join(map(str, widths)) if hidden else "linear model"
    problem = Problem(
        summary=f"{kind} on {target} ({len(train)} x {x.shape[1]}, and {len(test)} held out)",
        data=lambda: data,
        model=lambda: _model(widths),
        loss=_loss(classes),
        correct=None if not classes else sign if len(classes) == 2 else largest,
        epochs=epochs or EPOCHS,
        target=math.nan,
        settings={},
        batch_size=batch_size,
        curvature=curvature,
    )
    return problem, notes


def _split(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and a fifth held out at random."""
    order = np.random.default_rng(0).permutation(size)
    test, train = np.split(order, [int(_HELD_OUT * size)])
    return train, test


def _features(
    columns: dict[str, list[str]], target: str, train: np.ndarray
) -> tuple[np.ndarray, list[str]]:
    """Numbers `(N, D)`, standardised by the rows trained on.

    Columns that are constant there say nothing and are left out, which is noted.
    """
    text = {name: _first_text(column) for name, column in columns.items()}
    text = {name: entry for name, entry in text.items() if entry is not None}
    if text:
        listed = ", ".join(f"{name} ({entry!r})" for name, entry in text.items())
        raise TableError(
            f"These columns hold text: {listed}. Write decimal commas as points, dates as numbers of days "
            "and categories as one column of 0 and 1 each, or leave the columns out with "
            f"--drop {shlex.join(text)}"
        )
    numbers = {name: np.array(column, np.float64) for name, column in columns.items()}
    endless = [name for name, column in numbers.items() if not _finite(column)]
    if endless:
        raise TableError(
            f"These columns hold numbers that are not finite: {', '.join(endless)}. Mend those rows or "
            f"delete them, or leave the columns out with --drop {shlex.join(endless)}"
        )
    constant = [name for name, column in numbers.items() if np.ptp(column[train]) == 0]
    notes = [f"left out, as they are constant: {', '.join(constant)}"] if constant else []
    varying = [column for name, column in numbers.items() if name not in constant]
    if not varying:
        raise TableError(f"No column that varies is left to predict {target!r} from")
    x = np.stack(varying, 1)
    return (x - x[train].mean(0)) / x[train].std(0), notes


def _target(labels: list[str], name: str, task: str | None) -> tuple[np.ndarray, list[str]]:
    """Numbers or the indices of classes `(N,)`, and the classes, none for a regression."""
    text = _first_text(labels)
    values = np.array(labels) if text is not None else np.array(labels, np.float64)
    if text is None and not _finite(values):
        raise TableError(
            f"The target {name!r} holds numbers that are not finite. Mend those rows, or delete them"
        )
    classes, y = np.unique(values, return_inverse=True)
    if len(classes) == 1:
        raise TableError(f"The target {name!r} is constant, {labels[0]!r}: there is nothing to predict")
    if task == "regression" and text is not None:
        raise TableError(
            f"The target {name!r} holds text ({text!r}), which cannot be regressed. Write numbers, with "
            "decimal points instead of commas"
        )
    repeated = 2 * len(classes) <= len(values)
    whole = text is None and bool(np.all(values == np.round(values)))
    if task is None:
        few = whole and repeated and len(classes) <= _CLASSES
        task = "classification" if text is not None or few else "regression"
    if task == "regression":
        return values, []
    if text is not None and not repeated:
        raise TableError(
            f"The target {name!r} has no classes to learn: {len(classes)} different values in {len(values)} "
            f"rows, such as {text!r}. If these are numbers, write them as such, with decimal points"
        )
    if text is None and not (whole and repeated):
        raise TableError(
            f"The target {name!r} has {len(classes)} different values in {len(values)} rows, which are no "
            "classes. Pass --task regression"
        )
    return y.astype(np.float64), [c if text is not None else f"{c:g}" for c in classes.tolist()]


def _check_classes(y: np.ndarray, classes: list[str], name: str) -> None:
    absent = [c for i, c in enumerate(classes) if i not in y]
    if absent:
        raise TableError(
            f"None of the rows to train on (four fifths, at random) has {name} = {', '.join(absent)}. Delete "
            "the rows of such rare classes, or join these with others"
        )


def _unit(x: np.ndarray, y: np.ndarray, name: str) -> tuple[float, str]:
    """What the target is divided by, so that the noise has the variance 1 that the loss takes it to have."""
    spread = float(y.std())
    if spread == 0:
        raise TableError(f"The target {name!r} is constant in the rows to train on (four fifths, at random)")
    a = np.column_stack([x, np.ones(len(x))])
    theta, _, rank, _ = np.linalg.lstsq(a, y - y.mean(), rcond=None)
    residual = np.sum((y - y.mean() - a @ theta) ** 2)
    noise = float(np.sqrt(residual / max(1, len(y) - rank)))
    if noise < 1e-6 * spread:
        return spread, "its standard deviation"
    return noise, "the standard deviation of what a linear fit leaves"


def _first_text(column: list[str]) -> str | None:
    for entry in column:
        try:
            float(entry)
        except ValueError:
            return entry
    return None


def _finite(values: np.ndarray) -> bool:
    return bool(np.all(np.abs(values) < _HUGE))


def _model(widths: Sequence[int]) -> keras.Model:
    features, *hidden, outputs = widths
    layers = [keras.layers.Dense(n, activation="tanh", dtype="float64") for n in hidden]
    start = "glorot_uniform" if hidden else "zeros"
    last = keras.layers.Dense(outputs, kernel_initializer=start, dtype="float64")
    return kfisher.Sequential([keras.Input((features,), dtype="float64"), *layers, last])


def _loss(classes: list):
    if not classes:
        return half_squared_error
    if len(classes) == 2:
        return lambda: keras.losses.BinaryCrossentropy(from_logits=True, dtype="float64")
    return lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")
