"""Names of Keras and TensorFlow that are not public, each with the test that notices when it changes."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.ops.control_flow_util import GraphOrParentsInXlaContext


def options(loss: Any) -> dict[str, Any]:
    """Options that a Keras loss hands to its function: `from_logits`, `axis`, ..."""
    # `_fn_kwargs` is private, but the only place where every option (`axis` of the sparse loss among
    # them) is kept; tests/likelihoods_test.py notices if it moves.
    return getattr(loss, "_fn_kwargs", {})


def compiled_by_xla() -> bool:
    """True if the graph that is traced now is for XLA, which has no calls of Python."""
    # No public name tells of `tf.function(jit_compile=True)`; tests/jacobian/self_check_test.py notices.
    return GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def second_moments(optimizer: Any) -> list[Any]:
    """The running averages of squared gradients of Adam and its relatives, in the order of the variables.

    Empty if the optimizer keeps none.
    """
    # Public is only the list of all its variables, in a row; tests/diagnosis/taken_test.py notices.
    return list(getattr(optimizer, "_velocities", []))
