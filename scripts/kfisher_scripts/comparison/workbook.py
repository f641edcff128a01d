"""The rows of a workbook (.xlsx)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

from kfisher_scripts.comparison.row import Formula, Row, TableError


def rows_of(path: Path, data: bytes, decimal: str) -> list[Row]:
    """Those of its only sheet that have anything in them; numbers with that decimal mark."""
    sheet = _sheet(path, data, values=True)
    cells = [list(row) for row in sheet.iter_rows(values_only=True)]
    if any(value is None for row in cells for value in row):
        _fill_in_formulas(cells, _sheet(path, data, values=False))
    rows = [Row(i, i, [_entry(value, decimal) for value in row]) for i, row in enumerate(cells, start=1)]
    rows = [row for row in rows if any(row.entries)]
    width = max((j + 1 for row in rows for j, entry in enumerate(row.entries) if entry), default=0)
    return [row._replace(entries=row.entries[:width]) for row in rows]


def _sheet(path: Path, data: bytes, values: bool) -> Any:
    """The only one, with the values of formulas as they were when it was saved, or with the formulas."""
    try:
        import openpyxl
    except ImportError:
        raise TableError(
            f"{path} is a workbook, which openpyxl reads. Install it (pip install openpyxl), or save the "
            "table as CSV"
        ) from None
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), data_only=values)
    except Exception as error:  # of whatever kind a damaged file leads openpyxl to
        raise TableError(f"{path} is an archive but no workbook ({error}). {_advice(data)}") from None
    if len(book.worksheets) != 1:
        names = ", ".join(repr(sheet.title) for sheet in book.worksheets)
        raise TableError(f"{path} has several sheets: {names}. Save the one with the table as CSV")
    return book.worksheets[0]


def _advice(data: bytes) -> str:
    """On a whole archive, or on a damaged one."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.testzip() is None and "[Content_Types].xml" not in archive.namelist():
                return "Unpack it"
    except Exception:  # as above
        pass
    return "It seems to be damaged: save it in Excel or LibreOffice, or download it, again"


def _fill_in_formulas(cells: list[list[Any]], sheet: Any) -> None:
    """A program that does not compute leaves formulas without values."""
    for row, with_formulas in zip(cells, sheet.iter_rows()):
        for j, cell in enumerate(with_formulas):
            if row[j] is None and cell.data_type == "f":
                row[j] = Formula(getattr(cell.value, "text", cell.value))


def _entry(value: Any, decimal: str) -> str:
    if value is None:
        return ""
    if isinstance(value, Formula):
        return value
    return repr(value).replace(".", decimal) if isinstance(value, float) else str(value).strip()
