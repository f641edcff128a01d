"""Names of Keras and TensorFlow that are not public, each with the test that notices when it changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
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


def cond_of_functions(predicate: tf.Tensor, true_fn: Callable, false_fn: Callable) -> Any:
    """`tf.cond`, of which a branch is optimised and made ready when it is first taken, and not before.

    TensorFlow otherwise lays both out in the graph around them, and optimises the whole before the first
    step: also what is seldom or never run. Where there are several devices it does so still: a branch that
    is a function runs on one of them.
    """
    graph = tf.compat.v1.get_default_graph()
    apart = not tf.executing_eagerly() and len(tf.config.list_logical_devices()) == 1
    before = len(graph.get_operations()) if apart else 0
    found = tf.cond(predicate, true_fn, false_fn)
    # No public name tells one condition from another; tests/_common/replicas_test.py notices.
    for operation in graph.get_operations()[before:] if apart else ():
        if operation.type in ("If", "StatelessIf"):
            operation._set_attr("_lower_using_switch_merge", tf.compat.v1.AttrValue(b=False))
    return found
