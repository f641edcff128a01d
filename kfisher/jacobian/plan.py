"""Which layers to tap, and for which of their variables, found by one trace of the model.

A variable is answered for by the smallest layer that sees every use of it and whose outputs keep the batch
axis. One that is used outside of the layer that owns it (tied weights) or where the batch axis is gone (a
table of positions) is left to the layer around it, or to the model; what else is inside of that layer keeps
taps of its own. A derivative taken inside of a layer makes that layer one whole: it uses the kernels below
once more, where no call shows it. So does recurrence.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kfisher.jacobian.trace import TRACE_BATCH, TracedCall, traced

_plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass
class Plan:
    """Layers to tap, and their calls.

    Attributes:
        taps: The layers to tap, in the order of their first calls.
        vectorizes: Whether `tf.vectorized_map` is to run the gradient of the whole model: not where it
            cannot, nor through loops, which take it half a minute to trace and are no faster for it.
        broadcasts: Whether the model multiplies a stack of matrices by one matrix.
        inlined: Whether there are convolutions or loops in the model, which run faster in the graph itself
            than in a function of its own.
        checked: Whether its products were compared with automatic differentiation.
    """

    taps: list[Tap]
    vectorizes: bool
    broadcasts: bool
    inlined: bool
    checked: bool = False


@dataclass
class Tap:
    """A layer to tap.

    Attributes:
        layer: The layer.
        variables: The trainable variables that its calls answer for; none of a BatchNormalization that is
            tapped for its statistics alone.
        calls: Its calls outside of whole layers.
    """

    layer: keras.layers.Layer
    variables: list[keras.Variable]
    calls: list[TracedCall]


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
    batch = (declared[0].shape[0] if declared else None) or TRACE_BATCH
    specs = keras.tree.map_structure(lambda t: tf.TensorSpec((batch, *t.shape[1:]), t.dtype), x)
    key = (training, repr(specs), tuple(id(v) for v in model.trainable_variables))
    cached = _plans.setdefault(model, {})
    if key not in cached:
        try:
            root = traced(model, specs, batch, training)
        except Exception:
            # The same error, if it comes from the inputs, with their own shape in it.
            own = keras.tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype), x)
            traced(model, own, batch, training)
            raise
        if _unanswered(root):
            raise ValueError(
                f"The model {model.name!r} uses trainable variables where the batch axis is gone, so there "
                f"is no gradient for each example. Keep the batch axis in front.{_advice(root)}"
            )
        found = Plan(
            _taps(root), root.vectorizes and not root.loops, root.broadcasts, root.convolves or root.loops
        )
        if any(tap.layer is model for tap in found.taps):  # and not kept, or it would keep the model alive
            return found
        cached[key] = found
    return cached[key]


def _taps(root: TracedCall) -> list[Tap]:
    seen = _outside_of_wholes(root)
    taps = []
    for layer in dict.fromkeys(call.layer for call in seen if call.tapped):
        calls = [call for call in seen if call.layer is layer]
        answers = set().union(*(call.answers for call in calls))
        taps.append(Tap(layer, [v for v in layer.trainable_variables if id(v) in answers], calls))
    return taps


def _unanswered(node: TracedCall) -> set[int]:
    """Decides which calls from `node` on answer for which variables; returns those that none answers for."""
    if isinstance(node.layer, keras.layers.BatchNormalization):
        # Even without parameters: its statistics are to be held.
        node.tapped, node.answers = True, node.all_reads if node.keeps_batch else set()
        return node.all_reads - node.answers
    # A recurrent cell keeps its dropout masks from step to step, so no step can be repeated alone.
    node.whole = bool(node.all_reads) and (isinstance(node.layer, keras.layers.RNN) or node.differentiates)
    if node.whole:
        left = node.all_reads
    else:
        left = node.reads.union(*[_unanswered(child) for child in node.children])
        left = _taken_back(node, left)
    if not left or not node.keeps_batch or not left <= {id(v) for v in node.layer.trainable_variables}:
        return left
    if _contains_batch_normalization(node):
        raise ValueError(
            f"The layer {node.layer.name!r} ({type(node.layer).__name__}) uses variables outside of the "
            "layers that it calls, takes their derivatives, or calls them where the batch axis is gone, and "
            "contains a BatchNormalization, so its examples cannot be told apart. Move that use into a layer "
            f"of its own.{_advice(node)}"
        )
    node.tapped, node.answers = True, left
    return set()


def _taken_back(node: TracedCall, left: set[int]) -> set[int]:
    """`left` with all that calls inside of `node` would answer for beside one of these variables.

    A variable that two of them share with different others takes these along, too.
    """
    inside = [call for child in node.children for call in _outside_of_wholes(child)]
    shared = [call for call in inside if call.answers & left]
    while shared:
        left = left.union(*(call.answers for call in shared))
        for call in shared:
            call.tapped, call.answers = False, set()
        shared = [call for call in inside if call.answers & left]
    return left


def _outside_of_wholes(node: TracedCall) -> list[TracedCall]:
    """The calls from `node` on, in their order, those inside of whole layers left out."""
    inside = [] if node.whole else node.children
    return [node, *(call for child in inside for call in _outside_of_wholes(child))]


def _advice(node: TracedCall) -> str:
    """A sentence for where another axis was folded into that of the batch."""
    folded = [call.layer.name for call in _outside_of_wholes(node) if call.folded]
    if not folded:
        return ""
    return (
        " Layers that see several frames of an example as examples: call them through "
        "`keras.layers.TimeDistributed`, or give frames an axis of their own. Received: layers whose batch "
        f"axis is a multiple of that of the model: {folded[:5]}"
    )


def _contains_batch_normalization(node: TracedCall) -> bool:
    return any(
        isinstance(child.layer, keras.layers.BatchNormalization) or _contains_batch_normalization(child)
        for child in node.children
    )
