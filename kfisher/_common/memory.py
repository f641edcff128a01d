"""Memory: how much there is, and an error before more than that is asked for.

TensorFlow would take it piece by piece for minutes, and end in a trace of its allocator.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import tensorflow as tf

_GROUPS = Path("/sys/fs/cgroup")


def available() -> float:
    """The bytes that this process can still have: of the machine, and of its control group; infinite where
    neither can be read."""
    return min(_of_machine(), *(_of_group(*names) for names in _LIMITS))


def require(needed: float | tf.Tensor, what: str, instead: str, **received: Any) -> list[tf.Operation]:
    """Raises if an array does not fit into what is available.

    Arrays on a GPU are held to the memory of the host: it seldom has less.

    Args:
        needed: Bytes, at least; a tensor if they are known only while the graph runs.
        what: What they are for.
        instead: What would fit, in a sentence.
        **received: What made it so large: numbers, or tensors.

    Returns:
        What the array has to wait for, for `tf.control_dependencies`: a check in the graph, or nothing.

    Raises:
        ValueError: If it does not fit.
        tf.errors.InvalidArgumentError: The same, for a size known only while the graph runs.
    """
    there = available()
    if not tf.is_tensor(needed):
        if needed > there:
            values = ", ".join(f"{name}={value}" for name, value in received.items())
            raise ValueError(
                f"{what} would take {_gib(needed)} or more, and {_gib(there)} are available. {instead} "
                f"Received: {values}"
            )
        return []
    numbers = [part for name, value in {**received, "bytes": needed}.items() for part in (f"{name} =", value)]
    message = [f"{what} would not fit into the {_gib(there)} that are available. {instead} Received:"]
    assertion = tf.debugging.Assert(tf.cast(needed, tf.float64) <= there, [*message, *numbers])
    return [] if assertion is None else [assertion]


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def _of_machine() -> float:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):  # with the pages that only cache files
                return 1024.0 * int(line.split()[1])
    except OSError:
        pass
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


# The files with the limit and the use of a control group, of version 2 and of version 1.
_LIMITS = [
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
]


def _of_group(limit: str, use: str, statistics: str) -> float:
    try:
        most, used = ((_GROUPS / name).read_text().strip() for name in (limit, use))
        cached = [
            line for line in (_GROUPS / statistics).read_text().splitlines() if "inactive_file " in line
        ]
    except OSError:
        return float("inf")
    if most == "max":
        return float("inf")
    return max(0.0, float(most) - float(used) + (float(cached[-1].split()[1]) if cached else 0.0))
