"""The target of a table: numbers to regress, or classes; and what keeps it from being either."""

from __future__ import annotations

import numpy as np

from kfisher_scripts.comparison.table_file import TableError

_CLASSES = 20  # whole numbers with no more different values than this are labels of classes
_LISTED = 6


def target_of(labels: list[str], name: str, task: str | None) -> tuple[np.ndarray, list[str]]:
    """Numbers or the indices of classes `(N,)`, and the names of the classes, none for a regression.

    Args:
        labels: The entries of the column, none of them missing.
        name: Of the column.
        task: "regression", "classification", or `None`: classification where the target is text or has few
            different whole numbers, each of them twice on average or more.

    Raises:
        TableError: If it is neither.
    """
    text = [entry for entry in labels if not is_number(entry)]
    if text and task != "classification":
        _check_text(labels, text, name, task)
    values = np.array(labels) if text else np.array(labels, np.float64)
    if not text and not np.all(np.isfinite(values)):
        raise TableError(
            f"The target {name!r} holds numbers that are not finite. Mend those rows, or delete them"
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
            f"{labels[0]!r}, which are no classes. {'Join some' if text else 'Pass --task regression'}"
        )
    return y.astype(np.float64), [c if text else str(int(c)) for c in classes.tolist()]


def check_classes(y: np.ndarray, classes: list[str], name: str) -> None:
    """Raises `TableError` for classes that no row to train on has."""
    absent = [c for i, c in enumerate(classes) if i not in set(y)]
    if absent:
        raise TableError(
            f"None of the rows to train on (four fifths, at random) has {name} = {shortened(absent)}. Delete "
            "the rows of such rare classes, or join these with others; numbers can be regressed, with --task "
            "regression"
        )


def shortened(names: list[str]) -> str:
    """The first of them."""
    return ", ".join(names[:_LISTED]) + ", ..." * (len(names) > _LISTED)


def is_number(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return False
    return True


def _check_text(labels: list[str], text: list[str], name: str, task: str | None) -> None:
    """Text is no class where it is a number written otherwise, or stands among numbers."""
    example = f"{text[0]!r} in row {labels.index(text[0]) + 1}"
    if all(is_number(entry.replace(",", ".")) for entry in text):
        raise TableError(
            f"The target {name!r} has decimal commas: {example}. Write points instead; if these are classes, "
            "pass --task classification"
        )
    if task == "regression":
        raise TableError(f"The target {name!r} holds text, {example}, which cannot be regressed. Mend it")
    if 2 * len(text) < len(labels):
        raise TableError(
            f"The target {name!r} holds {len(labels) - len(text)} numbers, and text: {example}. Mend it; if "
            "these are classes, pass --task classification"
        )
