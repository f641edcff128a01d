"""A measurement, as small as a chart of it needs."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

MAX_RANKS = 400
MAX_MEASUREMENTS = 200


@functools.lru_cache(maxsize=256)
def display_ranks(count: int, limit: int = MAX_RANKS) -> tuple[int, ...]:
    """At most `limit` of the ranks 1..count, evenly spaced on a logarithmic axis, with the first and last.

    Args:
        count: How many eigenvalues there are.
        limit: How many points a chart is given.

    Example:

    >>> display_ranks(1000, limit=6)
    (1, 4, 16, 63, 251, 1000)
    """
    if count <= limit:
        return tuple(range(1, count + 1))
    # Rounding merges small ranks of a geometric sequence; the finest that still fits is found by bisection.
    low, high = limit, 16 * limit
    best = np.unique(np.rint(np.geomspace(1, count, low)).astype(int))
    while high - low > 1:
        middle = (low + high) // 2
        ranks = np.unique(np.rint(np.geomspace(1, count, middle)).astype(int))
        if len(ranks) <= limit:
            low, best = middle, ranks
        else:
            high = middle
    return tuple(best.tolist())


def compact_measurement(measurement: dict[str, Any], ranks: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """A measurement as the page draws it: long lists thinned, numbers to five digits.

    Args:
        measurement: The fields of a `kfisher.Measurement`, from its JSON.
        ranks: Filled with the ranks that were kept of a list of so many numbers, by that count: lists of
            the same length share them.

    Returns:
        The same fields but for `ratio_eigenvalues`, which the page does not draw; each list of eigenvalues
        is `{"count": ..., "values": ...}`.
    """
    small = dict(measurement)
    small["spectra"] = {kind: _spectrum(s, ranks) for kind, s in (measurement.get("spectra") or {}).items()}
    small.pop("ratio_eigenvalues", None)
    small["curved"] = {
        kind: {name: _thin(values, ranks)["values"] for name, values in lists.items()}
        for kind, lists in (measurement.get("curved") or {}).items()
    }
    return rounded(small)


def _spectrum(spectrum: dict[str, Any], ranks: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    small = dict(spectrum)
    small["eigenvalues"] = _thin(spectrum.get("eigenvalues") or [], ranks)
    errors = dict(spectrum.get("error") or {})
    if errors.get("eigenvalues"):
        errors["eigenvalues"] = _thin(errors["eigenvalues"], ranks)["values"]
    small["error"] = errors
    return small


def _thin(values: list[float], ranks: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    kept = ranks.setdefault(str(len(values)), display_ranks(len(values)))
    return {"count": len(values), "values": [values[rank - 1] for rank in kept]}


def evenly(items: list[Any], limit: int) -> list[Any]:
    """At most `limit` of the items, evenly, with the first and the last."""
    if len(items) <= limit:
        return items
    return [items[i] for i in np.rint(np.linspace(0, len(items) - 1, limit)).astype(int)]


def rounded(value: Any) -> Any:
    """Numbers to five significant digits, those that are not finite as `None`, in nested lists and dicts."""
    if isinstance(value, dict):
        return {key: rounded(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
