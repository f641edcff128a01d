"""SimpleRNN, LSTM and GRU: a matrix product with the input, and one with the state, at every time step.

With d the gradient at the gates before their activations, a row of the kernel is Σ_t x_t ⊗ d_t, one of the
recurrent kernel Σ_t h_{t-1} ⊗ d_t. To get at d the layer runs once more on the products x_t W, with the
identity in the place of W: the gradient at such an input is d. Martens, Ba & Johnson 2018.
"""

from __future__ import annotations

import contextlib
import inspect
from typing import Any

import keras
import tensorflow as tf

from kfisher._common import replicas
from kfisher._keras.calls import in_mode
from kfisher._keras.patching import replaced
from kfisher.jacobian.layer_calls import LayerCall, floating
from kfisher.jacobian.layers.base import formed, split_tensors
from kfisher.jacobian.layers.blocks import Block, Piece, matrix
from kfisher.jacobian.layers.outer_products import Formed, Positions
from kfisher.jacobian.layers.sums import SumRule


class RecurrentRule(SumRule):
    """SimpleRNN, LSTM, and GRU(reset_after=True), one call each, without dropout inside.

    The bias of SimpleRNN and LSTM is one block with both kernels; that of GRU, one number more for each gate,
    has its own.
    """

    name = "recurrent"

    @classmethod
    def applies(cls, tap: Any) -> bool:
        layer = tap.layer
        known = any(type(layer).call is kind.call for kind in _LAYERS)
        if not known or type(layer.cell) not in _CELLS or len(tap.calls) != 1 or layer.stateful:
            return False
        if layer.dropout or layer.recurrent_dropout or not getattr(layer, "reset_after", True):
            return False
        return {id(v) for v in tap.variables} <= {id(v) for v in _parameters(layer)}

    @classmethod
    def structure(cls, variables: Any, layers: Any) -> list[Block]:
        layer = layers[0]
        pieces, alone = [], []
        for variable in variables:
            if len(variable.shape) == 1:
                pieces.append(Piece(variable, tuple(variable.shape), (0,), (1, 1, variable.shape[0])))
            elif variable is layer.cell.bias:
                alone.append(formed([variable]))
            else:
                pieces.append(matrix(variable))
        if isinstance(layer, keras.layers.GRU):  # the two kernels have gradients of their own
            return [Block((piece,)) for piece in pieces] + alone
        return ([Block(tuple(pieces))] if pieces else []) + alone

    def outer_products(self) -> Any:
        found: list[tuple[Block, Any]] = []
        for block in self.structure(self.variables, [self.layer_calls[0].layer]):
            if block.form == "formed":
                rows = self.formed_rows(block.variables[0])
                found.append((block, Formed(block.to_matrix([rows], 2))))
                continue
            inputs: list[Any] = []
            for variable in block.variables:
                sides = self.sides(variable)
                if sides is None:
                    inputs.append(tf.ones_like(inputs[0][..., :1]) if inputs else None)
                else:
                    left, right = sides
                    inputs.append(left[0])
            if inputs[0] is None:  # only the bias
                right = self._gates()[2]
                inputs = [tf.ones_like(right[0, :, :, :1])]
            a = tf.concat(inputs, -1)
            found.append((block, Positions(a[:, :, tf.newaxis], right[:, :, :, tf.newaxis])))
        return found

    def prepare(self) -> None:
        self._gates()

    def of_all(self, kept: dict) -> Any:
        inputs, states, at_inputs, at_states = self._gates()
        whole = RecurrentRule(self.variables, self.layer_calls)
        gathered = [replicas.gathered(inputs), replicas.gathered(states), replicas.gathered(at_inputs, 1)]
        same = at_states is at_inputs
        gathered.append(gathered[-1] if same else replicas.gathered(at_states, 1))
        whole.once(lambda: gathered)
        return whole

    def sides(self, variable: Any) -> Any:
        cell = self.layer_calls[0].layer.cell
        inputs, states, at_inputs, at_states = self._gates()
        if variable is cell.kernel:
            return inputs[tf.newaxis], at_inputs
        return (states[tf.newaxis], at_states) if variable is cell.recurrent_kernel else None

    def formed_rows(self, variable: Any) -> Any:
        """Of the bias."""
        _, _, at_inputs, at_states = self._gates()
        summed = [tf.reduce_sum(g, 2) for g in (at_inputs, at_states)]
        return summed[0] if len(variable.shape) == 1 else tf.stack(summed, 2)

    def _gates(self) -> list[tf.Tensor]:
        """x and h_{t-1}, `(N, T, ...)`, and the gradients at their products, `(R, N, T, ...)`."""
        return self.once(lambda: _gates_of(self.layer_calls[0]))


