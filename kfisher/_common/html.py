"""Tables for a notebook."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts as HTML; its look is that of the notebook."""
    lines = [_row("th", header), *(_row("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _row(cell: str, texts: Sequence[str]) -> str:
    aligned = "style='text-align: left'"
    return f"<tr>{''.join(f'<{cell} {aligned}>{html.escape(text)}</{cell}>' for text in texts)}</tr>"
