"""Which layers to tap, found by one trace of the model.

A layer is tapped if it is the smallest one that sees every use of its trainable variables and whose
outputs keep the batch axis. A variable that is used outside of the layer that owns it (tied weights) or
where the batch axis is gone (a table of positions) makes the layer around it, or the model, one block.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from kfisher._keras.calls import call_model
from kfisher._keras.patching import patched_layer_call, replaced

# The batch size of the discovery trace: large and prime, so that no other axis is mistaken for it.
_TRACE_BATCH = 10007
_plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass
class Plan:
    """What to tap.

    Attributes:
        calls: For each layer to tap, in the order of their first calls, its calls.
        vectorizes: Whether `tf.vectorized_map` can run the gradient of the whole model.
    """

    calls: dict[keras.layers.Layer, list[TracedCall]]
    vectorizes: bool


@dataclass
class TracedCall:
    """One call of one layer in the discovery trace."""

    layer: keras.layers.Layer
    children: list[TracedCall] = field(default_factory=list)
    reads: set[int] = field(default_factory=set)  # trainable variables used here and in no child
    batched: list[bool] = field(default_factory=list)
    keeps_batch: bool = False

    @property
    def all_reads(self) -> set[int]:
        return self.reads.union(*(child.all_reads for child in self.children))

    @property
    def vectorizes(self) -> bool:
        """Not convolutions in groups: Keras leaves them to XLA, for the CPU has no gradient for them."""
        convolution = isinstance(self.layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D))
        grouped = convolution and self.layer.groups > 1
        return not grouped and all(child.vectorizes for child in self.children)


def plan(model: keras.Model, x: Any = None, training: bool = True) -> Plan:
    """The layers to tap.

    Args:
        model: A built model.
        x: A batch, of which only the structure, dtypes and trailing shapes are used; by default the
            inputs of a functional or sequential model.
        training: Whether layers run in training mode.

    Raises:
        ValueError: If the model has no declared inputs and no `x` is given, or if a variable is used
            where the batch axis is gone.
    """
    declared = getattr(model, "inputs", None)
    if x is None and declared:
        # `input` has the structure that the model takes, `inputs` is a flat list. A sequential model that is
        # no part of another has no `input`, and takes one tensor.
        x = getattr(model, "input", declared[0])
    if x is None:
        raise ValueError(
            f"The model {model.name!r} does not declare its inputs, so the layers that it calls are known "
            "only once it is called. Pass `x`, a batch of inputs."
        )
    batch = (declared[0].shape[0] if declared else None) or _TRACE_BATCH
    specs = keras.tree.map_structure(lambda t: tf.TensorSpec((batch, *t.shape[1:]), t.dtype), x)
    key = (training, repr(specs), tuple(id(v) for v in model.trainable_variables))
    cached = _plans.setdefault(model, {})
    if key not in cached:
        try:
            root = _trace(model, specs, batch, training)
        except Exception:
            # The same error, if it comes from the inputs, with their own shape in it.
            own = keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), x)
            _trace(model, own, batch, training)
            raise
        calls = _resolve(root)
        if calls is None:
            raise ValueError(
                f"The model {model.name!r} uses trainable variables where the batch axis is gone, so there "
                "is no gradient for each example. Keep the batch axis in front."
            )
        layers = dict.fromkeys(call.layer for call in calls)
        by_layer = {layer: [call for call in calls if call.layer is layer] for layer in layers}
        found = Plan(by_layer, root.vectorizes)
        if model in layers:  # and not kept, or it would keep the model alive
            return found
        cached[key] = found
    return cached[key]


def _trace(model: keras.Model, specs: Any, batch: int, training: bool) -> TracedCall:
    """The tree of layer calls of one forward pass, traced into a graph that is thrown away."""
    stack = [TracedCall(model)]

    def traced(inputs):
        graph = tf.compat.v1.get_default_graph()

        def has_batch(t):
            # Tensors of inner graphs are those of loops, whose bodies see one step at a time.
            return getattr(t, "graph", None) is graph and bool(t.shape.rank) and t.shape[0] == batch

        with _LoggedReads(model, stack), patched_layer_call(_logged(stack, has_batch)):
            call_model(model, inputs, training)

    with tf.init_scope():
        tf.function(traced, autograph=False).get_concrete_function(specs)
    return stack[0].children[0]


class _LoggedReads(keras.StatelessScope):
    """Every use of a trainable variable is noted in the innermost layer call under way."""

    def __init__(self, model: keras.Model, stack: list[TracedCall]):
        super().__init__()
        self._trainable = {id(v) for v in model.trainable_variables}
        self._stack = stack

    def get_current_value(self, variable):
        if id(variable) in self._trainable:
            self._stack[-1].reads.add(id(variable))
        return super().get_current_value(variable)


def _logged(stack: list[TracedCall], has_batch: Callable) -> Callable:
    def wrap(original):
        def call(layer, *args, **kwargs):
            node, inner = TracedCall(layer), layer.call
            stack[-1].children.append(node)
            stack.append(node)

            @functools.wraps(inner)
            def logged(*args, **kwargs):
                node.batched = [has_batch(t) for t in keras.tree.flatten((args, kwargs))]
                return inner(*args, **kwargs)

            try:
                with replaced(layer, "call", logged):
                    outputs = original(layer, *args, **kwargs)
            finally:
                stack.pop()
            node.keeps_batch = all(has_batch(t) for t in keras.tree.flatten(outputs))
            return outputs

        return call

    return wrap


def _resolve(node: TracedCall) -> list[TracedCall] | None:
    """The calls to tap for the variables below `node`, or `None` if they cannot be told apart there."""
    if isinstance(node.layer, keras.layers.BatchNormalization):
        return [node]  # even without parameters: its statistics are to be held
    below = [_resolve(child) for child in node.children]
    # A recurrent cell keeps its dropout masks from step to step, so no step can be repeated alone.
    recurrent = isinstance(node.layer, keras.layers.RNN) and node.all_reads
    if not node.reads and not recurrent and None not in below:
        return [call for calls in below for call in calls or []]
    if not node.keeps_batch or not node.all_reads <= {id(v) for v in node.layer.trainable_variables}:
        return None
    if _contains_batch_normalization(node):
        raise ValueError(
            f"The layer {node.layer.name!r} ({type(node.layer).__name__}) uses variables outside of the "
            "layers that it calls and contains a BatchNormalization, so its examples cannot be told apart. "
            "Move the use of those variables into a layer of its own."
        )
    return [node]


def _contains_batch_normalization(node: TracedCall) -> bool:
    return any(
        isinstance(child.layer, keras.layers.BatchNormalization) or _contains_batch_normalization(child)
        for child in node.children
    )
