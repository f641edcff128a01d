"""The CSV file of a table: its separator, header and rows, as text."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path

# As pandas, R, Excel and SQL write it.
_MISSING = {"", "-", "?", ".", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "none"}
_SEPARATORS = ",;\t"
_FEWEST = 10


class TableError(ValueError):
    """Something about the table that its owner has to decide."""


def read(path: Path, target: str, drop: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The entries of each column but those dropped, and those of the target.

    Raises:
        TableError: If the file is no such table, or has missing values in what is kept.
    """
    columns = _columns(path)
    for name in (target, *drop):
        if name not in columns:
            raise TableError(f"There is no column {name!r} in {path}. It has: {', '.join(columns)}")
    if target in drop:
        raise TableError(f"--drop names the target, {target!r}. Leave it out there, or pass another --target")
    columns = {name: column for name, column in columns.items() if name not in drop}
    labels = columns.pop(target)
    missing = _missing(labels)
    if missing:
        raise TableError(
            f"The target {target!r} has {_listed(missing, labels)}. Fill them in or delete those rows; a "
            "class of that name needs another one"
        )
    gaps = {name: _missing(column) for name, column in columns.items() if _missing(column)}
    if gaps:
        listed = "; ".join(f"{name} has {_listed(missing, labels)}" for name, missing in gaps.items())
        raise TableError(
            f"Of the columns of {path}, {listed}. Fill them in, delete those rows, or leave the columns out "
            f"with --drop {shlex.join(gaps)}"
        )
    return columns, labels


def _missing(column: list[str]) -> list[str]:
    return [entry for entry in column if entry.lower() in _MISSING]


def _listed(missing: list[str], rows: list[str]) -> str:
    return f"{len(missing)} missing values in {len(rows)} rows, such as {missing[0]!r}"


def _columns(path: Path) -> dict[str, list[str]]:
    lines = _lines(path)
    if not lines:
        raise TableError(f"{path} is empty. Its first line must name the columns")
    (_, header), *lines = lines
    if len(header) == 1:
        raise TableError(
            f"{path} has a single column, {header[0]!r}. Columns are separated by comma, semicolon or tab"
        )
    unnamed = [str(i) for i, name in enumerate(header, start=1) if not name]
    if unnamed:
        raise TableError(
            f"The header of {path} has no name for column {', '.join(unnamed)}. Name it; if it is the index "
            "of pandas, write the file with to_csv(..., index=False)"
        )
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        listed = ", ".join(map(repr, doubled))
        raise TableError(f"{path} has several columns of one name: {listed}. Rename them in its header")
    for number, line in lines:
        if len(line) != len(header):
            raise TableError(
                f"Line {number} of {path} has {len(line)} entries, the header has {len(header)}. An entry "
                "with a separator in it needs quotes"
            )
    if len(lines) < _FEWEST:
        raise TableError(f"{path} has {len(lines)} rows below its header; at least {_FEWEST} are needed")
    return {name: [line[i] for _, line in lines] for i, name in enumerate(header)}


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """Rows with anything in them, each with the number of the line on which it ends."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            first = next((line for line in file if line.strip()), "")
            file.seek(0)
            separator = max(_SEPARATORS, key=lambda s: len(next(csv.reader([first], delimiter=s))))
            reader = csv.reader(file, delimiter=separator)
            rows = [(reader.line_num, [entry.strip() for entry in row]) for row in reader]
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not in UTF-8 ({error}). Save it as UTF-8") from None
    except OSError as error:
        raise TableError(f"{path} cannot be read ({error.strerror}). Check the path after --data") from None
    except csv.Error as error:
        raise TableError(f"{path} is no CSV file: {error}. Save the table as CSV in UTF-8") from None
    return [(number, row) for number, row in rows if any(row)]
