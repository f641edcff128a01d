"""The table of a file (CSV, gzipped or not, or a workbook): its header and its columns, as text."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kfisher_scripts.comparison import text_file, workbook
from kfisher_scripts.comparison.row import Formula, Row, TableError

# As pandas, R, Excel and SQL write it.
_MISSING = {"", "-", "?", ".", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "none"}
_FEWEST = 10
_LONGEST = 40  # part of an entry that is shown
_ZIP = b"PK\x03\x04"


class Table(NamedTuple):
    """What stands in the file.

    Attributes:
        columns: The entries of each column but the target and those dropped.
        labels: Those of the target.
        lines: The line of each row in the file.
        notes: On what may have been read otherwise than it was meant.
    """

    columns: dict[str, list[str]]
    labels: list[str]
    lines: list[int]
    notes: list[str]

    def place(self, entries: Sequence[str], index: int) -> str:
        """An entry and its line, for a message."""
        return f"{entries[index]!r} in line {self.lines[index]}"


def read(
    path: Path, target: str, drop: Sequence[str] = (), encoding: str = "utf-8", decimal: str = "."
) -> Table:
    """The entries of a file, as they stand there; those of a workbook with that decimal mark.

    Raises:
        TableError: If the file is no such table, or has missing values in what is kept.
    """
    header, rows = _rows(path, encoding, decimal)
    for name in (target, *drop):
        if name not in header:
            raise TableError(f"There is no column {name!r} in {path}. It has: {', '.join(header)}")
    if target in drop:
        raise TableError(f"--drop names the target, {target!r}. Leave it out there, or pass another --target")
    notes = _line_breaks(path, header, rows, drop)
    columns = {name: [row.entries[i] for row in rows] for i, name in enumerate(header) if name not in drop}
    found = Table(columns, columns.pop(target), [row.line for row in rows], notes)
    _check_formulas(path, found, {target: found.labels, **columns})
    missing = _missing(found, found.labels)
    if missing:
        raise TableError(
            f"The target {target!r} has {missing}. Fill them in or delete those rows; a class of that name "
            "needs another one"
        )
    gaps = {name: _missing(found, column) for name, column in columns.items() if _missing(found, column)}
    if gaps:
        listed = "; ".join(f"{name} has {missing}" for name, missing in gaps.items())
        raise TableError(
            f"Of the columns of {path}, {listed}. Fill them in, delete those rows, or leave the columns out "
            f"with --drop {shlex.join(gaps)}"
        )
    return found


def _line_breaks(path: Path, header: list[str], rows: list[Row], drop: Sequence[str]) -> list[str]:
    """A note on entries of dropped columns that span lines.

    Raises:
        TableError: If one that is kept does: stray quotes make one row of all those between them.
    """
    spans = [(row, name, entry) for row in rows for name, entry in _of_several_lines(header, row)]
    for row, name, entry in spans:
        if name not in drop:
            raise TableError(
                f"Lines {row.begin} to {row.line} of {path} are one row: its entry of {name!r}, "
                f"{entry[:_LONGEST]!r}..., begins with a quote that is closed only there. Mend the quotes; "
                "if the line break is meant, write a space for it"
            )
    if not spans:
        return []
    row, name, _ = spans[0]
    return [
        f"rows that span several lines: {len({row.line for row, _, _ in spans})}, the first in lines "
        f"{row.begin} to {row.line}, where an entry of {name} has line breaks within quotes; mend the quotes "
        "if these are rows"
    ]


def _of_several_lines(header: list[str], row: Row) -> Iterator[tuple[str, str]]:
    if row.line > row.begin:
        yield from ((name, entry) for name, entry in zip(header, row.entries) if len(entry.splitlines()) > 1)


def _check_formulas(path: Path, table: Table, columns: dict[str, list[str]]) -> None:
    """Raises `TableError` for formulas whose values are not in the file."""
    for name, entries in columns.items():
        first = next((i for i, entry in enumerate(entries) if isinstance(entry, Formula)), None)
        if first is not None:
            example = table.place(entries, first)
            raise TableError(
                f"The column {name!r} of {path} has formulas without values, such as {example}. Save it in "
                "Excel or LibreOffice once, which compute them"
            )


def _missing(table: Table, entries: list[str]) -> str:
    """How many entries are missing, and the first of them; empty if none is."""
    rows = [i for i, entry in enumerate(entries) if entry.lower() in _MISSING]
    if not rows:
        return ""
    values = "value" if len(rows) == 1 else "values"
    return f"{len(rows)} missing {values} in {len(entries)} rows, such as {table.place(entries, rows[0])}"


def _rows(path: Path, encoding: str, decimal: str) -> tuple[list[str], list[Row]]:
    """The header, and the rows below it that have anything in them, all equally long."""
    data = text_file.bytes_of(path)
    if data.startswith(_ZIP):
        lines = workbook.rows_of(path, data, decimal)
    else:
        lines = text_file.rows_of(path, data, encoding)
    if not lines:
        raise TableError(f"{path} is empty. Its first line must name the columns")
    (_, _, header), *lines = lines
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
    for _, number, entries in lines:
        if len(entries) != len(header):
            raise TableError(
                f"Line {number} of {path} has {len(entries)} entries, the header has {len(header)}. An entry "
                "with a separator in it needs quotes"
            )
    if len(lines) < _FEWEST:
        raise TableError(f"{path} has {len(lines)} rows below its header; at least {_FEWEST} are needed")
    return header, lines
