"""Names of Keras and TensorFlow that are not public, each with the test that notices when it changes."""

from __future__ import annotations

from typing import Any


def options(loss: Any) -> dict[str, Any]:
    """What a Keras loss hands to its function: `from_logits`, `axis`, ..."""
    # `_fn_kwargs` is private, but the only place where every option (`axis` of the sparse loss among
    # them) is kept; tests/likelihoods_test.py notices if it moves.
    return getattr(loss, "_fn_kwargs", {})
