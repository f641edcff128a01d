"""The target of a table: numbers to regress, or classes; and what keeps it from being either."""

from __future__ import annotations

import numpy as np

from kfisher_scripts.comparison.numbers import Format, NotANumber, is_logical, numbers
from kfisher_scripts.comparison.table_file import Table, TableError

_CLASSES = 20  # whole numbers with no more different values than this are labels of classes
_LISTED = 6


def target_of(table: Table, name: str, task: str | None, form: Format) -> tuple[np.ndarray, list[str]]:
    """Numbers or the indices of classes `(N,)`, and the names of the classes, none for a regression.

    Args:
        table: Its `labels` are the entries of the column, none of them missing.
        name: Of the column.
        task: "regression", "classification", or `None`: classification where the target is text or has few
            different whole numbers, each of them twice on average or more.
        form: Of its numbers.

    Raises:
        TableError: If it is neither.
    """
    labels, text, numeric = table.labels, False, True
    try:
        values = numbers(labels, form)
        text = (is_logical(labels) or _are_codes(labels)) and task != "regression"
    except NotANumber as error:
        text, numeric = True, False
        if task != "classification":
            _check_text(table, error, name, task, form)
    if text:
        values = np.array(labels)
    elif not np.all(np.isfinite(values)):
        first = table.place(labels, int(np.argmin(np.isfinite(values))))
        raise TableError(
            f"The target {name!r} holds numbers that are not finite, {first}. Mend those rows, or delete them"
        )
    classes, y = np.unique(values, return_inverse=True)
    if len(classes) == 1:
        raise TableError(f"The target {name!r} is constant, {labels[0]!r}: there is nothing to predict")
    repeated = 2 * len(classes) <= len(values)
    whole = not text and bool(np.all(values == np.round(values)))
    if task is None:
        few = whole and repeated and len(classes) <= _CLASSES
        task = "classification" if text or few else "regression"
    if task == "regression":
        return values, []
    if not repeated or not (text or whole):
        raise TableError(
            f"The target {name!r} has {len(classes)} different values in {len(values)} rows, such as "
            f"{table.place(labels, 0)}, which are no classes. "
            f"{'Pass --task regression' if numeric else 'Join some'}"
        )
    return y.astype(np.float64), [c if text else str(int(c)) for c in classes.tolist()]


def check_classes(y: np.ndarray, classes: list[str], name: str) -> None:
    """Raises `TableError` for classes that no row to train on has."""
    present = set(y)
    absent = [c for i, c in enumerate(classes) if i not in present]
    if absent:
        raise TableError(
            f"None of the rows to train on (three fifths, at random) has {name} = {shortened(absent)}. "
            "Delete the rows of such rare classes, or join these with others; numbers can be regressed, with "
            "--task regression"
        )


def shortened(names: list[str]) -> str:
    """The first of them."""
    return ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)


def _check_text(table: Table, error: NotANumber, name: str, task: str | None, form: Format) -> None:
    """Text is no class where it is a number written otherwise, or stands among numbers."""
    example = table.place(table.labels, error.index)
    if error.way_out:
        raise TableError(
            f"The target {name!r} has numbers that are written otherwise, {example}: {error.way_out}. If "
            "these are classes, pass --task classification"
        )
    if task == "regression":
        raise TableError(f"The target {name!r} holds text, {example}, which cannot be regressed. Mend it")
    count = sum(_is_number(entry, form) for entry in table.labels)
    if 2 * count > len(table.labels):
        raise TableError(
            f"The target {name!r} holds {count} numbers, in {len(table.labels)} rows, and text: {example}. "
            "Mend it; if these are classes, pass --task classification"
        )


def _is_number(entry: str, form: Format) -> bool:
    try:
        numbers([entry], form)
    except NotANumber:
        return False
    return not is_logical([entry])  # True is a 1 only in a column of nothing else


def _are_codes(labels: list[str]) -> bool:
    """Whether some differ by leading zeros alone, as codes do and numbers do not."""
    different = set(labels)
    return all(label.isdigit() for label in different) and len(different) > len(
        {label.lstrip("0") for label in different}
    )
