"""What a comparison leaves behind: a CSV, and a table; `picture.py` draws, `conclusions.py` judges."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kfisher_scripts.comparison.problem import Data, Problem
from kfisher_scripts.comparison.run import Run

COLUMNS = (
    "optimizer",
    "seed",
    "step",
    "seconds",
    "loss",
    "accuracy",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "error",
    "cosine",
)


class Units(NamedTuple):
    """What the loss is told in.

    Attributes:
        columns: Of the table: heading, number of a row of a run, and format.
        judged: The column of a run by which optimizers are compared.
    """

    columns: list[tuple[str, Callable[[dict[str, float]], float], str]]
    judged: str = "loss"


def units_of(problem: Problem, data: Data) -> Units:
    """RMSE and R² in the units of a regressed table, log-loss and accuracy of a classified one."""
    of = lambda name: lambda row: row[name]
    if data.x_validation is None:
        columns = [
            ("loss", of("loss"), ".4g"),
            ("accuracy", of("accuracy"), ".3f"),
            ("test loss", of("test_loss"), ".4g"),
            ("test acc.", of("test_accuracy"), ".3f"),
        ]
        if problem.error is not None:
            columns.append(("rel. error", of("error"), ".2e"))
        return Units(columns)
    kept = ("kept step", of("step"), ".4g")
    if problem.noise is None:
        loss, accuracy = (("log-loss", "loss", ".4g"), ("accuracy", "accuracy", ".3f"))
        columns = [(prefix + h, of(p + n), f) for prefix, p in _PARTS for h, n, f in (loss, accuracy)]
        return Units([kept, *columns], "validation_loss")
    variance = {"": _variance(data.y), "test_": _variance(data.y_test)}

    def rmse(name: str) -> Callable:
        return lambda row: problem.noise * math.sqrt(2 * row[f"{name}loss"])

    def r_squared(name: str) -> Callable:
        return lambda row: 1 - 2 * row[f"{name}loss"] / variance[name]

    columns = []
    for prefix, name in _PARTS:
        columns += [(f"{prefix}RMSE", rmse(name), ".4g"), (f"{prefix}R²", r_squared(name), ".3f")]
    return Units([kept, *columns], "validation_loss")


_PARTS = (("", ""), ("test ", "test_"))


def _variance(y: np.ndarray) -> float:
    """NaN of equal values, of which no part is explained; their variance may be rounding instead of 0."""
    return float(np.var(y)) if np.ptp(y) > 0 else math.nan


def write_csv(runs: list[Run], path: Path) -> None:
    """One line for each measurement; empty where a quantity was not measured or does not apply."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for run in runs:
            for row in run.rows:
                numbers = {k: "" if math.isnan(v) else f"{v:.8g}" for k, v in row.items()}
                writer.writerow({"optimizer": run.optimizer, "seed": run.seed, **numbers})


def target_of(runs: list[Run], judged: str = "loss") -> float:
    """The loss at which the slowest ends, rounded up to four digits; NaN if none ends at a finite one."""
    ends = [run.end[judged] for run in runs if math.isfinite(run.end[judged])]
    if not ends or max(ends) <= 0:
        return math.nan
    unit = 10.0 ** (math.floor(math.log10(max(ends))) - 3)
    return float(f"{math.ceil(max(ends) / unit) * unit:.4g}")


def table(runs: list[Run], target: float, units: Units) -> str:
    """One line for each optimizer: means over its seeds, "-" where it does not apply or not all got there."""
    header = (
        *("optimizer", "lr", "damping"),
        *(heading for heading, _, _ in units.columns),
        *(
            f"steps to {units.judged.replace('_', ' ')} {target:g}",
            "seconds",
            "ms/step",
            "cos mean",
            "cos min",
        ),
    )
    lines = [header]
    for name in dict.fromkeys(run.optimizer for run in runs):
        own = [run for run in runs if run.optimizer == name]
        reached = [_first_below(run, units.judged, target) for run in own]
        cosines = np.concatenate([run.column("cosine") for run in own])
        cosines = cosines[np.isfinite(cosines)]
        setting = own[0].setting
        lines.append(
            (
                name,
                f"{setting.learning_rate:.3g}",
                _damping(setting.damping),
                *(_number([of(run.end) for run in own], form) for _, of, form in units.columns),
                _number([step for step, _ in reached], ".4g"),
                _number([seconds for _, seconds in reached], ".3g"),
                _number([1000 * run.rows[-1]["seconds"] / run.rows[-1]["step"] for run in own], ".1f"),
                _number(list(cosines), ".2f"),
                _number([cosines.min()] if len(cosines) else [], ".2f"),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths)))
        for line in lines
    )


def _first_below(run: Run, judged: str, target: float) -> tuple[float, float]:
    """Step and seconds at which the loss was first measured at or below the target; NaN if never."""
    reached = ((row["step"], row["seconds"]) for row in run.rows if row[judged] <= target)
    return next(reached, (math.nan, math.nan))


def _damping(value: float | str | None) -> str:
    return "-" if value is None else value if isinstance(value, str) else f"{value:.0e}"


def _number(values: list[float], form: str) -> str:
    mean = float(np.mean(values)) if values else math.nan
    return "-" if math.isnan(mean) else format(mean, form)
