"""The calls of layers with parameters in one pass: what each sees and gives, and how to repeat one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._keras.calls import in_mode, training_mode
from kfisher._keras.patching import replaced
from kfisher.jacobian.batch_normalisation import hold_statistics
from kfisher.jacobian.plan import Plan


@dataclass
class LayerCall:
    """One call of one layer.

    Attributes:
        layer: The tapped layer.
        call: Its `call` without the fused activation.
        args, kwargs: What it was called with.
        batched: For each leaf of `(args, kwargs)`, whether it is a tensor with the batch axis.
        z: The pre-activation output, shape `(N, ...)` (a structure of tensors for some layers).
        state: What the scope of the pass held at that time, for a repeated call to find.
        training: Keras' training mode, which a layer hands on to those that it calls.
        repeatable: Whether the layer may be run again on a part of the batch. Not if the call changed
            its state: then it draws random numbers, or mixes examples.
        vectorizes: Whether `tf.vectorized_map` can run it.
        broadcasts: Whether it multiplies a stack of matrices by one matrix.
        grads: V pulled back to z, `(R, N, ...)` for each tensor of z; set by `pull_back`.
    """

    layer: keras.layers.Layer
    call: Callable
    args: tuple
    kwargs: dict[str, Any]
    batched: list[bool]
    z: Any
    state: dict[int, tf.Tensor]
    training: bool | None
    repeatable: bool = True
    vectorizes: bool = True
    broadcasts: bool = False
    grads: Any = None


@contextlib.contextmanager
def tapped(
    plan: Plan,
    scope: keras.StatelessScope,
    tape: tf.GradientTape,
    layer_calls: list[LayerCall],
    size: int | tf.Tensor,
) -> Iterator[None]:
    """For the length of the block, calls of the layers of `plan` are noted and watched by `tape`.

    `size` is N, which tensors must have whose size was not known when the model was first traced.
    """
    running: list[keras.layers.Layer] = []
    with contextlib.ExitStack() as stack:
        for layer, calls in plan.calls.items():
            if getattr(layer, "stateful", False):  # states that Keras counts among no variables
                for v in keras.tree.flatten(layer.states):
                    scope.add_update((v, tf.convert_to_tensor(v.value)))
            recorded = _tap(layer, calls, layer_calls, running, scope, tape, size)
            stack.enter_context(replaced(layer, "call", recorded))
        yield


def _tap(
    layer: Any, calls: Any, layer_calls: Any, running: Any, scope: Any, tape: Any, size: Any
) -> Callable:
    call, activation = _set_activation_aside(layer)
    planned = iter(calls)

    @functools.wraps(layer.call)
    def recorded(*args: Any, **kwargs: Any) -> Any:
        if running:  # inside another tapped layer, which answers for this call
            return activation(call(*args, **kwargs))
        if isinstance(layer, keras.layers.BatchNormalization):
            kwargs = hold_statistics(layer, call, args, kwargs)
        state = dict(scope.state_mapping)
        running.append(layer)
        try:
            z = _distinct(call(*args, **kwargs))
        finally:
            running.pop()
        changed = any(state.get(key) is not value for key, value in scope.state_mapping.items())
        seen = next(planned, None)
        if seen is None:
            raise ValueError(
                f"The layer {layer.name!r} was called more often than when the model was first traced. The "
                "calls of layers must not depend on the values of a batch."
            )
        if layer.trainable_variables:
            if not seen.sized:
                z = _of_size(size, z, (args, kwargs), seen.batched, layer)
            tape.watch(floating(z))
            layer_calls.append(
                LayerCall(
                    layer=layer,
                    call=call,
                    args=args,
                    kwargs=kwargs,
                    batched=seen.batched,
                    z=z,
                    state=state,
                    training=training_mode(),
                    repeatable=not changed,
                    vectorizes=seen.vectorizes,
                    broadcasts=seen.broadcasts,
                )
            )
        return activation(z)

    return recorded


def repeat(
    layer_call: LayerCall, values: list[tuple[keras.Variable, tf.Tensor]], args: tuple, kwargs: dict[str, Any]
) -> Any:
    """The call of a layer_call again, with some variables at other `values` and everything else as it was."""
    with keras.StatelessScope(values) as scope:
        scope.state_mapping = {**layer_call.state, **scope.state_mapping}
        return in_mode(layer_call.training, lambda: layer_call.call(*args, **kwargs))


def _distinct(z: Any) -> Any:
    """z with each of several tensors a copy, so that no gradient at one also goes through another."""
    if len(keras.tree.flatten(z)) == 1:
        return z
    return keras.tree.map_structure(lambda t: tf.identity(t) if tf.is_tensor(t) else t, z)


def gathered_call(layer_call: LayerCall, kept: dict) -> LayerCall:
    """A call with the inputs and gradients of all replicas, for a layer that takes each example by itself."""
    structure = (layer_call.args, layer_call.kwargs)
    flat = []
    for t, has in zip(keras.tree.flatten(structure), layer_call.batched, strict=True):
        if has:
            _, t = kept.setdefault(id(t), (t, None if id(t) in kept else replicas.gathered(t)))
        flat.append(t)
    args, kwargs = keras.tree.pack_sequence_as(structure, flat)
    grads = [replicas.gathered(g, 1) for g in layer_call.grads]
    return replace(layer_call, args=args, kwargs=kwargs, grads=grads)


def floating(z: Any) -> list[tf.Tensor]:
    """The tensors of z that have gradients."""
    return [t for t in keras.tree.flatten(z) if tf.is_tensor(t) and t.dtype.is_floating]


def _of_size(size: int | tf.Tensor, z: Any, arguments: Any, batched: list[bool], layer: Any) -> Any:
    """z, or an error where it or the arguments with the batch axis have another size than the batch."""
    inputs = [t for t, has in zip(keras.tree.flatten(arguments), batched, strict=True) if has]
    sizes = tf.stack([tf.shape(t)[0] for t in [*inputs, *floating(z)]])
    message = (
        f"The layer {layer.name!r} uses trainable variables where the batch axis is gone, so there is no "
        "gradient for each example. Keep the batch axis in front. Received: sizes of the batch and of the "
        "first axes of the layer:"
    )
    assertion = tf.debugging.Assert(tf.reduce_all(tf.equal(sizes, size)), [message, size, sizes])
    with tf.control_dependencies([] if assertion is None else [assertion]):
        return keras.tree.map_structure(lambda t: tf.identity(t) if tf.is_tensor(t) else t, z)


_FUSED = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def _set_activation_aside(layer: keras.layers.Layer) -> tuple[Callable, Callable]:
    """`call` up to the fused activation, and the activation (the identity where there is none)."""
    call, activation = layer.call, vars(layer).get("activation")
    fused = any(type(layer).call is cls.call for cls in _FUSED)
    if not fused or activation is None or getattr(activation, "trainable_variables", None):
        return call, lambda z: z

    def affine(*args: Any, **kwargs: Any) -> Any:
        with replaced(layer, "activation", None):
            return call(*args, **kwargs)

    return affine, activation
