"""Which layers to tap, found by one trace of the model.

A layer is tapped if it is the smallest one that sees every use of its trainable variables and whose
outputs keep the batch axis. A variable that is used outside of the layer that owns it (tied weights) or
where the batch axis is gone (a table of positions) makes the layer around it, or the model, one block. So
does a derivative taken inside of a layer: it uses the kernels below once more, where no call shows it.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from kfisher._keras.calls import call_model
from kfisher._keras.patching import patched_layer_call, patched_tapes, replaced

# The batch size of the discovery trace: large and prime, so that no other axis is mistaken for it.
_TRACE_BATCH = 10007
_plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass
class Plan:
    """Layers to tap, and their calls.

    Attributes:
        calls: For each layer to tap, in the order of their first calls, its calls.
        vectorizes: Whether `tf.vectorized_map` can run the gradient of the whole model.
        broadcasts: Whether the model multiplies a stack of matrices by one matrix.
        checked: Whether its products were compared with automatic differentiation.
    """

    calls: dict[keras.layers.Layer, list[TracedCall]]
    vectorizes: bool
    broadcasts: bool
    checked: bool = False


@dataclass
class TracedCall:
    """One call of one layer in the discovery trace."""

    layer: keras.layers.Layer
    children: list[TracedCall] = field(default_factory=list)
    reads: set[int] = field(default_factory=set)  # trainable variables used here and in no child
    batched: list[bool] = field(default_factory=list)
    keeps_batch: bool = False
    sized: bool = True  # whether every batch axis was found by its size, not by having none that is known
    differentiates: bool = False  # whether a derivative is taken from a tape that begins here
    broadcasts: bool = False  # whether a stack of matrices is multiplied by one matrix
    ops: range = range(0)  # those of the graph that it makes

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
        found = Plan(by_layer, root.vectorizes, root.broadcasts)
        if model in layers:  # and not kept, or it would keep the model alive
            return found
        cached[key] = found
    return cached[key]


def _trace(model: keras.Model, specs: Any, batch: int, training: bool) -> TracedCall:
    """The tree of layer calls of one forward pass, traced into a graph that is thrown away."""
    stack = [TracedCall(model)]

    def traced(inputs: Any) -> None:
        graph = tf.compat.v1.get_default_graph()

        def has_batch(t: Any) -> Any:
            # Tensors of inner graphs are those of loops, whose bodies see one step at a time.
            if getattr(t, "graph", None) is not graph or not t.shape.rank:
                return False
            # A size that is lost, as in a pipeline of strings: the pass itself shows whether it is N.
            stack[-1].sized &= t.shape[0] is not None
            return t.shape[0] in (batch, None)

        logged = _logged(stack, has_batch, graph)
        with _LoggedReads(model, stack), patched_layer_call(logged), patched_tapes(_without_values(stack)):
            call_model(model, inputs, training)

    with tf.init_scope():
        graph = tf.function(traced, autograph=False).get_concrete_function(specs).graph
    _find_broadcasts(stack[0].children[0], graph.get_operations())
    return stack[0].children[0]


def _find_broadcasts(node: TracedCall, ops: list[tf.Operation]) -> None:
    found = (op for op in ops[node.ops.start : node.ops.stop] if op.type.startswith("BatchMatMul"))
    node.broadcasts = any(op.inputs[1].shape.rank == 2 for op in found)
    for child in node.children if node.broadcasts else []:
        _find_broadcasts(child, ops)


class _LoggedReads(keras.StatelessScope):
    """Every use of a trainable variable is noted in the innermost layer call under way."""

    def __init__(self, model: keras.Model, stack: list[TracedCall]):
        super().__init__()
        self._trainable = {id(v) for v in model.trainable_variables}
        self._stack = stack

    def get_current_value(self, variable: Any) -> Any:
        if id(variable) in self._trainable:
            self._stack[-1].reads.add(id(variable))
        return super().get_current_value(variable)


def _without_values(stack: list[TracedCall]) -> Callable:
    """Derivatives are noted, and stand for zeros: tapes may be paused around the trace."""
    begun: dict[int, TracedCall] = {}

    def zeros(shapes: Any, sources: Any) -> Any:
        return keras.tree.map_structure(lambda t: tf.zeros(shapes(t), t.dtype), sources)

    def wrap(name: Any, original: Any) -> Any:
        def enter(tape: Any) -> Any:
            begun[id(tape)] = stack[-1]
            return original(tape)

        def derivative(*args: Any, **kwargs: Any) -> Any:
            tape, *given = inspect.signature(original).bind(*args, **kwargs).arguments.values()
            node = begun.get(id(tape))
            owner = node if node is not None and any(node is other for other in stack) else stack[-1]
            owner.differentiates = True
            if name == "jvp":
                return zeros(tf.shape, given[0])
            if name == "gradient":
                return zeros(tf.shape, given[1])
            skipped = int(name == "batch_jacobian")
            return zeros(lambda t: tf.concat([tf.shape(given[0]), tf.shape(t)[skipped:]], 0), given[1])

        return enter if name == "__enter__" else derivative

    return wrap


def _logged(stack: list[TracedCall], has_batch: Callable, graph: tf.Graph) -> Callable:
    def wrap(original: Any) -> Any:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            node, inner = TracedCall(layer), layer.call
            first = graph.version
            stack[-1].children.append(node)
            stack.append(node)

            @functools.wraps(inner)
            def logged(*args: Any, **kwargs: Any) -> Any:
                node.batched = [has_batch(t) for t in keras.tree.flatten((args, kwargs))]
                return inner(*args, **kwargs)

            try:
                with replaced(layer, "call", logged):
                    outputs = original(layer, *args, **kwargs)
                node.keeps_batch = all(has_batch(t) for t in keras.tree.flatten(outputs))
            finally:
                stack.pop()
            node.ops = range(first, graph.version)
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
    whole = node.reads or recurrent or (node.differentiates and node.all_reads)
    if not whole and None not in below:
        return [call for calls in below for call in calls or []]
    if not node.keeps_batch or not node.all_reads <= {id(v) for v in node.layer.trainable_variables}:
        return None
    if _contains_batch_normalization(node):
        raise ValueError(
            f"The layer {node.layer.name!r} ({type(node.layer).__name__}) uses variables outside of the "
            "layers that it calls, or takes their derivatives, and contains a BatchNormalization, so its "
            "examples cannot be told apart. Move that use into a layer of its own."
        )
    return [node]


def _contains_batch_normalization(node: TracedCall) -> bool:
    return any(
        isinstance(child.layer, keras.layers.BatchNormalization) or _contains_batch_normalization(child)
        for child in node.children
    )
