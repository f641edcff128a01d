"""The CSV file of a table: its separator, header and rows, as text."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
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
            f"The target {target!r} has {missing} missing values in {len(labels)} rows. Fill them in, or "
            "delete those rows"
        )
    gaps = {name: _missing(column) for name, column in columns.items() if _missing(column)}
    if gaps:
        listed = ", ".join(f"{name} ({count} of {len(labels)})" for name, count in gaps.items())
        raise TableError(
            f"{path} has missing values in: {listed}. Fill them in, delete those rows, or leave the columns "
            f"out with --drop {shlex.join(gaps)}"
        )
    return columns, labels


def _columns(path: Path) -> dict[str, list[str]]:
    lines = _lines(path)
    if not lines:
        raise TableError(f"{path} is empty. Its first line must name the columns")
    (_, header), *lines = lines
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
            reader = csv.reader(file, delimiter=max(",;\t", key=first.count))
            rows = [(reader.line_num, [entry.strip() for entry in row]) for row in reader]
    except UnicodeDecodeError as error:
        raise TableError(f"{path} is not in UTF-8 ({error}). Save it as UTF-8") from None
    except (OSError, csv.Error) as error:
        raise TableError(f"{path} cannot be read as a CSV file: {error}") from None
    return [(number, row) for number, row in rows if any(row)]


def _missing(column: list[str]) -> int:
    return sum(entry.lower() in _MISSING for entry in column)
