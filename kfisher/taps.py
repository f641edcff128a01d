"""The recorded forward pass: what every layer with parameters sees, and the pull-back of V to it.

`plan` finds, once for a model, the layers to tap: the smallest ones that own trainable variables and
whose inputs and outputs keep the batch axis. `record` runs the model on a batch inside a
`keras.StatelessScope`, so nothing in it moves twice, and keeps for each call of a tapped layer its
arguments and its pre-activation output z. `pull_back` then carries vectors at the outputs to each z.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf


@dataclass
class Site:
    """One call of one layer.

    Attributes:
        layer: The tapped layer.
        call: Its `call` without the fused activation.
        args, kwargs: What it was called with.
        z: The pre-activation output, shape `(N, ...)` (a structure of tensors for some layers).
        state: `(variable, value)` of the non-trainable variables that a repeated call must find.
        repeatable: Whether the layer may be run again on a part of the batch. Not if the call changed
            its state: then it draws random numbers, or mixes examples.
        grads: V pulled back to z, `(R, N, ...)` for each tensor of z; set by `pull_back`.
    """

    layer: keras.layers.Layer
    call: Callable
    args: tuple
    kwargs: dict[str, Any]
    z: Any
    state: list[tuple[keras.Variable, tf.Tensor]] = field(default_factory=list)
    repeatable: bool = True
    grads: Any = None


# --- which layers to tap ------------------------------------------------------------------------

# The batch size of the discovery trace: large and prime, so that no other axis is mistaken for it.
_TRACE_BATCH = 10007
_plans: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@dataclass
class _Call:
    layer: keras.layers.Layer
    children: list[_Call] = field(default_factory=list)
    outputs: Any = None


def plan(model: keras.Model, x: Any = None) -> list[keras.layers.Layer]:
    """The layers to tap, in the order of their first call.

    Args:
        model: A built model.
        x: A batch, of which only the structure, dtypes and trailing shapes are used; by default the
            inputs of a functional or sequential model.

    Raises:
        ValueError: If the model has no declared inputs and no `x` is given, or if a variable is used
            where the batch axis is gone.
    """
    if x is None and getattr(model, "inputs", None):
        x = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    if x is None:
        raise ValueError(
            f"The model {model.name!r} does not declare its inputs, so the layers that it calls are known "
            "only once it is called. Pass `x`, a batch of inputs."
        )
    specs = keras.tree.map_structure(_trace_spec, x)
    key = (repr(specs), tuple(id(v) for v in model.trainable_variables))
    cached = _plans.setdefault(model, {})
    if key not in cached:
        calls = _resolve(_trace(model, specs))
        if calls is None:
            raise ValueError(
                f"The model {model.name!r} uses trainable variables where the batch axis is gone, so there "
                "is no gradient for each example. Keep the batch axis in front."
            )
        cached[key] = list(dict.fromkeys(call.layer for call in calls))
    return cached[key]


def _trace_spec(t: Any) -> tf.TensorSpec:
    shape = tuple(t.shape)
    fixed = isinstance(t, keras.KerasTensor) and shape[0] is not None
    return tf.TensorSpec((shape[0] if fixed else _TRACE_BATCH, *shape[1:]), t.dtype)


def _trace(model: keras.Model, specs: Any) -> _Call:
    """The tree of layer calls of one forward pass, traced into a graph that is thrown away."""
    stack = [_Call(model)]

    def traced(inputs):
        graph = tf.compat.v1.get_default_graph()
        with keras.StatelessScope(), _patched_layer_call(_logged(stack, graph)):
            call_model(model, inputs, training=True)

    with tf.init_scope():
        tf.function(traced, autograph=False).get_concrete_function(specs)
    return stack[0].children[0]


def _logged(stack: list[_Call], graph: tf.Graph) -> Callable:
    def wrap(original):
        def call(layer, *args, **kwargs):
            node = _Call(layer)
            stack[-1].children.append(node)
            stack.append(node)
            try:
                outputs = original(layer, *args, **kwargs)
            finally:
                stack.pop()
            node.outputs = [
                t.shape[0] if getattr(t, "graph", None) is graph and t.shape.rank else None
                for t in keras.tree.flatten(outputs)
            ]
            return outputs

        return call

    return wrap


_patch_lock = threading.RLock()


@contextlib.contextmanager
def _patched_layer_call(wrap: Callable) -> Iterator[None]:
    """`keras.layers.Layer.__call__` wrapped, in this thread, for the length of the block."""
    original, thread = keras.layers.Layer.__call__, threading.get_ident()
    wrapped = wrap(original)

    def call(layer, *args, **kwargs):
        here = threading.get_ident() == thread
        return (wrapped if here else original)(layer, *args, **kwargs)

    with _patch_lock:
        keras.layers.Layer.__call__ = call
        try:
            yield
        finally:
            keras.layers.Layer.__call__ = original


def _resolve(node: _Call) -> list[_Call] | None:
    """The calls to tap for the variables below `node`, or `None` if they cannot be told apart there."""
    if isinstance(node.layer, keras.layers.BatchNormalization):
        return [node]  # even without parameters: its statistics are to be held
    below = [_resolve(child) for child in node.children]
    if not _own_variables(node) and None not in below:
        return [call for calls in below for call in calls or []]
    if not all(n == _TRACE_BATCH for n in node.outputs):
        return None
    if _contains_batch_normalization(node):
        raise ValueError(
            f"The layer {node.layer.name!r} ({type(node.layer).__name__}) has variables of its own and "
            "contains a BatchNormalization, so its examples cannot be told apart. Move the variables into "
            "a layer of their own."
        )
    return [node]


def _own_variables(node: _Call) -> set[int]:
    """Variables of this layer itself: not of a layer that it called, nor of one that it never calls."""
    others = [child.layer for child in node.children] + list(getattr(node.layer, "layers", []))
    theirs = {id(v) for layer in others for v in layer.trainable_variables}
    return {id(v) for v in node.layer.trainable_variables} - theirs


def _contains_batch_normalization(node: _Call) -> bool:
    return any(
        isinstance(child.layer, keras.layers.BatchNormalization) or _contains_batch_normalization(child)
        for child in node.children
    )


# --- the recorded pass --------------------------------------------------------------------------


def call_model(layer: keras.layers.Layer, x: Any, training: bool) -> Any:
    """`layer(x, training=training)`, without the argument where `call` does not take it."""
    parameters = inspect.signature(layer.call).parameters
    takes = "training" in parameters or any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()
    )
    return layer(x, training=training) if takes else layer(x)


@contextlib.contextmanager
def tapped(
    layers: list[keras.layers.Layer], scope: keras.StatelessScope, tape: tf.GradientTape
) -> Iterator[list[Site]]:
    """For the length of the block, calls of `layers` are recorded as sites and watched by `tape`."""
    sites: list[Site] = []
    for layer in layers:
        # In the instance's own dictionary: Keras' attribute tracking has no business here.
        vars(layer)["call"] = _tap(layer, sites, scope, tape)
    try:
        yield sites
    finally:
        for layer in layers:
            del vars(layer)["call"]


def _tap(layer, sites, scope, tape) -> Callable:
    call, activation = _set_activation_aside(layer)
    states = [v for v in layer.variables if not v.trainable]

    def recorded(*args, **kwargs):
        if isinstance(layer, keras.layers.BatchNormalization):
            kwargs = _hold_statistics(layer, call, args, kwargs)
        before = [scope.get_current_value(v) for v in states]
        z = call(*args, **kwargs)
        repeatable = all(scope.get_current_value(v) is value for v, value in zip(states, before))
        if layer.trainable_variables:
            keras.tree.map_structure(tape.watch, z)
            state = [(v, value) for v, value in zip(states, before) if value is not None]
            sites.append(Site(layer, call, args, kwargs, z, state, repeatable))
        return activation(z)

    return recorded


_FUSED = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


def _set_activation_aside(layer: keras.layers.Layer) -> tuple[Callable, Callable]:
    """`call` up to the fused activation, and the activation (the identity where there is none)."""
    call, activation = layer.call, vars(layer).get("activation")
    fused = any(type(layer).call is cls.call for cls in _FUSED)
    if not fused or activation is None:
        return call, lambda z: z

    def affine(*args, **kwargs):
        vars(layer)["activation"] = None
        try:
            return call(*args, **kwargs)
        finally:
            vars(layer)["activation"] = activation

    return affine, activation


def _hold_statistics(layer, call, args, kwargs) -> dict[str, Any]:
    """BatchNormalization with the statistics of this batch, held constant.

    p(y | x_n) must be a function of x_n alone. With momentum 0 the layer writes the statistics of the
    batch into its moving ones (in the scope, so nothing moves); inference mode then uses them.
    """
    if not kwargs.get("training") or not layer.trainable:
        return kwargs
    if layer.renorm:
        raise ValueError(
            "BatchNormalization(renorm=True) couples the examples of a batch in a way that leaves no Fisher "
            f"matrix of one example. Use `renorm=False`. Received: layer={layer.name!r}"
        )
    momentum = layer.momentum
    vars(layer)["momentum"] = 0.0
    try:
        call(*args, **kwargs)
    finally:
        vars(layer)["momentum"] = momentum
    for variable in (layer.moving_mean, layer.moving_variance):
        variable.assign(tf.stop_gradient(variable.value))
    return {**kwargs, "training": False}


def pull_back(
    tape: tf.GradientTape, sites: list[Site], groups: list[list[tuple[tf.Tensor, tf.Tensor]]]
) -> None:
    """Sets `grads` of every site: V carried back from the outputs to z.

    Args:
        tape: The persistent tape of the recorded pass.
        sites: Its sites.
        groups: For each group of columns, `(outputs, V)` pairs with V of shape `(R_g, *outputs.shape)`;
            the columns of one group reach all its outputs together, different groups are stacked.
    """
    zs = [keras.tree.flatten(site.z) for site in sites]
    flat = [z for site_zs in zs for z in site_zs]
    columns = []
    for group in groups:
        outputs = [f for f, _ in group]

        def back(vectors, outputs=outputs):
            return tape.gradient(outputs, flat, list(vectors), unconnected_gradients="zero")

        vectors = tuple(v for _, v in group)
        if vectors[0].shape[0] == 1:
            columns.append([g[tf.newaxis] for g in back([v[0] for v in vectors])])
        else:
            columns.append(tf.vectorized_map(back, vectors, fallback_to_while_loop=True))
    stacked = [tf.concat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*columns)]
    for site, site_zs in zip(sites, zs):
        site.grads, stacked = stacked[: len(site_zs)], stacked[len(site_zs) :]
