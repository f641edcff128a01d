"""The recorded forward pass: what every layer with parameters sees, and the pull-back of V to it.

`tapped` records, while the model runs on a batch inside a scope in which nothing moves, the arguments and
the pre-activation output z of each call of a tapped layer. `pull_back` then carries vectors at the outputs
to each z, and `repeat` runs one call again.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from kfisher.plan import Plan, patched_layer_call, replaced


@dataclass
class Site:
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
    grads: Any = None


def scope_of(model: keras.Model) -> keras.StatelessScope:
    """A scope that starts from the state of `model` as it is now.

    What is repeated later, after the training pass has moved seeds and statistics on, finds it there; and
    `model.losses` finds the variables that have a regulariser.
    """
    regularised = [v for v in model.trainable_variables if v.regularizer is not None]
    held = model.non_trainable_variables + regularised
    # As tensors: Keras would keep the `tf.Variable`, which moves.
    return keras.StatelessScope([(v, tf.convert_to_tensor(v.value)) for v in held])


@contextlib.contextmanager
def tapped(plan: Plan, scope: keras.StatelessScope, tape: tf.GradientTape) -> Iterator[list[Site]]:
    """For the length of the block, calls of the layers of `plan` are recorded and watched by `tape`."""
    sites: list[Site] = []
    running: list[keras.layers.Layer] = []
    with contextlib.ExitStack() as stack:
        for layer, calls in plan.calls.items():
            if getattr(layer, "stateful", False):  # states that Keras counts among no variables
                for v in keras.tree.flatten(layer.states):
                    scope.add_update((v, tf.convert_to_tensor(v.value)))
            recorded = _tap(layer, calls, sites, running, scope, tape)
            stack.enter_context(replaced(layer, "call", recorded))
        yield sites


def _tap(layer, calls, sites, running, scope, tape) -> Callable:
    call, activation = _set_activation_aside(layer)
    planned = iter(calls)

    @functools.wraps(layer.call)
    def recorded(*args, **kwargs):
        if running:  # inside another tapped layer, which answers for this call
            return activation(call(*args, **kwargs))
        if isinstance(layer, keras.layers.BatchNormalization):
            kwargs = _hold_statistics(layer, call, args, kwargs)
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
            tape.watch(floating(z))
            sites.append(
                Site(
                    layer=layer,
                    call=call,
                    args=args,
                    kwargs=kwargs,
                    batched=seen.batched,
                    z=z,
                    state=state,
                    training=_training_mode(),
                    repeatable=not changed,
                    vectorizes=seen.vectorizes,
                )
            )
        return activation(z)

    return recorded


class _Mode(keras.layers.Layer):
    """Keras' training mode goes from layer to layer in a context that only a layer can read or set."""

    def __init__(self):
        # Not in the dtype of a mixed policy, which would open a context of its own.
        super().__init__(name="mode", dtype="float32")
        self.built = True

    def call(self, x, function, training=None):
        function(training)
        return x


def _training_mode() -> bool | None:
    found: list[bool | None] = []
    _Mode()(tf.zeros(()), function=found.append)
    return found[0]


def repeat(
    site: Site, values: list[tuple[keras.Variable, tf.Tensor]], args: tuple, kwargs: dict[str, Any]
) -> Any:
    """The call of a site again, with some variables at other `values` and everything else as it was."""
    z: list[Any] = []
    with keras.StatelessScope(values) as scope:
        scope.state_mapping = {**site.state, **scope.state_mapping}
        _Mode()(tf.zeros(()), function=lambda _: z.append(site.call(*args, **kwargs)), training=site.training)
    return z[0]


def _distinct(z: Any) -> Any:
    """z with each of several tensors a copy, so that no gradient at one also goes through another."""
    if len(keras.tree.flatten(z)) == 1:
        return z
    return keras.tree.map_structure(lambda t: tf.identity(t) if tf.is_tensor(t) else t, z)


def floating(z: Any) -> list[tf.Tensor]:
    """The tensors of z that have gradients."""
    return [t for t in keras.tree.flatten(z) if tf.is_tensor(t) and t.dtype.is_floating]


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

    def affine(*args, **kwargs):
        with replaced(layer, "activation", None):
            return call(*args, **kwargs)

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
    with replaced(layer, "momentum", 0.0):
        call(*args, **kwargs)
    for variable in (layer.moving_mean, layer.moving_variance):
        variable.assign(tf.stop_gradient(variable.value))
    return {**kwargs, "training": False}


@contextlib.contextmanager
def statistics_held() -> Iterator[None]:
    """For the length of the block, BatchNormalization of any model holds its statistics as `tapped` does."""

    def wrap(original):
        def call(layer, *args, **kwargs):
            if not isinstance(layer, keras.layers.BatchNormalization):
                return original(layer, *args, **kwargs)
            inner = layer.call

            @functools.wraps(inner)
            def held(*args, **kwargs):
                return inner(*args, **_hold_statistics(layer, inner, args, kwargs))

            with replaced(layer, "call", held):
                return original(layer, *args, **kwargs)

        return call

    with patched_layer_call(wrap):
        yield


def pull_back(
    plan: Plan,
    tape: tf.GradientTape,
    sites: list[Site],
    groups: list[list[tuple[tf.Tensor, tf.Tensor]]],
) -> None:
    """Sets `grads` of every site: V carried back from the outputs to z.

    Args:
        plan: That of the model.
        tape: The persistent tape of the recorded pass.
        sites: Its sites.
        groups: For each group of columns, `(outputs, V)` pairs with V of shape `(R_g, *outputs.shape)`;
            the columns of one group reach all its outputs together, different groups are stacked.
    """
    zs = [floating(site.z) for site in sites]
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
            columns.append(map_rows(back, vectors, plan.vectorizes))
    stacked = [tf.concat(parts, 0) if len(parts) > 1 else parts[0] for parts in zip(*columns)]
    # Products of half-precision gradients would under- and overflow.
    stacked = [tf.cast(g, tf.float32) if g.dtype.size < 4 else g for g in stacked]
    # What a loop has lost of the static shape.
    stacked = [tf.ensure_shape(g, [g.shape[0], *z.shape]) for g, z in zip(stacked, flat)]
    for site, site_zs in zip(sites, zs):
        site.grads, stacked = stacked[: len(site_zs)], stacked[len(site_zs) :]


def map_rows(function: Callable, elements: tuple, vectorizes: bool) -> list[tf.Tensor]:
    """`function`, which returns a list of tensors, over the first axis of all `elements`, stacked."""
    if vectorizes:
        return tf.vectorized_map(function, elements, fallback_to_while_loop=True)

    @tf.function(autograph=False)  # or every turn of the loop would be compiled anew
    def loop():
        first = function(tuple(t[0] for t in elements))
        like = [tf.TensorSpec(t.shape, t.dtype) for t in first]
        return tf.map_fn(function, elements, fn_output_signature=like)

    return loop()
