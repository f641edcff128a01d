"""The rows of a CSV file, and what a file is that is none.

Read by Python's `csv` and not by pandas, because it knows the line of every row, refuses a quote that is
never closed, and leaves numbers to `numbers.py`: to pandas "12,96" is 1296 where thousands have commas.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from pathlib import Path

from kfisher_scripts.comparison.row import Row, TableError

_SEPARATORS = ",;\t"
_GZIP = b"\x1f\x8b"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # with its mark
# How files of other kinds begin, and what they are.
_OTHERS = {
    rb"\xd0\xcf\x11\xe0": "a workbook of an old Excel. Save it as .xlsx or as CSV",
    rb"BZh[1-9]1AY&SY": "compressed by bzip2. Unpack it, or compress it by gzip",
    rb"\xfd7zXZ": "compressed by xz. Unpack it, or compress it by gzip",
    rb"\x28\xb5\x2f\xfd": "compressed by Zstandard. Unpack it, or compress it by gzip",
    rb"7z\xbc\xaf": "an archive of 7-Zip. Unpack it",
    rb"Rar!\x1a": "a RAR archive. Unpack it",
    rb"(?s).{257}ustar": "a tar archive. Unpack it",
    rb"PAR1[\x00-\x1f]": "a Parquet file. Save its table as CSV",
    rb"ARROW1\x00": "an Arrow file. Save its table as CSV",
    rb"\x89HDF": "an HDF5 file. Save its table as CSV",
    rb"SQLite format 3\x00": "a database of SQLite. Save its table as CSV",
    rb"%PDF-": "a PDF. Save its table as CSV",
}


def bytes_of(path: Path) -> bytes:
    """What is in the file, unzipped if it is gzipped."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise TableError(f"{path} cannot be read ({reason}). Check the path after --data") from None
    if data.startswith(_GZIP):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise TableError(
                f"{path} cannot be read ({error}): it is compressed by gzip, and damaged. Copy it again"
            ) from None
    for begin, kind in _OTHERS.items():
        if re.match(begin, data):
            raise TableError(f"{path} is {kind}")
    return data


def rows_of(path: Path, data: bytes, encoding: str) -> list[Row]:
    """The rows of a CSV file that have anything in them."""
    text = _decoded(path, data, encoding)
    first = next((line for line in text.splitlines() if line.strip()), "")
    told = re.fullmatch(r'"?sep=(.)"?', first.strip("\r\n"))  # by which Excel knows the separator
    rows, begin = [], 1
    try:
        separator = told[1] if told else max(_SEPARATORS, key=lambda mark: _count(first, mark))
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        for row in reader:
            entries = [entry.strip() for entry in row]
            if any(entries):
                rows.append(Row(begin, reader.line_num, entries))
            begin = reader.line_num + 1
    except csv.Error as error:
        raise TableError(
            f"The row that begins in line {begin} of {path} cannot be read: {error}. {_advice(error)}"
        ) from None
    return rows[1:] if told else rows


def _count(line: str, separator: str) -> int:
    """How many entries a line has."""
    return len(next(csv.reader([line], delimiter=separator)))


def _advice(error: csv.Error) -> str:
    if "limit" in str(error):
        return "Is it a CSV file, with a line for each row and every quote closed?"
    return "An entry that begins with a quote must end with one, and a quote within it is written twice"


def _decoded(path: Path, data: bytes, encoding: str) -> str:
    """The text without the mark that says its encoding."""
    try:
        text = data.decode(encoding)
    except UnicodeError as error:
        line = data[: getattr(error, "start", 0)].count(b"\n") + 1
        likely = "utf-16" if data.startswith(_UTF_16) else "latin-1, cp1252 or utf-16"
        raise TableError(
            f"Line {line} of {path} is not in {encoding.upper()}. Save it as UTF-8, or pass its --encoding, "
            f"say {likely}"
        ) from None
    if "\0" in text:
        raise TableError(f"{path} {_of_nul_characters(data)}")
    if text.startswith("\u00ef\u00bb\u00bf"):
        raise TableError(f"{path} begins with the mark of UTF-8. Leave out --encoding {encoding}")
    return text.removeprefix("\ufeff")


def _of_nul_characters(data: bytes) -> str:
    """UTF-16 has them beside each letter of English."""
    odd, even = data[1::2].count(0), data[::2].count(0)
    if max(odd, even) < len(data) / 8:
        return f"has NUL characters, first in line {data[: data.index(0)].count(10) + 1}: it is no text"
    likely = "utf-16" if data.startswith(_UTF_16) else f"utf-16-{'le' if odd > even else 'be'}"
    return f"looks like UTF-16, every other byte of it being 0. Pass --encoding {likely}"
