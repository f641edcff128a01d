"""A person's own table as a problem: what is in its columns, and what keeps it from being learnt from."""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kfisher_scripts.comparison import table_file
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
from kfisher_scripts.comparison.system import system
from kfisher_scripts.comparison.table_file import TableError
from kfisher_scripts.comparison.target import check_classes, is_number, shortened, target_of

EPOCHS = 100
_HELD_OUT = 0.2
_CONSTANT = 1e-12  # variation, relative to the largest entry, that is rounding


def problem_of(
    path: Path,
    target: str,
    task: str | None = None,
    drop: Sequence[str] = (),
    hidden: Sequence[int] = (),
    *,
    noise: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    curvature: str | None = None,
) -> tuple[Problem, list[str]]:
    """A problem without tuned settings, and notes on what was done to the table.

    Args:
        path: Of a CSV file with a header line.
        target: The column to predict.
        task: "regression", "classification", or `None` for what the target looks like; see `target_of`.
        drop: Columns to leave out.
        hidden: Widths of hidden layers (tanh); none for a linear model.
        noise: Standard deviation of the noise of a regression, in units of the target; `None` for that of
            the residuals of a linear fit.
        epochs: Passes over the data; `None` for `EPOCHS`.
        batch_size, curvature: `None` for those that `system` finds.

    Raises:
        TableError: If the file cannot be learnt from as such a table.
    """
    columns, labels = table_file.read(path, target, drop)
    y, classes = target_of(labels, target, task)
    train, test = _split(len(y))
    x, notes = _features(columns, target, train)
    if classes:
        if noise is not None:
            raise TableError(f"--noise goes with a regression, and {target!r} has classes. Leave it out")
        check_classes(y[train], classes, target)
        notes.append(f"{target}: {len(classes)} classes ({shortened(classes)})")
    else:
        noise, origin = (noise, "as given") if noise else _noise(x[train], y[train], target)
        y = (y - y[train].mean()) / noise
        notes.append(f"{target}: regression with noise of standard deviation {noise:.4g}, {origin}")
    notes.append("features: brought to mean 0 and standard deviation 1")
    outputs = len(classes) if len(classes) > 2 else 1
    y = y if outputs > 1 else y[:, np.newaxis]
    data = Data(x[train], y[train], x[test], y[test])
    widths = (x.shape[1], *hidden, outputs)
    parameters = sum((a + 1) * b for a, b in zip(widths, widths[1:]))
    rows = max(1, outputs - 1)  # the exact Fisher of a softmax has one less than classes
    curvature, batch_size = system(len(train), rows, parameters, curvature, batch_size)
    unknowns = parameters if curvature == "dense" else (batch_size or len(train)) * rows
    batches = f"batches of {batch_size} rows" if batch_size else "full batches"
    notes.append(f"{batches}; an exact step solves for {unknowns} unknowns (curvature {curvature!r})")
    kind = "-".join(map(str, widths)) if hidden else "linear model"
    correct = {0: None, 2: sign}.get(len(classes), largest)
    loss = {0: half_squared_error, 2: logistic}.get(len(classes), softmax)
    problem = Problem(
        summary=f"{kind} on {target} ({len(train)} x {x.shape[1]}, and {len(test)} held out)",
        data=lambda: data,
        model=network(*widths),
        loss=loss,
        correct=correct,
        epochs=epochs or EPOCHS,
        target=math.nan,
        settings={},
        batch_size=batch_size,
        curvature=curvature,
        noise=noise,
    )
    return problem, notes


def _split(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on, and a fifth held out at random."""
    order = np.random.default_rng(0).permutation(size)
    test, train = np.split(order, [int(_HELD_OUT * size)])
    return train, test


def _features(columns: dict[str, list[str]], target: str, train: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Numbers `(N, D)`, standardised by the rows trained on.

    Columns that are constant there say nothing and are left out, which is noted.
    """
    text = {name: next((e for e in column if not is_number(e)), None) for name, column in columns.items()}
    text = {name: entry for name, entry in text.items() if entry is not None}
    if text:
        listed = ", ".join(f"{name} ({entry!r})" for name, entry in text.items())
        raise TableError(
            f"These columns hold text: {listed}. Write decimal commas as points, dates as numbers of days "
            "and categories as one column of 0 and 1 each, or leave the columns out with "
            f"--drop {shlex.join(text)}"
        )
    numbers = {name: np.array(column, np.float64) for name, column in columns.items()}
    endless = [name for name, column in numbers.items() if not np.all(np.isfinite(column))]
    if endless:
        raise TableError(
            f"These columns hold numbers that are not finite: {', '.join(endless)}. Mend those rows or "
            f"delete them, or leave the columns out with --drop {shlex.join(endless)}"
        )
    # In units of the largest entry, in which no square overflows or underflows.
    scaled = {name: column / (np.abs(column).max() or 1.0) for name, column in numbers.items()}
    constant = [name for name, column in scaled.items() if np.ptp(column[train]) < _CONSTANT]
    notes = [f"left out, as they are constant: {', '.join(constant)}"] if constant else []
    varying = [column for name, column in scaled.items() if name not in constant]
    if not varying:
        raise TableError(f"No column that varies is left to predict {target!r} from")
    x = np.stack(varying, 1)
    return (x - x[train].mean(0)) / x[train].std(0), notes


def _noise(x: np.ndarray, y: np.ndarray, name: str) -> tuple[float, str]:
    """The standard deviation that a linear fit leaves, or that of the target where it leaves nothing."""
    scale = np.abs(y).max() or 1.0
    y = y / scale
    y = y - y.mean()
    if np.ptp(y) < _CONSTANT:
        raise TableError(f"The target {name!r} is constant in the rows to train on (four fifths, at random)")
    a = np.column_stack([x, np.ones(len(x))])
    theta, _, rank, _ = np.linalg.lstsq(a, y, rcond=None)
    noise = np.sqrt(np.sum((y - a @ theta) ** 2) / max(1, len(y) - rank))
    if noise < 1e-6 * y.std():
        return float(scale * y.std()), "that of the target, since a linear fit leaves nothing"
    return float(scale * noise), "that of the residuals of a linear fit"
