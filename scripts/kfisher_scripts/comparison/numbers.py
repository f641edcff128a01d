"""Numbers as people write them: separators of thousands, decimal commas, units, the minus of typesetters."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

_BODY = r"(?:(?:\d+|\d{{1,3}}(?:{thousands}\d{{3}})+)(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?"
_UNITS = "[$€£¥%]"
_SPACE = "[ \u00a0\u2009\u202f]"  # and those that do not break
# Each with what is as good, such as the apostrophe of typesetters.
_THOUSANDS = {",": ",", ".": r"\.", " ": _SPACE, "_": "_", "'": "['\u2019]"}
_LOGICAL = {"true": 1.0, "false": 0.0}
_DASHES = ("\u2013", "\u2014")


class Format(NamedTuple):
    """How the numbers of a file are written.

    Attributes:
        decimal: "." or ",".
        thousands: What stands between groups of three digits, one of `SEPARATORS`; `None` for nothing.
    """

    decimal: str = "."
    thousands: str | None = None

    @property
    def options(self) -> str:
        """Those of the command line for it."""
        quoted = {" ": "' '", "'": '"\'"'}
        decimal = "" if self.decimal == "." else f"--decimal {self.decimal}"
        thousands = self.thousands and f"--thousands {quoted.get(self.thousands, self.thousands)}"
        return " ".join(filter(None, (decimal, thousands)))


SEPARATORS = tuple(_THOUSANDS)
_FORMATS = [Format(d, t) for d in ".," for t in (None, *SEPARATORS) if t != d]


class NotANumber(ValueError):
    """The first entry of a column that is none.

    Attributes:
        index: Its row.
        way_out: What to do if it is one written otherwise; empty for a text.
    """

    def __init__(self, index: int, way_out: str):
        super().__init__(index, way_out)
        self.index, self.way_out = index, way_out


def numbers(entries: Sequence[str], form: Format) -> np.ndarray:
    """The numbers of a column `(N,)`; 1 and 0 of one that holds nothing but True and False.

    A unit ($ € £ ¥ %) is left out if every entry of the column has the same.

    Raises:
        NotANumber: For what is no number of that form.
    """
    if is_logical(entries):
        return np.array([_LOGICAL[entry.lower()] for entry in entries])
    if form.decimal == "." and not any("_" in entry for entry in entries):
        with contextlib.suppress(ValueError):  # Python's own numbers have underscores, and no units
            return np.array(entries, np.float64)
    found, first = [], None
    for i, entry in enumerate(entries):
        one = _parsed(entry, form)
        if one is None:
            raise NotANumber(i, _way_out(entries, i, form))
        value, unit = one
        first = unit if first is None else first
        if unit != first:
            units = " and ".join(repr(u) if u else "none" for u in (first, unit))
            raise NotANumber(i, f"units differ within the column ({units}); make them one")
        found.append(value)
    return np.array(found, np.float64)


def is_logical(entries: Sequence[str]) -> bool:
    """Whether there is nothing but True and False, in whatever case."""
    return all(entry.lower() in _LOGICAL for entry in entries)


def _parsed(entry: str, form: Format) -> tuple[float, str] | None:
    """The number and its unit; `None` for what is no number."""
    match = _pattern(form).fullmatch(entry.replace("\u2212", "-"))
    if match is None:
        return None
    minus, before, inner, body, after = match.groups()
    if (minus and inner) or (before and after):
        return None
    if form.thousands:
        body = re.sub(_THOUSANDS[form.thousands], "", body)
    return float((minus or inner) + body.replace(form.decimal, ".")), before or after


@functools.cache
def _pattern(form: Format) -> re.Pattern:
    thousands = _THOUSANDS[form.thousands] if form.thousands else "(?!)"  # which matches nothing
    body = _BODY.format(thousands=thousands, decimal=re.escape(form.decimal))
    return re.compile(
        rf"([+-]?)({_UNITS}?){_SPACE}?([+-]?)({body}|inf(?:inity)?){_SPACE}?({_UNITS}?)", re.A | re.I
    )


def _way_out(entries: Sequence[str], index: int, form: Format) -> str:
    """What an entry may mean, and the option or the change that says so; empty for a text."""
    entry = entries[index]
    if is_logical([entry]) and all(is_logical([other]) or _parsed(other, form) for other in entries):
        return f"the column holds numbers, too; write {_LOGICAL[entry.lower()]:.0f} if that is meant"
    for condition, meant in _negatives(entry):
        one, others = _parsed(meant, form), _readings(meant, form)
        if one is not None:
            return f"if {condition}, write {_written(*one, form)}"
        if others:
            return f"if {condition}, write {meant}: {others}"
    return _readings(entry, form)


def _negatives(entry: str) -> Iterator[tuple[str, str]]:
    """Negative numbers that it may be, and on which condition."""
    if entry.startswith("(") and entry.endswith(")"):
        yield "bookkeepers' parentheses mean a negative number", f"-{entry[1:-1]}"
    if entry.startswith(_DASHES):
        yield "its dash means a minus", f"-{entry[1:]}"


def _written(value: float, unit: str, form: Format) -> str:
    number = f"{value:.15g}".replace(".", form.decimal)
    return f"{number}, with {unit} if the others have it" if unit else number


def _readings(entry: str, form: Format) -> str:
    """What it is with other options, or without those given; empty for what is never a number."""
    found: dict[float, str] = {}
    for other in _FORMATS:
        one = _parsed(entry, other)
        if one is not None:
            found.setdefault(one[0], f"with {other.options}" if other.options else f"without {form.options}")
    return " or ".join(f"it is {value:.15g} {how}" for value, how in found.items())
