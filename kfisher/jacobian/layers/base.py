"""Rules: a layer's block of U from its calls, for any layer, and for affine ones.

A rule owns the variables of one layer and all layer_calls where it was called. With U the rows of the
square-root factor (one row for each of the R vectors of each of the N examples) it gives

    rows()       U itself, split by variable
    matvec(v)    U v
    rmatvec(u)   Uᵀ u
    gram(c)      Σ_i c_i U_i U_iᵀ over the variables i of the layer

and, for curvatures that run over batches, the blocks that its variables fall into, and what the examples
contribute to each (see outer_products.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._common.rows import map_rows
from kfisher._keras.state import raw_state_of, unnoticed
from kfisher.jacobian.layer_calls import LayerCall, floating, gathered_call, repeat
from kfisher.jacobian.layers.blocks import Block, Piece
from kfisher.jacobian.layers.outer_products import Formed
from kfisher.jacobian.plan import Tap


class Rule:
    """Any layer: per-example gradients, by running the layer again on each example alone.

    A layer that draws random numbers, or otherwise changes its state when called, is run again on the
    whole batch instead, once for each row. Exact, but U is formed.
    """

    name = "per example"

    def __init__(self, variables: list[keras.Variable], layer_calls: list[LayerCall]):
        self.variables = variables
        self.layer_calls = layer_calls
        self._kept: dict[Any, list[tf.Tensor]] = {}  # by graph; `None` stands for none

    @classmethod
    def applies(cls, tap: Tap) -> bool:
        """True if this rule knows the layer: its `call`, and every trainable variable in it."""
        return True

    @classmethod
    def structure(cls, variables: list[keras.Variable], layers: list[keras.layers.Layer]) -> list[Block]:
        """The blocks of `variables`, all those of `layers`: one for each, a matrix if it has two axes."""
        return [formed([v]) for v in variables]

    def outer_products(self) -> list[tuple[Block, Any]]:
        """Each block of `structure` with what the examples contribute to it."""
        rows = {id(v): u for v, u in zip(self.variables, self.rows())}
        layers = [layer_call.layer for layer_call in self.layer_calls]
        return [
            (block, Formed(block.to_matrix([rows[id(v)] for v in block.variables], 2)))
            for block in self.structure(self.variables, layers)
        ]

    def rows(self) -> list[tf.Tensor]:
        """U split by variable, each `(R, N, *variable.shape)`; made once, for the graph that asks first."""
        return self.once(self._make_rows)

    def prepare(self) -> None:
        """Makes what all products need, so that it is made once."""
        if type(self).outer_products is Rule.outer_products:
            self.rows()

    def once(self, make: Callable[[], list[tf.Tensor]]) -> list[tf.Tensor]:
        """What `make` returns; called once, for the graph that asks first."""
        own = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        graph = own
        while graph is not None and graph not in self._kept:  # what an outer graph has is there in inner ones
            graph = getattr(graph, "outer_graph", None)
        if graph not in self._kept:  # nor was it made eagerly
            self._kept[own] = make()
            graph = own
        return self._kept[graph]

    def of_all(self, kept: dict) -> Rule:
        """The rule of the whole batch, whose parts are on several replicas.

        Args:
            kept: Tensors that were gathered for another rule, by `id`, beside the whole.
        """
        whole = Rule(self.variables, self.layer_calls)
        whole.once(lambda: [replicas.gathered(u, 1) for u in self.rows()])
        return whole

    def of_gathered_calls(self, kept: dict) -> Rule:
        """The same, where inputs and gradients say all: they are less than the rows that they make."""
        return type(self)(self.variables, [gathered_call(call, kept) for call in self.layer_calls])

    def _make_rows(self) -> list[tf.Tensor]:
        rows = []
        for layer_call in self.layer_calls:
            with unnoticed(raw_state_of(layer_call.layer)):
                rows.append(self._rows_of_call(layer_call))
        return [tf.add_n(list(p)) if len(p) > 1 else p[0] for p in zip(*rows)]

    def matvec(self, vectors: list[tf.Tensor]) -> tf.Tensor:
        """U v, shape `(R, N)`, for v given as tensors in the shapes of the variables."""
        return tf.add_n([_contract(u, v) for u, v in zip(self.rows(), vectors)])

    def rmatvec(self, coefficients: tf.Tensor) -> list[tf.Tensor]:
        """Uᵀ u in the shapes of the variables, for u of shape `(R, N)`."""
        return [tf.tensordot(tf.cast(coefficients, u.dtype), u, 2) for u in self.rows()]

    def gram(self, scales: list[tf.Tensor]) -> tf.Tensor:
        """Σ_i scales[i] U_i U_iᵀ, shape `(R N, R N)`."""
        return tf.add_n([c * outer(u) for c, u in zip(scales, self.rows())])

    def _rows_of_call(self, layer_call: LayerCall) -> list[tf.Tensor]:
        count, size = tf.shape(layer_call.grads[0])[0], tf.shape(layer_call.grads[0])[1]
        # The pairs (r, n) in one axis; the inputs of example n go with each of its R vectors.
        grads = [tf.reshape(g, tf.concat([[count * size], tf.shape(g)[2:]], 0)) for g in layer_call.grads]
        if not layer_call.repeatable:
            example = tf.tile(tf.range(size), [count])
            rows = map_rows(
                lambda e: self._whole_batch_gradient(layer_call, e[0], e[1:]),
                (example, *grads),
                layer_call.vectorizes,
            )
        else:
            inputs, rebuild = split_tensors(layer_call)
            tiled = [tf.tile(t, tf.concat([[count], tf.ones_like(tf.shape(t))[1:]], 0)) for t in inputs]
            rows = map_rows(
                lambda e: self._example_gradient(layer_call, rebuild, e[: len(tiled)], e[len(tiled) :]),
                (*tiled, *grads),
                layer_call.vectorizes,
            )
        shape = tf.stack([count, size])
        rows = [tf.reshape(u, tf.concat([shape, tf.shape(u)[1:]], 0)) for u in rows]
        return [tf.cast(u, grads[0].dtype) for u in rows]

    def _example_gradient(self, layer_call: LayerCall, rebuild: Any, inputs: Any, grads: Any) -> Any:
        # Never one example alone where `pull_back` must not have one: a second that nothing comes from.
        others = 1 if layer_call.broadcasts else 0
        args, kwargs = rebuild([tf.stack([t] * (1 + others)) for t in inputs])
        grads = [tf.stack([g] + [tf.zeros_like(g)] * others) for g in grads]
        return vjp(layer_call, self.variables, grads, args, kwargs)

    def _whole_batch_gradient(self, layer_call: LayerCall, example: Any, grads: Any) -> Any:
        size = tf.shape(layer_call.grads[0])[1]
        placed = [tf.tensordot(tf.one_hot(example, size, dtype=g.dtype), g, 0) for g in grads]
        return vjp(layer_call, self.variables, placed, layer_call.args, layer_call.kwargs)


def formed(variables: list[keras.Variable]) -> Block:
    """The block of one variable as a matrix, or of several as one vector."""
    pieces = []
    for v in variables:
        outputs = v.shape[-1] if len(variables) == 1 and len(v.shape) > 1 else math.prod(v.shape)
        shape = (math.prod(v.shape) // outputs, outputs)
        pieces.append(Piece(v, shape, (0, 1), (1, *shape)))
    return Block(tuple(pieces), "formed")


class AffineRule(Rule):
    """A layer whose output is affine in its parameters: J v is the layer itself with v for parameters.

    `parameters` are the attribute names of those parameters; one that is frozen counts as zero.
    """

    parameters: tuple[str, ...] = ()
    layers: tuple[type[keras.layers.Layer], ...] = ()

    @classmethod
    def applies(cls, tap: Tap) -> bool:
        layer = tap.layer
        known = {id(v) for v in cls.parameters_of(layer).values()}
        return any(type(layer).call is kind.call for kind in cls.layers) and known >= {
            id(v) for v in layer.trainable_variables
        }

    @classmethod
    def parameters_of(cls, layer: keras.layers.Layer) -> dict[str, keras.Variable]:
        found = {name: getattr(layer, name, None) for name in cls.parameters}
        return {name: v for name, v in found.items() if isinstance(v, keras.Variable)}

    def matvec(self, vectors: list[tf.Tensor]) -> tf.Tensor:
        given = {id(v): vector for v, vector in zip(self.variables, vectors)}
        parameters = self.parameters_of(self.layer_calls[0].layer).values()
        values = [given.get(id(v), tf.zeros(v.shape, v.dtype)) for v in parameters]
        products = []
        for layer_call in self.layer_calls:
            z = run(layer_call, list(zip(parameters, values)), layer_call.args, layer_call.kwargs)
            products.append(_contract(layer_call.grads[0], z))
        return tf.add_n(products)

    def rmatvec(self, coefficients: tf.Tensor) -> list[tf.Tensor]:
        totals = []
        for layer_call in self.layer_calls:
            combined = combine(coefficients, layer_call.grads[0])
            totals.append(vjp(layer_call, self.variables, [combined], layer_call.args, layer_call.kwargs))
        return [tf.add_n(list(parts)) for parts in zip(*totals)]


def run(layer_call: LayerCall, values: list, args: tuple, kwargs: dict) -> tf.Tensor:
    """The pre-activation output again, with `(variable, value)` pairs for some variables.

    In the dtype of the variables: a mixed policy does not apply.
    """
    dtype = layer_call.layer.variable_dtype

    def cast(t: Any) -> Any:
        return tf.cast(t, dtype) if tf.is_tensor(t) and t.dtype.is_floating else t

    args, kwargs = keras.tree.map_structure(cast, (args, kwargs))
    return repeat(layer_call, values, args, kwargs)


def split_tensors(layer_call: LayerCall) -> tuple[list[tf.Tensor], Callable]:
    """The arguments of a call that have the batch axis, and how to put others in their place."""
    structure = (layer_call.args, layer_call.kwargs)
    flat = keras.tree.flatten(structure)

    def rebuild(tensors: Any) -> Any:
        tensors = iter(tensors)
        mixed = [next(tensors) if b else t for t, b in zip(flat, layer_call.batched, strict=True)]
        return keras.tree.pack_sequence_as(structure, mixed)

    return [t for t, b in zip(flat, layer_call.batched, strict=True) if b], rebuild


def vjp(
    layer_call: LayerCall, variables: Any, grads: list[tf.Tensor], args: tuple, kwargs: dict
) -> list[tf.Tensor]:
    """Jᵀ g for one call: the gradient of sum(z * g) with respect to the layer's variables."""
    values = [tf.convert_to_tensor(v.value) for v in variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        z = floating(run(layer_call, list(zip(variables, values)), args, kwargs))
    found = tape.gradient(z, values, [tf.cast(g, t.dtype) for g, t in zip(grads, z)], "zero")
    return [tf.convert_to_tensor(g) for g in found]  # that of a looked-up variable comes as slices


def outer(u: tf.Tensor) -> tf.Tensor:
    """U Uᵀ for `(R, N, ...)` rows, shape `(R N, R N)`."""
    flat = tf.reshape(u, [tf.shape(u)[0] * tf.shape(u)[1], -1])
    return tf.matmul(flat, flat, transpose_b=True)


def combine(coefficients: tf.Tensor, grads: tf.Tensor) -> tf.Tensor:
    """Σ_r u_rn g_rn for `(R, N)` coefficients and `(R, N, ...)` gradients, shape `(N, ...)`."""
    shape = [grads.shape[0], grads.shape[1], *[1] * (grads.shape.rank - 2)]
    if shape.count(None) < 2:
        weights = tf.reshape(coefficients, [-1 if n is None else n for n in shape])
    else:
        weights = tf.reshape(coefficients, tf.concat([tf.shape(coefficients), shape[2:]], 0))
    weighted = tf.cast(weights, grads.dtype) * grads
    return tf.squeeze(weighted, 0) if shape[0] == 1 else tf.reduce_sum(weighted, 0)


def _contract(rows: tf.Tensor, vector: tf.Tensor) -> tf.Tensor:
    """sum over all axes behind the first two, `vector` broadcast over R (and N unless it has it)."""
    axes = list(range(2, rows.shape.rank))
    return tf.reduce_sum(rows * tf.cast(vector, rows.dtype), axes)
