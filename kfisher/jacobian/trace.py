"""One trace of a model: which layers call which, and which variables each of them uses."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from kfisher._keras.calls import call_model
from kfisher._keras.patching import patched_layer_call, patched_tapes, replaced

# The batch size of the trace: large and prime, so that no other axis is mistaken for it.
TRACE_BATCH = 10007


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
    branches: bool = False  # whether there is a condition in it
    loops: bool = False  # whether TensorFlow's loops run in it; known of the whole model
    convolves: bool = False  # whether there are convolutions in it; known of the whole model
    folded: bool = False  # whether another axis was merged into that of the batch
    flagged: bool = False  # whether an argument is `True`
    ops: range = range(0)  # those of the graph that it makes
    tapped: bool = False
    whole: bool = False  # whether it answers for all that is inside of it
    answers: set[int] = field(default_factory=set)  # trainable variables that it answers for

    @property
    def all_reads(self) -> set[int]:
        return self.reads.union(*(child.all_reads for child in self.children))

    @property
    def vectorizes(self) -> bool:
        """Not convolutions in groups: Keras leaves them to XLA, for the CPU has no gradient for them; nor
        conditions, of whose gradient TensorFlow cannot make a vectorized one."""
        convolution = isinstance(self.layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D))
        grouped = convolution and self.layer.groups > 1
        return not grouped and not self.branches and all(child.vectorizes for child in self.children)


def traced(model: keras.Model, specs: Any, batch: int, training: bool) -> TracedCall:
    """The tree of layer calls of one forward pass, traced into a graph that is thrown away."""
    stack = [TracedCall(model)]

    def run(inputs: Any) -> None:
        graph = tf.compat.v1.get_default_graph()

        def has_batch(t: Any) -> Any:
            # Tensors of inner graphs are those of loops, whose bodies see one step at a time.
            if getattr(t, "graph", None) is not graph or not t.shape.rank:
                return False
            # A size that is lost, as in a pipeline of strings: the pass itself shows whether it is N.
            stack[-1].sized &= t.shape[0] is not None
            return t.shape[0] in (batch, None)

        logged = _logged(stack, has_batch, graph, batch)
        with _LoggedReads(model, stack), patched_layer_call(logged), patched_tapes(_without_values(stack)):
            call_model(model, inputs, training)

    with tf.init_scope():
        graph = tf.function(run, autograph=False).get_concrete_function(specs).graph
    root, ops = stack[0].children[0], graph.get_operations()
    _look_at_operations(root, ops)
    root.loops = any(op.type in ("While", "StatelessWhile") for op in ops)
    root.convolves = any(op.type.startswith(("Conv", "DepthwiseConv")) for op in ops)
    return root


def _look_at_operations(node: TracedCall, ops: list[tf.Operation]) -> None:
    own = ops[node.ops.start : node.ops.stop]
    stacks = (op for op in own if op.type.startswith("BatchMatMul"))
    node.broadcasts = any(op.inputs[1].shape.rank == 2 for op in stacks)
    node.branches = any(op.type in ("If", "StatelessIf", "Case", "StatelessCase") for op in own)
    for child in node.children if node.broadcasts or node.branches else []:
        _look_at_operations(child, ops)


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


def _logged(stack: list[TracedCall], has_batch: Callable, graph: tf.Graph, batch: int) -> Callable:
    def wrap(original: Any) -> Any:
        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            node, inner = TracedCall(layer), layer.call
            first = graph.version
            # Where the trace builds a model, Keras calls its layers once for the shapes; a pass does not.
            if not any(isinstance(t, keras.KerasTensor) for t in keras.tree.flatten((args, kwargs))):
                stack[-1].children.append(node)
            stack.append(node)

            @functools.wraps(inner)
            def logged(*args: Any, **kwargs: Any) -> Any:
                node.folded = any(_is_folded(t, batch) for t in keras.tree.flatten((args, kwargs)))
                node.flagged = any(t is True for t in keras.tree.flatten((args, kwargs)))
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


def _is_folded(t: Any, batch: int) -> bool:
    size = t.shape[0] if tf.is_tensor(t) and t.shape.rank else None
    return size is not None and size > batch > 1 and size % batch == 0
