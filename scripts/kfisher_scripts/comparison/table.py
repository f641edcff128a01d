"""A person's own table as a problem: what is in its columns, and what keeps it from being learnt from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kfisher_scripts.comparison import table_file
from kfisher_scripts.comparison.features import CONSTANT, features_of
from kfisher_scripts.comparison.numbers import Format
from kfisher_scripts.comparison.problem import (
    Data,
    Problem,
    half_squared_error,
    largest,
    logistic,
    network,
    sign,
    softmax,
)
from kfisher_scripts.comparison.spelling import note_on
from kfisher_scripts.comparison.system import system
from kfisher_scripts.comparison.table_file import TableError
from kfisher_scripts.comparison.target import check_classes, shortened, target_of

EPOCHS = 100
STEPS = 1200  # which as many epochs as possible of a large table may take, and one of any
_PART = 0.2


def problem_of(
    path: Path,
    target: str,
    task: str | None = None,
    drop: Sequence[str] = (),
    hidden: Sequence[int] = (),
    *,
    categorical: Sequence[str] | None = None,
    form: Format = Format(),
    encoding: str = "utf-8",
    noise: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    curvature: str | None = None,
) -> tuple[Problem, list[str]]:
    """A problem without tuned settings, and notes on what was done to the table.

    Args:
        path: Of a CSV file with a header line, or of a workbook.
        target: The column to predict.
        task: "regression", "classification", or `None` for what the target looks like; see `target_of`.
        drop: Columns to leave out.
        hidden: Widths of hidden layers (tanh); none for a linear model.
        categorical: As in `features_of`.
        form: Of the numbers.
        encoding: Of the file.
        noise: Standard deviation of the noise of a regression, in units of the target; `None` for that of
            the residuals of a linear fit.
        epochs: Passes over the data; `None` for `EPOCHS`, or as many as are done in `STEPS`.
        batch_size, curvature: `None` for those that `system` finds.

    Raises:
        TableError: If the file cannot be learnt from as such a table.
    """
    table = table_file.read(path, target, drop, encoding, form.decimal)
    y, classes = target_of(table, target, task, form)
    train, validation, test = _split(len(y))
    x, notes = features_of(table, target, train, form, categorical)
    notes = [*table.notes, *notes]
    if classes:
        if noise is not None:
            raise TableError(f"--noise goes with a regression, and {target!r} has classes. Leave it out")
        check_classes(y[train], classes, target)
        notes.append(f"{target}: {len(classes)} classes ({shortened(classes)})")
        notes += note_on(target, classes)
    else:
        noise, origin = (noise, "as given") if noise else _noise(x[train], y[train], target)
        y = (y - y[train].mean()) / noise
        notes.append(f"{target}: regression with noise of standard deviation {noise:.4g}, {origin}")
        notes.append(f"loss of a row: ½ (error / {noise:.4g})²")
    notes.append("features: brought to mean 0 and standard deviation 1")
    outputs = len(classes) if len(classes) > 2 else 1
    y = y if outputs > 1 else y[:, np.newaxis]
    parts = [(x[rows], y[rows]) for rows in (train, test, validation)]
    data = Data(*(array for part in parts for array in part))
    widths = (x.shape[1], *hidden, outputs)
    parameters = sum((a + 1) * b for a, b in zip(widths, widths[1:]))
    rows = max(1, outputs - 1)  # the exact Fisher of a softmax has one less than classes
    curvature, batch_size = system(len(train), rows, parameters, curvature, batch_size)
    steps = math.ceil(len(train) / (batch_size or len(train)))
    epochs = epochs or max(1, min(EPOCHS, STEPS // steps))
    unknowns = parameters if curvature == "dense" else (batch_size or len(train)) * rows
    batches = f"batches of {batch_size} rows" if batch_size else "full batches"
    notes.append(f"{epochs} epochs at most, in {batches}")
    notes.append(f"an exact step solves for {unknowns} unknowns (curvature {curvature!r})")
    kind = "-".join(map(str, widths)) if hidden else "linear model"
    correct = {0: None, 2: sign}.get(len(classes), largest)
    loss = {0: half_squared_error, 2: logistic}.get(len(classes), softmax)
    problem = Problem(
        summary=f"{kind} on {target} ({len(train)} x {x.shape[1]}; {len(validation)} to choose by, "
        f"{len(test)} held out)",
        data=lambda: data,
        model=network(*widths),
        loss=loss,
        correct=correct,
        epochs=epochs,
        target=math.nan,
        settings={},
        batch_size=batch_size,
        curvature=curvature,
        noise=noise,
    )
    return problem, notes


def _split(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows to train on, a fifth to choose settings and epochs by, and a fifth held out, all at random."""
    order, part = np.random.default_rng(0).permutation(size), int(_PART * size)
    test, validation, train = np.split(order, [part, 2 * part])
    return train, validation, test


def _noise(x: np.ndarray, y: np.ndarray, name: str) -> tuple[float, str]:
    """The standard deviation that a linear fit leaves, or that of the target where it leaves nothing."""
    scale = np.abs(y).max() or 1.0
    y = y / scale
    y = y - y.mean()
    if np.ptp(y) < CONSTANT:
        raise TableError(f"The target {name!r} is constant in the rows to train on (three fifths, at random)")
    a = np.column_stack([x, np.ones(len(x))])
    theta, _, rank, _ = np.linalg.lstsq(a, y, rcond=None)
    noise = np.sqrt(np.sum((y - a @ theta) ** 2) / max(1, len(y) - rank))
    if noise < 1e-6 * y.std():
        return float(scale * y.std()), "that of the target, since a linear fit leaves nothing"
    return float(scale * noise), "that of the residuals of a linear fit"
