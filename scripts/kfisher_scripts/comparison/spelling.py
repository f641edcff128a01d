"""Values of a column that are written differently and may mean the same."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 3  # groups
_LOGICAL = {"true": "1", "false": "0"}


def note_on(name: str, values: Sequence[str]) -> list[str]:
    """One on values that differ only in case, spaces or leading zeros, or as True and 1; else empty."""
    groups: dict[str, list[str]] = {}
    for value in values:
        key = "".join(value.casefold().split())
        key = _LOGICAL.get(key, key)
        groups.setdefault(key.lstrip("0") if key.isdigit() else key, []).append(value)
    alike = [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not alike:
        return []
    listed = "; ".join(alike[:_SHOWN]) + "; ..." * (len(alike) > _SHOWN)
    return [f"{name}: different values are {listed}; write alike what means the same"]
