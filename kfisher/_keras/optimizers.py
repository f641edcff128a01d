"""Optimizers that stand around others."""

from __future__ import annotations

from typing import Any


def inner(optimizer: Any) -> Any:
    """The optimizer inside a `LossScaleOptimizer`, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)
