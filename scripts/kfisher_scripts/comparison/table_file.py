"""The file of a table (CSV, gzipped or not, or a workbook): its header and rows, as text.

Read by Python's `csv` and not by pandas, because it knows the line of every row, refuses a quote that is
never closed, and leaves numbers to `numbers.py`: to pandas "12,96" is 1296 where thousands have commas.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# As pandas, R, Excel and SQL write it.
_MISSING = {"", "-", "?", ".", "na", "n/a", "#n/a", "#na", "<na>", "nan", "-nan", "null", "none"}
_SEPARATORS = ",;\t"
_FEWEST = 10
_GZIP, _ZIP, _OLD_EXCEL = b"\x1f\x8b", b"PK\x03\x04", b"\xd0\xcf\x11\xe0"

Row = tuple[int, list[str]]  # with the number of the line on which it ends


class TableError(ValueError):
    """Something about the table that its owner has to decide."""


class Table(NamedTuple):
    """What stands in the file.

    Attributes:
        columns: The entries of each column but the target and those dropped.
        labels: Those of the target.
        lines: The line of each row in the file.
    """

    columns: dict[str, list[str]]
    labels: list[str]
    lines: list[int]

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
    columns = {name: [row[i] for _, row in rows] for i, name in enumerate(header) if name not in drop}
    found = Table(columns, columns.pop(target), [line for line, _ in rows])
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


def _missing(table: Table, entries: list[str]) -> str:
    """How many entries are missing, and the first of them; empty if none is."""
    rows = [i for i, entry in enumerate(entries) if entry.lower() in _MISSING]
    if not rows:
        return ""
    values = "value" if len(rows) == 1 else "values"
    return f"{len(rows)} missing {values} in {len(entries)} rows, such as {table.place(entries, rows[0])}"


def _rows(path: Path, encoding: str, decimal: str) -> tuple[list[str], list[Row]]:
    """The header, and the rows below it that have anything in them, all equally long."""
    try:
        data = path.read_bytes()
        if data.startswith(_GZIP):
            data = gzip.decompress(data)
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TableError(f"{path} cannot be read ({reason}). Check the path after --data") from None
    if data.startswith(_OLD_EXCEL):
        raise TableError(f"{path} is a workbook of an old Excel. Save it as .xlsx or as CSV")
    lines = _workbook(path, data, decimal) if data.startswith(_ZIP) else _csv(path, data, encoding)
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
    return header, lines


def _csv(path: Path, data: bytes, encoding: str) -> list[Row]:
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        raise TableError(
            f"Line {line} of {path} is not in {encoding.upper()}. Save it as UTF-8, or pass its --encoding, "
            "say latin-1, cp1252 or utf-16"
        ) from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    told = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"))  # by which Excel knows the separator
    separator = (
        told[1] if told else max(_SEPARATORS, key=lambda s: len(next(csv.reader([first], delimiter=s))))
    )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = []
    while True:
        begin = reader.line_num + 1
        try:
            row = [entry.strip() for entry in next(reader)]
        except StopIteration:
            break
        except csv.Error as error:
            raise TableError(
                f"The row that begins in line {begin} of {path} cannot be read: {error}. An entry that "
                "begins with a quote must end with one, and a quote within it is written twice"
            ) from None
        if any(row):
            rows.append((reader.line_num, row))
    return rows[1:] if told else rows


def _workbook(path: Path, data: bytes, decimal: str) -> list[Row]:
    """The rows of its only sheet."""
    try:
        import openpyxl
    except ImportError:
        raise TableError(
            f"{path} is a workbook, which openpyxl reads. Install it (pip install openpyxl), or save the "
            "table as CSV"
        ) from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise TableError(f"{path} is an archive but no workbook ({error}). Unpack it") from None
    if len(book.worksheets) != 1:
        names = ", ".join(repr(sheet.title) for sheet in book.worksheets)
        raise TableError(f"{path} has several sheets: {names}. Save the one with the table as CSV")
    rows = [
        (i, [_cell(value, decimal) for value in row])
        for i, row in enumerate(book.worksheets[0].iter_rows(values_only=True), start=1)
    ]
    rows = [(i, row) for i, row in rows if any(row)]
    width = max((j + 1 for _, row in rows for j, entry in enumerate(row) if entry), default=0)
    return [(i, row[:width]) for i, row in rows]


def _cell(value: Any, decimal: str) -> str:
    if value is None:
        return ""
    return repr(value).replace(".", decimal) if isinstance(value, float) else str(value).strip()