_LAYERS = (keras.layers.SimpleRNN, keras.layers.LSTM, keras.layers.GRU)
_CELLS = (keras.layers.SimpleRNNCell, keras.layers.LSTMCell, keras.layers.GRUCell)


def _parameters(layer: Any) -> list[keras.Variable]:
    cell = layer.cell
    return [cell.kernel, cell.recurrent_kernel, *([] if cell.bias is None else [cell.bias])]


def _gates_of(call: LayerCall) -> list[tf.Tensor]:
    layer: Any = call.layer
    cell, dtype = layer.cell, layer.variable_dtype
    grads = [tf.cast(g, dtype) for g in call.grads]
    count, size = tf.shape(grads[0])[0], tf.shape(grads[0])[1]
    arguments, rebuild = split_tensors(call)
    arguments = [tf.cast(t, dtype) if t.dtype.is_floating else t for t in arguments]

    def run(products: Any, repeats: Any, **options: Any) -> Any:
        """The layer on products x W, with everything as often as there are vectors."""
        repeated = [tf.tile(t, tf.concat([[repeats], tf.ones_like(tf.shape(t))[1:]], 0)) for t in arguments]
        args, kwargs = rebuild(repeated)
        bound = inspect.signature(type(layer).call).bind(layer, *args, **kwargs)
        bound.arguments["sequences"] = products
        with keras.StatelessScope() as scope, contextlib.ExitStack() as stack:
            scope.state_mapping = dict(call.state)
            scope.add_update((cell.kernel, tf.eye(cell.kernel.shape[1], dtype=dtype)))
            for name, value in options.items():
                stack.enter_context(replaced(layer, name, value))
            return in_mode(call.training, lambda: call.call(*bound.args[1:], **bound.kwargs))

    x = arguments[0]
    projected = tf.tensordot(x, tf.convert_to_tensor(cell.kernel.value), 1)
    # 1. The gradients at the products; the pairs (r, n) are one axis.
    products = tf.tile(projected, [count, 1, 1])
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(products)
        z = floating(run(products, count))
    flat = [tf.reshape(g, tf.concat([[count * size], tf.shape(g)[2:]], 0)) for g in grads]
    flat = [tf.cast(g, t.dtype) for g, t in zip(flat, z)]
    at_inputs = tape.gradient(z, products, flat, "zero")
    at_inputs = tf.reshape(at_inputs, tf.concat([[count, size], tf.shape(at_inputs)[1:]], 0))
    at_inputs = tf.ensure_shape(at_inputs, [grads[0].shape[0], *projected.shape])
    # 2. The states before each step, in the order of the inputs.
    options = {"return_sequences": True, "return_state": False, "zero_output_for_mask": False}
    after = tf.cast(run(projected, 1, **options), dtype)
    start = _initial_state(layer, call)
    first = tf.zeros_like(after[:, 0]) if start is None else tf.cast(start, dtype)
    states = tf.concat([first[:, tf.newaxis], after[:, :-1]], 1)
    states = tf.reverse(states, [1]) if layer.go_backwards else states
    if not isinstance(layer, keras.layers.GRU):
        return [x, states, at_inputs, at_inputs]
    return [x, states, at_inputs, _behind_the_reset_gate(layer, projected, states, at_inputs)]


def _initial_state(layer: Any, call: LayerCall) -> tf.Tensor | None:
    bound = inspect.signature(type(layer).call).bind(layer, *call.args, **call.kwargs)
    given = keras.tree.flatten(bound.arguments.get("initial_state"))
    return given[0] if given else None


def _behind_the_reset_gate(layer: Any, projected: Any, states: Any, at_inputs: Any) -> tf.Tensor:
    """The gradient at the products with the state: of the candidate it is the reset gate times as much."""
    cell, units = layer.cell, layer.units
    inner = tf.tensordot(states, tf.convert_to_tensor(cell.recurrent_kernel.value), 1)
    before = (projected + inner)[..., units : 2 * units]
    if cell.bias is not None:
        before += tf.reduce_sum(tf.convert_to_tensor(cell.bias.value), 0)[units : 2 * units]
    reset = tf.cast(cell.recurrent_activation(before), at_inputs.dtype)
    ones = tf.ones_like(reset)
    return at_inputs * tf.concat([ones, ones, reset], -1)
