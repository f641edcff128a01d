"""Names of Keras and TensorFlow that are not public, each with the test that notices when it changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf
from tensorflow.core.framework.attr_value_pb2 import AttrValue
from tensorflow.python.distribute import distribute_lib
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


def made_trainable(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Variables of a layer that were made to be trained, frozen or not; not those of layers in it."""
    # `_trainable_variables` is private; in public, weights that are frozen and statistics of the forward pass
    # are alike. tests/optimizers/frozen_test.py notices.
    return list(getattr(layer, "_trainable_variables", []))


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """All layers in a model, at any depth, those in its lists and dictionaries as well."""
    # Public is `layers`, of one depth; tests/distribute/mirrored_test.py notices.
    return model._flatten_layers(include_self=False, recursive=True)


def second_moments(optimizer: Any) -> list[Any]:
    """The running averages of squared gradients of Adam and its relatives, in the order of the variables.

    Empty if the optimizer keeps none.
    """
    # Public is only the list of all its variables, in a row; tests/diagnosis/taken_test.py notices.
    return list(getattr(optimizer, "_velocities", []))


@contextlib.contextmanager
def no_strategy() -> Iterator[None]:
    """A block outside of every scope of a `tf.distribute.Strategy`, and of every replica.

    In such a scope Keras divides losses by the number of replicas, whoever asks for them.
    """
    # Scopes can be entered but not left; tests/operator_test.py notices if these names move.
    distribute_lib._push_per_thread_mode(distribute_lib._get_default_replica_mode())
    try:
        yield
    finally:
        distribute_lib._pop_per_thread_mode()


def run_branches_apart() -> None:
    """Makes the branches of the last `tf.cond` in the graph functions, made ready when they are first taken.

    TensorFlow otherwise lays both out in the graph around them, and optimises the whole before the first
    step: also what is seldom or never run. Beside a GPU it does so still: a branch that is a function runs
    on one device.
    """
    # No public name tells one condition from another; tests/_common/replicas_test.py notices.
    if tf.executing_eagerly() or tf.config.list_logical_devices("GPU"):
        return
    operations = reversed(tf.compat.v1.get_default_graph().get_operations())
    last = next((o for o in operations if o.type in ("If", "StatelessIf")), None)
    if last is not None:  # none where the predicate is known
        last._set_attr("_lower_using_switch_merge", AttrValue(b=False))
