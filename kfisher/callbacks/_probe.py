"""Examples that are measured in the place of those of a batch."""

from __future__ import annotations

from typing import Any

from kfisher._common import checks
from kfisher._common.models import tensors


def checked_probe(probe: Any) -> Any:
    """Examples that are `None`, or a tuple of arrays with the same number of rows."""
    if probe is None:
        return None
    if not isinstance(probe, tuple) or len(probe) not in (2, 3) or any(part is None for part in probe[:2]):
        raise checks.wrong("probe", "a tuple (x, y) or (x, y, sample_weight), or None", probe)
    checks.check_batch(probe=tensors(probe=probe)[0])
    return probe
