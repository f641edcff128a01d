"""The features of a table: numbers, and categories as columns of 0 and 1, standardised."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

import numpy as np

from kfisher_scripts.comparison.numbers import Format, NotANumber, numbers
from kfisher_scripts.comparison.spelling import note_on
from kfisher_scripts.comparison.table_file import Table, TableError

CONSTANT = 1e-12  # variation, relative to the largest entry, that is rounding
_VALUES = 50  # of a category
_SHOWN = 5
_DATE = re.compile(r"\d[-/.:]\d|\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.I)


def features_of(
    table: Table, target: str, train: np.ndarray, form: Format, categorical: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """Numbers `(N, D)`, standardised by the rows trained on, and notes.

    Columns that are constant there say nothing and are left out, which is noted.

    Args:
        table: The table.
        target: The name of its target.
        train: The rows trained on.
        form: Of the numbers.
        categorical: Columns to take as categories, the empty list for all that hold text, `None` for none.

    Raises:
        TableError: If a column holds neither numbers nor such categories.
    """
    unknown = [name for name in categorical or () if name not in table.columns]
    if unknown:
        raise TableError(
            f"--categorical names {unknown[0]!r}, which is none of the features: {', '.join(table.columns)}"
        )
    columns, notes, refused, dated = {}, [], {}, False
    for name, entries in table.columns.items():
        if name in (categorical or ()):
            columns |= _one_hot(name, entries, notes)
            continue
        try:
            columns[name] = numbers(entries, form)
        except NotANumber as error:
            if categorical is not None and not categorical and not error.way_out:
                columns |= _one_hot(name, entries, notes)
            else:
                refused[name] = f"{name} ({table.place(entries, error.index)}" + (
                    f"; {error.way_out})" if error.way_out else ")"
                )
                dated |= not error.way_out and bool(_DATE.search(entries[error.index]))
    if refused:
        dates = "Write dates as numbers of days, take" if dated else "Take"
        raise TableError(
            f"These columns hold text: {_few(list(refused.values()))}. {dates} categories with --categorical "
            f"{_few([shlex.quote(name) for name in refused], ' ')}, or leave columns out with --drop "
            f"{shlex.join(refused)}"
        )
    endless = {name: column for name, column in columns.items() if not np.all(np.isfinite(column))}
    if endless:
        first = [
            f"{name} ({table.place(table.columns[name], int(np.argmin(np.isfinite(column))))})"
            for name, column in endless.items()
        ]
        raise TableError(
            f"These columns hold numbers that are not finite: {_few(first)}. Mend those rows or delete them, "
            f"or leave the columns out with --drop {shlex.join(endless)}"
        )
    # In units of the largest entry, in which no square overflows or underflows.
    scaled = {name: column / (np.abs(column).max() or 1.0) for name, column in columns.items()}
    constant = [name for name, column in scaled.items() if np.ptp(column[train]) < CONSTANT]
    if constant:
        notes.append(f"left out, as they are constant: {', '.join(constant)}")
    varying = [column for name, column in scaled.items() if name not in constant]
    if not varying:
        raise TableError(f"No column that varies is left to predict {target!r} from")
    x = np.stack(varying, 1)
    return (x - x[train].mean(0)) / x[train].std(0), notes


def _one_hot(name: str, entries: list[str], notes: list[str]) -> dict[str, np.ndarray]:
    """A column of 0 and 1 for each value but the most frequent, with which the others are compared."""
    values, counts = np.unique(np.array(entries), return_counts=True)
    if len(values) > _VALUES:
        raise TableError(
            f"The column {name!r} has {len(values)} different values, of which at most {_VALUES} are taken "
            f"as categories. Join some, or leave it out with --drop {shlex.quote(name)}"
        )
    usual = values[counts.argmax()]
    notes.append(f"{name}: {len(values)} categories, each beside the most frequent, {str(usual)!r}")
    notes += note_on(name, [str(value) for value in values])
    column = np.array(entries)
    return {f"{name}={value}": (column == value).astype(float) for value in values if value != usual}


def _few(listed: list[str], separator: str = ", ") -> str:
    return separator.join(listed[:_SHOWN]) + f"{separator}..." * (len(listed) > _SHOWN)
