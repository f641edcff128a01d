"""What the readers of files share: a row, and an error about a table."""

from __future__ import annotations

from typing import NamedTuple


class TableError(ValueError):
    """Something about the table that its owner has to decide."""


class Formula(str):
    """A formula of a workbook that stands there without its value."""


class Row(NamedTuple):
    """The entries of a row, as text.

    Attributes:
        begin, line: The lines of the file on which it begins and ends.
    """

    begin: int
    line: int
    entries: list[str]
